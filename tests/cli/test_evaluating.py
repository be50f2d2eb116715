"""`ladle evaluate`: what it compares, what it keeps, and what it warns of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from counted_digits import passes, write_counted
from digits import make_runs

LADLE = Path(sys.executable).with_name("ladle")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, 3)
    return folder


@pytest.fixture
def task(tmp_path: Path) -> str:
    return write_counted(tmp_path / "counted.py")


def evaluate(*arguments: object, env: dict[str, str] | None = None) -> Any:
    return subprocess.run(
        [str(LADLE), "evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=env,
    )


@pytest.mark.slow
def test_all_is_compared_with_the_best_single_on_held_out(runs: Path, task: str) -> None:
    done = evaluate(
        *sorted(runs.glob("run-*.pt")),
        "--task", task, "--soup", "--ensemble", "--greedy-ensemble", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["evaluations"]
    held_out = {r["model"]: r["value"] for r in rows if r["split"] == "held-out"}
    singles = [f"run-{i}.pt" for i in range(3)]
    assert list(held_out)[:5] == [*singles, "uniform soup", "ensemble of 3"]
    assert list(held_out)[5].startswith("greedy ensemble of ")
    best = max(singles, key=lambda name: held_out[name])
    assert held_out[list(held_out)[5]] >= held_out[best]
    versus = {r["versus"]["model"] for r in rows if r["versus"]}
    assert versus == {best}
    assert {r["model"] for r in rows if r["split"] == "test" and not r["versus"]} == {best}
    # Three singles and the soup; the ensembles are made of what is there.
    assert len(passes(task)) == 4 * 3


@pytest.mark.slow
def test_one_may_say_whom_to_compare_with(runs: Path, task: str) -> None:
    files = sorted(runs.glob("run-*.pt"))
    done = evaluate(*files, "--task", task, "--versus", "run-0.pt", "--json")
    rows = json.loads(done.stdout)["evaluations"]
    assert {r["versus"]["model"] for r in rows if r["versus"]} == {"run-0.pt"}
    for flag, asked, shown in (
        ("--soup", "uniform soup", "uniform soup"),
        ("--ensemble", "ensemble", "ensemble of 3"),
        ("--greedy-ensemble", "greedy ensemble", "greedy ensemble of "),
    ):
        done = evaluate(*files, "--task", task, flag, "--versus", asked, "--json")
        rows = json.loads(done.stdout)["evaluations"]
        (name,) = {r["versus"]["model"] for r in rows if r["versus"]}
        assert name.startswith(shown)
        assert {r["model"] for r in rows if r["split"] == "test" and not r["versus"]} == {name}
    wrong = evaluate(*files, "--task", task, "--versus", "run-9")
    assert wrong.returncode == 2
    assert "--versus 'run-9' is none of the models: run-0.pt, run-1.pt, run-2.pt" in wrong.stderr


@pytest.mark.slow
def test_what_the_store_has_is_not_computed_again(runs: Path, task: str, tmp_path: Path) -> None:
    command = (*sorted(runs.glob("run-*.pt")), "--task", task, "--store", tmp_path / "s.sqlite")
    first, again = evaluate(*command), evaluate(*command)
    assert first.returncode == 0, first.stderr
    assert again.stdout == first.stdout
    assert len(passes(task)) == 3 * 3


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_from_there(runs: Path, task: str, tmp_path: Path) -> None:
    command = (*sorted(runs.glob("run-*.pt")), "--task", task, "--store", tmp_path / "s.sqlite")
    killed = evaluate(*command, env={**os.environ, "DIE_AT": "5"})
    assert killed.returncode == -signal.SIGKILL
    assert len(passes(task)) == 5
    done = evaluate(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert len(passes(task)) == 9 - 5
    fresh = evaluate(*command[:-2], "--json")
    assert json.loads(done.stdout) == json.loads(fresh.stdout)


@pytest.mark.slow
def test_two_at_once_share_a_store(runs: Path, task: str, tmp_path: Path) -> None:
    command = [
        str(LADLE), "evaluate", *map(str, sorted(runs.glob("run-*.pt"))),
        "--task", task, "--store", str(tmp_path / "s.sqlite"), "--json",
    ]  # fmt: skip
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    said = [one.communicate(timeout=300) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert said[0][0] == said[1][0]


@pytest.mark.slow
def test_a_store_in_no_folder_is_refused(runs: Path, task: str) -> None:
    done = evaluate(runs / "run-0.pt", "--task", task, "--store", "nowhere/s.sqlite")
    assert done.returncode == 2
    assert "nowhere does not exist" in done.stderr


@pytest.mark.slow
def test_a_soup_is_not_believed_on_what_it_was_chosen_by(
    runs: Path, task: str, tmp_path: Path
) -> None:
    soup = tmp_path / "soup"
    files = map(str, sorted(runs.glob("run-*.pt")))
    cooked = subprocess.run(
        [str(LADLE), "cook", *files, "--task", task, "-o", str(soup)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert cooked.returncode == 0, cooked.stderr
    assert "warning" not in cooked.stderr
    sentence = "was chosen by the examples of held-out"
    for given in (soup, soup / "model.safetensors"):
        assert sentence in evaluate(given, "--task", task).stderr
    on_test = evaluate(soup, "--task", task, "--split", "test", "--json")
    assert "warning" not in on_test.stderr
    assert json.loads(on_test.stdout)["caveats"] == []


@pytest.mark.slow
def test_what_chose_nothing_is_believed(runs: Path, task: str, tmp_path: Path) -> None:
    soup = tmp_path / "uniform"
    files = [str(file) for file in sorted(runs.glob("run-*.pt"))]
    cooked = subprocess.run(
        [str(LADLE), "cook", *files, "--recipe", "uniform", "--task", task, "-o", str(soup)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert cooked.returncode == 0, cooked.stderr
    assert "warning" not in evaluate(soup, "--task", task).stderr


@pytest.mark.slow
def test_a_greedy_ensemble_is_not_believed_on_held_out(runs: Path, task: str) -> None:
    command = (*sorted(runs.glob("run-*.pt")), "--task", task, "--greedy-ensemble")
    assert "the greedy ensemble was chosen by the examples of held-out" in evaluate(*command).stderr
    assert "warning" not in evaluate(*command, "--split", "test").stderr


@pytest.mark.slow
def test_a_metric_that_is_no_mean_is_judged_too(runs: Path, task: str) -> None:
    with Path(task.rpartition(":")[0]).open("a") as file:
        file.write(
            "from ladle.predictions import Metric\n"
            "def worst_class(p):\n"
            "    said = p.logits.argmax(1)\n"
            "    return min((said[p.labels == c] == c).mean() for c in set(p.labels.tolist()))\n"
            "Counted.metric = Metric('worst class', worst_class)\n"
        )
    done = evaluate(*sorted(runs.glob("run-*.pt")), "--task", task, "--split", "test", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["evaluations"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert sum(row["versus"] is not None for row in rows) == 2
