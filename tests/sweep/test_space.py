"""What a sweep draws from."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ladle.errors import BadInput
from ladle.sweep import Choice, Constant, Space, Uniform
from ladle.sweep.space import LIMITS

TOML = """
lr = {log_uniform = [1e-5, 1e-4]}
epochs = {choice = [2, 3]}
weight_decay = 0.01
dropout = {uniform = [0, 0.2]}
"""


def test_a_space_is_read_from_toml(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(TOML)
    assert Space.read(path) == Space(
        lr=Uniform(1e-5, 1e-4, log=True),
        epochs=Choice((2, 3)),
        weight_decay=Constant(0.01),
        dropout=Uniform(0.0, 0.2),
    )


@pytest.mark.parametrize("space", [Space(), Space(lr=Constant(1), dropout=Choice((None, 0.1)))])
def test_a_space_survives_json(space):
    assert Space.from_table(json.loads(json.dumps(space.to_table()))) == space


def test_every_draw_lies_in_the_space():
    space = Space(dropout=Uniform(0.0, 0.2))
    runs = [space.draw(0, number) for number in range(300)]
    for run in runs:
        assert 1e-5 <= run.lr <= 1e-4
        assert run.epochs in (2, 3, 4)
        assert run.batch_size == 32
        assert all(getattr(run, key) in limits for key, limits in LIMITS.items())
    # Uniform in the logarithm: as many below the geometric mean as above it.
    assert 110 < sum(run.lr < 10**-4.5 for run in runs) < 190
    assert 60 < sum(run.dropout > 0.15 for run in runs) < 90
    assert {run.epochs for run in runs} == {2, 3, 4}
    assert len({run.seed for run in runs}) == 300


def test_drawn_numbers_are_short_enough_to_read():
    run = Space().draw(0, 0)
    assert run.lr == float(f"{run.lr:.3g}")


def test_a_run_depends_on_seed_and_number_alone():
    assert Space().draw(3, 1) == Space().draw(3, 1)
    assert len({Space().draw(seed, number) for seed in range(4) for number in range(4)}) == 16


def test_other_keys_keep_their_draws_when_one_becomes_constant():
    # So that spaces can be compared run by run. A constant draws nothing, so only later keys move.
    narrow = Space(batch_size=Constant(8)).draw(0, 0)
    assert narrow.lr == Space().draw(0, 0).lr


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("weight_decy = 1", "'weight_decy'; did you mean 'weight_decay'"),
        ("seed = 1", "'seed'; did you mean"),
        ("lr = 0", "lr in .* can be 0; it takes numbers above 0"),
        ("lr = {uniform = [1e-4, 1e-5]}", r"write \[low, high\]"),
        ("lr = {log_uniform = [0, 1]}", "both above 0"),
        ("lr = {log_uniform = [1e-4]}", r"write \[low, high\]"),
        ("lr = {normal = [0, 1]}", "write a number, or one of"),
        ("lr = 'big'", "can be 'big'"),
        ("lr = nan", "can be nan"),
        ("epochs = 2.5", "can be 2.5; it takes whole numbers at least 1"),
        ("epochs = {uniform = [1, 3]}", "can be 1.0; it takes whole numbers"),
        ("epochs = true", "can be True"),
        ("epochs = {choice = []}", "write a list of values"),
        ("dropout = {uniform = [0, 1]}", "can be 1.0; it takes numbers at least 0 and below 1"),
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


def test_a_space_needs_no_torch():
    code = "import sys, ladle.sweep; ladle.sweep.Space().draw(0, 0); print('torch' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "False"
