"""What a sweep draws from, and that the same runs are drawn always and everywhere."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import ladle.sweep
from ladle.errors import BadInput, MissingExtra
from ladle.sweep import Choice, Constant, Off, Space, Uniform, Whole
from ladle.sweep.points import POINTS
from ladle.sweep.space import LIMITS, PRESETS

SOURCES = Path(ladle.sweep.__file__).parents[2]
TOML = """
lr = {log_uniform = [1e-5, 1e-4]}
epochs = {uniform = [2, 5]}
weight_decay = 0.01
batch_size = {log_uniform = [8, 64]}
dropout = {uniform = [0, 0.2]}
mixup = {uniform = [0.1, 0.9], off = 0.5}
augmentation = {choice = ["rand-m9-n2", 0.3], off = 0.25}
schedule = "linear"
"""


def test_a_space_is_read_from_toml(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(TOML)
    assert Space.read(path) == Space(
        lr=Uniform(1e-5, 1e-4, log=True),
        epochs=Whole(2, 5),
        weight_decay=Constant(0.01),
        batch_size=Whole(8, 64, log=True),
        dropout=Uniform(0.0, 0.2),
        mixup=Off(0.5, Uniform(0.1, 0.9)),
        augmentation=Off(0.25, Choice(("rand-m9-n2", 0.3))),
        schedule=Constant("linear"),
    )
    assert Space.named_or_read(str(path)) == Space.read(path)


def test_a_space_can_be_like_a_preset_but_for_some_keys(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text('like = "paper-vision"\nbatch_size = 32\n')
    assert Space.read(path) == replace(Space.named_or_read("paper-vision"), batch_size=Constant(32))


@pytest.mark.parametrize(
    "space",
    [
        Space(),
        Space(lr=Constant(1), dropout=Choice((None, 0.1))),
        Space(epochs=Whole(1, 3), mixup=Off(0.5, Uniform(0.0, 0.9)), sam=Off(0, Choice((0.05,)))),
        *(Space.named_or_read(name) for name in PRESETS),
    ],
)
def test_a_space_survives_json(space):
    assert Space.from_table(json.loads(json.dumps(space.to_table()))) == space


# ---- distributions


@given(share=st.floats(0, 1, exclude_max=True))
def test_every_value_lies_in_its_distribution(share):
    assert Choice((1, 2, 3)).at(share) in (1, 2, 3)
    assert 1e-5 <= Uniform(1e-5, 1e-4, log=True).at(share) <= 1e-4
    assert 0.12345 <= Uniform(0.12345, 0.12346).at(share) <= 0.12346
    assert Whole(4, 6).at(share) in (4, 5, 6)
    assert Whole(1, 64, log=True).at(share) in range(1, 65)
    off = Off(0.4, Uniform(0.1, 0.9)).at(share)
    assert off == 0 if share < 0.4 else 0.1 <= off <= 0.9


def counted(distribution, draws=3000):
    """How often each value comes, of as many shares spread evenly."""
    values = [distribution.at((i + 0.5) / draws) for i in range(draws)]
    return {value: values.count(value) for value in dict.fromkeys(values)}


def test_each_choice_is_as_likely_unless_it_is_there_twice():
    assert counted(Choice(("a", "b", "c"))) == {"a": 1000, "b": 1000, "c": 1000}
    assert counted(Choice(("a", "b", "a"))) == {"a": 2000, "b": 1000}


def test_each_whole_number_is_as_likely_the_last_too():
    assert counted(Whole(4, 6)) == {4: 1000, 5: 1000, 6: 1000}


def test_whole_numbers_in_the_logarithm_take_their_share_of_it():
    # From 0.5 to 4.5, of which ln(1.5/0.5) / ln(4.5/0.5) = 1/2 are nearest to 1.
    found = counted(Whole(1, 4, log=True))
    assert found[1] == 1500
    assert found[2] == pytest.approx(3000 * np.log(2.5 / 1.5) / np.log(9), abs=2)


def test_off_takes_its_share_and_leaves_the_shape_of_the_rest():
    found = counted(Off(0.4, Choice((0.1, 0.2, 0.3))))
    assert found == {0.0: 1200, 0.1: 600, 0.2: 600, 0.3: 600}


def test_a_logarithm_has_as_many_below_the_geometric_mean_as_above_it():
    assert Uniform(1e-6, 1e-4, log=True).at(0.5) == 1e-5
    assert Uniform(0, 1).at(0.5) == 0.5


def test_numbers_are_short_enough_to_read():
    assert Uniform(0, 1).at(0.123456) == 0.123


# ---- the runs of a sweep


def grid():
    return Space(
        lr=Choice((1e-5, 3e-5)),
        weight_decay=Constant(0.1),
        epochs=Whole(2, 4),
        label_smoothing=Off(0.5, Choice((0.1,))),
        augmentation=Constant(0.0),
    )


@pytest.mark.parametrize("points", POINTS)
def test_run_i_is_the_same_however_many_are_asked_for(points):
    runs = grid().runs(3, 12, points)
    for count in (0, 1, 5, 11):
        assert grid().runs(3, count, points) == runs[:count]
    assert grid().runs(4, 12, points) != runs
    assert len({run.seed for run in runs}) == 12


@given(
    seed=st.integers(0, 2**70),
    count=st.integers(0, 6),
    more=st.integers(0, 6),
    points=st.sampled_from(("random", "sobol")),
)
def test_more_runs_only_add_to_fewer(seed, count, more, points):
    space = Space(dropout=Uniform(0, 0.2), mixup=Off(0.5, Uniform(0, 1)))
    assert space.runs(seed, count + more, points)[:count] == space.runs(seed, count, points)


RANDOM = [
    (4.16e-05, 0.000298, 15, 0.707, 0.123, 2029167941),
    (3.19e-05, 0.000829, 12, 0.0, 0.276, 1868869222),
    (4.43e-05, 0.000601, 11, 0.455, 0.437, 604133646),
]
SOBOL = [
    (1.23e-05, 0.00215, 14, 0.0297, 0.0443, 2029167941),
    (3.44e-05, 0.0333, 7, 0.0, 0.324, 1868869222),
    (9.4e-05, 0.000111, 12, 0.0, 0.487, 604133646),
]


@pytest.mark.parametrize(("points", "expected"), [("random", RANDOM), ("sobol", SOBOL)])
def test_runs_stay_what_they_are_with_other_versions_of_libraries(points, expected):
    # The same with Optuna 4.3, SciPy 1.11 and NumPy 1.26. With others, sweeps would change midway.
    space = Space(epochs=Whole(4, 16), mixup=Off(0.5, Uniform(0, 0.9)))
    runs = space.runs(7, 3, points)
    found = [(r.lr, r.weight_decay, r.epochs, r.mixup, r.augmentation, r.seed) for r in runs]
    assert found == expected


def test_a_grid_stays_in_its_order_with_other_versions_of_libraries():
    found = [(run.lr, run.epochs, run.label_smoothing) for run in grid().runs(7, 3, "grid")]
    assert found == [(3e-5, 3, 0.1), (1e-5, 2, 0.1), (1e-5, 2, 0.0)]


def test_every_process_draws_the_same_runs():
    code = (
        "from ladle.sweep import Space\n"
        "for points in ('random', 'sobol'):\n"
        "    print(Space.named_or_read('paper-vision').runs(5, 9, points))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(SOURCES)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "01"
    }
    assert len(said) == 1


def test_other_keys_keep_their_draws_when_one_becomes_constant():
    # So that spaces can be compared run by run.
    runs = Space().runs(0, 5)
    fixed = Space(weight_decay=Constant(0.05)).runs(0, 5)
    assert fixed == [replace(run, weight_decay=0.05) for run in runs]
    assert len({run.lr for run in runs}) == 5


@pytest.mark.parametrize("points", ["random", "sobol"])
def test_every_run_lies_in_the_space(points):
    for space in (Space(), *(Space.named_or_read(name) for name in PRESETS)):
        for run in space.runs(0, 64, points):
            assert all(getattr(run, key) in limits for key, limits in LIMITS.items())


def test_random_runs_are_random():
    runs = Space(dropout=Uniform(0, 0.2)).runs(1, 500)
    columns = [np.log([run.lr for run in runs]), [run.dropout for run in runs]]
    columns.append([run.label_smoothing for run in runs])
    for column in columns:
        low, high = np.min(column), np.max(column)
        assert stats.kstest(column, stats.uniform(low, high - low).cdf).pvalue > 0.01
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert stats.pearsonr(columns[i], columns[j]).pvalue > 0.01


def test_sobol_points_cover_the_space_more_evenly_than_random_ones():
    # Each cell of a grid of 4 by 4 gets exactly one point of 16, each quarter of a third its four.
    runs = Space(
        weight_decay=Constant(0), label_smoothing=Constant(0), epochs=Constant(1),
        augmentation=Constant(0), dropout=Uniform(0, 0.2), warm_up=Uniform(0, 0.8),
    ).runs(2, 16, "sobol")  # fmt: skip
    shares = [(np.log10(run.lr) + 5, run.dropout / 0.2, run.warm_up / 0.8) for run in runs]
    assert len({(int(lr * 4), int(dropout * 4)) for lr, dropout, _ in shares}) == 16
    assert np.histogram([share[2] for share in shares], 4, (0, 1))[0].tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("points", POINTS)
def test_a_space_without_choice_has_one_configuration(points):
    space = Space(**{key: Constant(getattr(Space().runs(0, 1)[0], key)) for key in LIMITS})
    assert len({replace(run, seed=0) for run in space.runs(0, 1, points)}) == 1


def test_a_grid_is_every_combination_once():
    runs = grid().runs(0, 12, "grid")
    assert {(r.lr, r.epochs, r.label_smoothing) for r in runs} == set(
        product((1e-5, 3e-5), (2, 3, 4), (0.0, 0.1))
    )
    assert [r.lr for r in runs] != sorted(r.lr for r in runs)


def test_a_grid_has_no_more_points_than_it_has():
    with pytest.raises(BadInput, match="the grid has 12 points, fewer than 13 runs"):
        grid().runs(0, 13, "grid")
    doubled = replace(grid(), lr=Choice((1e-5, 1e-5)))
    with pytest.raises(BadInput, match="the grid has 6 points"):
        doubled.runs(0, 7, "grid")
    huge = replace(grid(), epochs=Whole(1, 10**9))
    with pytest.raises(BadInput, match="too many to list"):
        huge.runs(0, 7, "grid")


def test_what_cannot_be_listed_has_no_grid():
    space = replace(grid(), weight_decay=Off(0.5, Uniform(0, 0.1)))
    with pytest.raises(BadInput, match="weight_decay is not from a list"):
        space.runs(0, 2, "grid")


def test_points_of_an_unknown_kind_and_negative_seeds_are_refused():
    with pytest.raises(BadInput, match="no points 'halton'"):
        Space().runs(0, 1, "halton")
    with pytest.raises(BadInput, match="at least 0, not -1"):
        Space().runs(-1, 1)


@pytest.mark.parametrize(("module", "points"), [("optuna", "random"), ("scipy", "sobol")])
def test_a_missing_library_is_named(monkeypatch, module, points):
    if module == "optuna":
        monkeypatch.setitem(sys.modules, "optuna", None)
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=rf"{module} is not installed.*ladle\[sweep\]"):
        Space().runs(0, 1, points)


def test_drawing_leaves_optuna_as_it_was():
    before = optuna.logging.get_verbosity()
    for points in POINTS:
        grid().runs(0, 3, points)
    assert optuna.logging.get_verbosity() == before == logging.INFO


# ---- what is refused


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("weight_decy = 1", "'weight_decy'; did you mean 'weight_decay'"),
        ("seed = 1", "'seed'; did you mean"),
        ("lr = 0", "lr in .* can be 0; it takes numbers above 0"),
        ("lr = {uniform = [1e-4, 1e-5]}", r"write \[low, high\]"),
        ("lr = {log_uniform = [0, 1]}", "both above 0"),
        ("lr = {log_uniform = [1e-4]}", r"write \[low, high\]"),
        ("lr = {uniform = 'ab'}", "write a list of values"),
        ("lr = {normal = [0, 1]}", "write a value, or one of"),
        ("lr = {uniform = [1, 2], choice = [1]}", "write a value, or one of"),
        ("lr = {off = 0.5}", "write a value, or one of"),
        ("lr = 'big'", "can be 'big'"),
        ("lr = nan", "can be nan"),
        ("lr = {choice = [1e-5], off = 0.5}", "lr in .* can be 0.0; it takes numbers above 0"),
        ("epochs = {choice = [2], off = 0.5}", "can be 0.0; it takes whole numbers"),
        ("mixup = {uniform = [0, 1], off = 1}", "is off in 1 of the runs; write a share"),
        ("mixup = {uniform = [0, 1], off = -0.1}", "at least 0 and below 1"),
        ("mixup = {uniform = [0, 1], off = true}", "is off in True"),
        ("mixup = {uniform = [0, 1], off = nan}", "is off in nan"),
        ("epochs = 2.5", "can be 2.5; it takes whole numbers at least 1"),
        ("epochs = {uniform = [1.5, 3]}", "can be 1.5; it takes whole numbers"),
        ("epochs = {uniform = [0, 3]}", "can be 0; it takes whole numbers"),
        ("epochs = true", "can be True"),
        ("epochs = {choice = []}", "write a list of values"),
        ("dropout = {uniform = [0, 1]}", "can be 1.0; it takes numbers at least 0 and below 1"),
        ("schedule = 'cosin'", "can be 'cosin'; it takes the words cosine, linear, constant"),
        ("schedule = {uniform = [0, 1]}", "can be 0.0; it takes the words"),
        ("augmentation = 2", "can be 2; it takes numbers at least 0 and at most 1, and names"),
        ("augmentation = ''", "can be ''"),
        ("like = 'paper-vison'", r"like 'paper-vison' \(did you mean 'paper-vision'\?\)"),
        ("like = 3", "like 3"),
        ("like = ['paper-text']", "name a preset"),
        ("lr = ", "is not TOML"),
    ],
)
def test_a_wrong_space_is_refused_with_the_reason(toml, says, tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(toml)
    with pytest.raises(BadInput, match=says) as error:
        Space.read(path)
    assert "space.toml" in str(error.value)


def test_a_space_file_must_exist(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        Space.read(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="does not exist"):
        Space.named_or_read(str(tmp_path / "none.toml"))


def test_a_name_that_no_space_has_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match=r"no space 'papertext' \(did you mean 'paper-text'\?\)"):
        Space.named_or_read("papertext")
    with pytest.raises(BadInput, match=r"no space 'xyz' \(known: paper-text, paper-vision\)"):
        Space.named_or_read("xyz")


def test_a_space_needs_neither_torch_nor_optuna_until_it_is_drawn_from():
    code = (
        "import sys, ladle.sweep\n"
        "space = ladle.sweep.Space.named_or_read('paper-vision')\n"
        "print('torch' in sys.modules, 'optuna' in sys.modules)\n"
        "space.runs(0, 1)\n"
        "print('torch' in sys.modules, 'optuna' in sys.modules)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == ["False", "False", "False", "True"]
    assert process.stderr == ""
