"""`ladle compare`: what it writes and says, what it refuses, and what a second run costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from counted_digits import complaint, passes, run_here, write_counted
from digits import EXAMPLE, make_runs

LADLE = Path(sys.executable).with_name("ladle")
SPLITS = ("held-out", "test", "noisy")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, 3)
    return folder


@pytest.fixture
def task(tmp_path: Path) -> str:
    return write_counted(tmp_path / "counted.py")


def command(runs: Path, task: str, *more: object) -> list[str]:
    files = sorted(map(str, runs.glob("run-*.pt")))
    return ["compare", *files, "--base", str(runs / "base.pt"), "--task", task, *map(str, more)]


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "comparison.json").read_text("utf-8"))


# --- what comes out -----------------------------------------------------------------------------


def test_the_record_and_the_sentences_say_the_same(runs: Path, task: str, tmp_path: Path) -> None:
    done = run_here(*command(runs, task, "-o", tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    record = record_of(tmp_path / "out")
    assert record["version"] == 1
    assert record["task"] == {"name": "digits", "digest": "counted"}
    assert record["metric"] == {"name": "accuracy", "higher_is_better": True}
    assert set(record["splits"]) > {"held-out", "test", "noisy"}
    assert [g["name"] for g in record["groups"]] == list(SPLITS)
    assert [pair["models"] for pair in record["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    # 3 models, 3 pairs at three places, and the soup of all.
    assert passes(task) == [split for _ in range(3 + 9 + 1) for split in SPLITS]
    assert "comparing 3 models in 3 pairs: 3 + 10 soups on held-out, test, noisy" in done.stderr
    assert "are 39 evaluations, 0 of which are in the store" in done.stderr
    shown = record["summary"]["splits"]["test"]
    assert f"{100 * shown['soup']:.2f}" in done.stdout
    assert f"{shown['approximation']['same_sign']} of 3" in done.stdout
    assert f"{shown['approximation']['pearson']:.3f}" in done.stdout
    assert f"{shown['second_order']['pearson']:.3f}" in done.stdout
    assert f"{shown['neglected']:+.4f}" in done.stdout
    angles = [pair["angle"] for pair in record["pairs"]]
    assert f"Angles at the base are {min(angles):.1f}° to {max(angles):.1f}°." in done.stdout
    assert "All 3 models lie in one basin" in done.stdout
    assert "expected calibration error in percent, 15 bins of equal mass" in done.stdout
    assert done.stdout.endswith(f"-> {tmp_path / 'out'}\n")


def test_json_is_the_record_and_nothing_else(runs: Path, task: str, tmp_path: Path) -> None:
    done = run_here(*command(runs, task, "-o", tmp_path / "out", "--json"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["output"] == str(tmp_path / "out")
    assert found["comparison"] == record_of(tmp_path / "out")


@pytest.mark.slow
def test_two_basins_are_told(runs: Path, task: str, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in runs.glob("run-*.pt"):
        state = torch.load(path, weights_only=True)
        torch.save(state, folder / path.name)
        # The same function, its hidden units the other way round.
        for name in ("0.weight", "0.bias"):
            state[name] = state[name].flip(0)
        state["2.weight"] = state["2.weight"].flip(1)
        torch.save(state, folder / path.name.replace("run", "run-mirror"))
    arguments = ["compare", str(folder / "*.pt"), "--task", task, "-o", str(tmp_path / "out")]
    done = run_here(*arguments)
    assert done.returncode == 0, done.stderr
    assert "The models lie in 2 basins" in done.stdout
    assert "run-0.pt, run-1.pt, run-2.pt; run-mirror-0.pt" in done.stdout
    assert "Without a base there are no angles" in done.stdout
    matrices = record_of(tmp_path / "out")["matrices"]
    assert matrices["clusters"] == [0, 0, 0, 1, 1, 1]
    assert matrices["order"][:3] == [0, 1, 2]
    assert matrices["angle"] is None


NUMBERS = f"""
import sys
from dataclasses import replace
import numpy as np
from torch import nn
sys.path.insert(0, {str(EXAMPLE.parent)!r})
from digits_task import Digits
from ladle.predictions import METRICS
class Numbers(Digits):
    metric = METRICS["mse"]
    def __init__(self):
        super().__init__()
        self.splits = {{
            name: replace(split, labels=split.labels.astype(np.float64))
            for name, split in self.splits.items()
        }}
    def build(self):
        return nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1)).eval()
"""


def test_a_task_of_numbers_gets_what_makes_sense(tmp_path: Path) -> None:
    (tmp_path / "numbers.py").write_text(NUMBERS)
    for i in range(3):
        torch.manual_seed(i)
        net = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        torch.save(net.state_dict(), tmp_path / f"net-{i}.pt")
    task = f"{tmp_path}/numbers.py:Numbers"
    done = run_here("compare", f"{tmp_path}/net-*.pt", "--task", task, "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "there is no temperature and no calibration" in done.stdout
    assert "calibration error" not in done.stdout
    assert "errors, correlation" not in done.stdout
    assert "mse by number of models" in done.stdout
    record = record_of(tmp_path / "out")
    assert record["calibration"] == []
    on = record["pairs"][0]["splits"]["test"]
    assert on["error_difference"] is None
    assert on["soup"]["metric"] == pytest.approx(on["soup"]["loss"])


# --- what it costs ------------------------------------------------------------------------------


def test_a_dry_run_counts_and_writes_nothing(runs: Path, task: str, tmp_path: Path) -> None:
    more = ("-o", tmp_path / "out", "--pairs", 2, "--orders", 1, "--split", "test")
    before = sorted(tmp_path.iterdir())
    done = run_here(*command(runs, task, *more, "--dry-run"))
    assert done.returncode == 0, done.stderr
    assert "would compare 3 models in 2 pairs" in done.stdout
    assert passes(task) == []
    assert sorted(tmp_path.iterdir()) == before
    counted = json.loads(run_here(*command(runs, task, *more, "--dry-run", "--json")).stdout)
    assert counted["splits"] == ["held-out", "test"]
    assert counted["examples"] == 500 + 697
    assert counted["known"] == 0
    assert run_here(*command(runs, task, *more)).returncode == 0
    assert len(passes(task)) == counted["evaluations"]
    again = run_here(*command(runs, task, *more, "--overwrite", "--dry-run", "--json"))
    assert json.loads(again.stdout)["known"] == counted["evaluations"]


def test_what_is_in_the_store_is_not_evaluated_again(runs: Path, task: str, tmp_path: Path) -> None:
    assert run_here(*command(runs, task, "-o", tmp_path / "out")).returncode == 0
    first = record_of(tmp_path / "out")
    passes(task)
    done = run_here(*command(runs, task, "-o", tmp_path / "out", "--overwrite"))
    assert done.returncode == 0, done.stderr
    assert passes(task) == []
    same = ("pairs", "summary", "matrices", "calibration", "sizes", "orders", "models")
    again = record_of(tmp_path / "out")
    assert {key: again[key] for key in same} == {key: first[key] for key in same}


def test_other_commands_share_the_store(runs: Path, task: str, tmp_path: Path) -> None:
    files = sorted(map(str, runs.glob("run-*.pt")))
    store = tmp_path / "s.sqlite"
    run_here("evaluate", *files, "--task", task, "--soup", "--store", str(store))
    assert len(passes(task)) == 4 * 3
    done = run_here(*command(runs, task, "-o", tmp_path / "out", "--store", store))
    assert done.returncode == 0, done.stderr
    assert len(passes(task)) == (3 + 9 + 1 - 4) * 3
    assert "12 of which are in the store" in done.stderr
    assert not (tmp_path / "out" / "ladle.sqlite").exists()


def test_a_landscape_has_seen_the_points_between_a_pair(
    runs: Path, task: str, tmp_path: Path
) -> None:
    pair = [str(runs / "run-0.pt"), str(runs / "run-1.pt")]
    both = ("--task", task, "--split", "test", "--store", str(tmp_path / "s.sqlite"))
    assert run_here("landscape", *pair, *both, "-o", str(tmp_path / "path")).returncode == 0
    passes(task)
    assert run_here("compare", *pair, *both, "-o", str(tmp_path / "pair")).returncode == 0
    assert passes(task) == ["held-out"] * 5


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_from_there(runs: Path, task: str, tmp_path: Path) -> None:
    arguments = command(runs, task, "-o", tmp_path / "out")
    killed = subprocess.run(
        [str(LADLE), *arguments], capture_output=True, check=False, timeout=300,
        env={**os.environ, "DIE_AT": "7"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert len(passes(task)) == 7
    assert not (tmp_path / "out").exists()
    done = run_here(*arguments)
    assert done.returncode == 0, done.stderr
    assert len(passes(task)) == 39 - 7
    assert not (tmp_path / "out.part").exists()


@pytest.mark.slow
def test_some_examples_are_the_same_for_every_model(runs: Path, tmp_path: Path) -> None:
    task = write_counted(tmp_path / "counted.py", "Some")
    more = ("-o", tmp_path / "out", "--samples", 100)
    done = run_here(*command(runs, task, *more))
    assert done.returncode == 0, done.stderr
    assert "(300 examples)" in done.stderr
    assert set(passes(task)) == {f"{split}:100" for split in SPLITS}
    record = record_of(tmp_path / "out")
    assert record["samples"] == 100
    # Of 100 examples, every accuracy is a whole percentage.
    scores = [m["splits"]["test"]["metric"] for m in record["models"]]
    assert all(round(100 * score) == pytest.approx(100 * score) for score in scores)
    # What all examples were seen of need not be seen again.
    assert run_here(*command(runs, task, "-o", tmp_path / "all")).returncode == 0
    passes(task)
    store = tmp_path / "all" / "ladle.sqlite"
    more = ("-o", tmp_path / "some", "--samples", 50, "--store", store)
    assert run_here(*command(runs, task, *more)).returncode == 0
    assert passes(task) == []


# --- what is refused ----------------------------------------------------------------------------


def test_one_model_is_no_pair(runs: Path, task: str, tmp_path: Path) -> None:
    one = str(runs / "run-0.pt")
    done = run_here("compare", one, "--task", task, "-o", str(tmp_path / "out"))
    assert "run-0.pt is the only model left, and comparing takes two" in complaint(done)
    done = run_here("compare", one, one, "--task", task, "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "run-0.pt is " in done.stderr
    assert "the only model left" in done.stderr


def test_models_that_are_one_but_for_rounding_are_named(
    runs: Path, task: str, tmp_path: Path
) -> None:
    state = torch.load(runs / "run-0.pt", weights_only=True)
    torch.save({n: t.bfloat16() for n, t in state.items()}, tmp_path / "rounded.pt")
    given = (str(runs / "run-0.pt"), str(tmp_path / "rounded.pt"))
    done = run_here("compare", *given, "--task", task, "-o", str(tmp_path / "out"))
    sentence = complaint(done)
    assert "run-0.pt and rounded.pt are the same model" in sentence
    assert passes(task) == []


def test_a_base_that_is_an_ingredient_is_named(runs: Path, task: str, tmp_path: Path) -> None:
    files = sorted(map(str, runs.glob("run-*.pt")))
    base = ("--base", str(runs / "run-1.pt"))
    done = run_here("compare", *files, *base, "--task", task, "-o", str(tmp_path / "out"))
    sentence = complaint(done)
    assert "base and run-1.pt are the same model" in sentence
    assert not (tmp_path / "out.part").exists()


def test_weights_that_are_no_numbers_are_named(runs: Path, task: str, tmp_path: Path) -> None:
    state = torch.load(runs / "run-0.pt", weights_only=True)
    state["2.bias"][3] = float("nan")
    torch.save(state, tmp_path / "broken.pt")
    given = (str(runs / "run-0.pt"), str(tmp_path / "broken.pt"))
    done = run_here("compare", *given, "--task", task, "-o", str(tmp_path / "out"))
    assert "broken.pt has NaN or infinity in 1 of its weights" in complaint(done)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--split", "tests"), "--split 'tests': task digits has train, held-out, test, noisy"),
        (("--samples", "9"), "cannot predict some examples alone"),
        (("--store", "no/where/s.sqlite"), "does not exist, so no store can be kept there"),
        (("--bn", "recalibrate"), "--bn recalibrate needs training data"),
    ],
)
def test_flags_that_do_not_fit_are_told_before_any_work(
    runs: Path, task: str, tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    sentence = complaint(run_here(*command(runs, task, "-o", tmp_path / "out", *flags)))
    assert said in sentence
    assert passes(task) == []
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.part").exists()


def test_only_a_comparison_is_replaced(runs: Path, task: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "soup.json").write_text("{}")
    more = ("-o", tmp_path / "out")
    assert "out exists" in complaint(run_here(*command(runs, task, *more)))
    sentence = complaint(run_here(*command(runs, task, *more, "--overwrite")))
    assert "is no comparison that ladle wrote" in sentence


def test_a_store_of_another_task_is_refused(runs: Path, task: str, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    files = sorted(map(str, runs.glob("run-*.pt")))
    run_here("evaluate", *files, "--task", task, "--store", str(store))
    (tmp_path / "other").mkdir()
    other = write_counted(tmp_path / "other" / "counted.py", digest="another")
    more = ("-o", tmp_path / "out", "--store", store)
    for flags in ((), ("--dry-run",)):
        sentence = complaint(run_here(*command(runs, other, *more, *flags)))
        assert "has evaluations of another task" in sentence
    assert passes(other) == []


def test_without_scipy_one_is_told_what_to_install(
    runs: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.cluster.hierarchy", None)
    sentence = complaint(run_here(*command(runs, task, "-o", tmp_path / "out")))
    assert "pip install 'ladle[metrics]'" in sentence
    assert passes(task) == []
