"""`--store`: what one command has evaluated, no other evaluates again."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from counted_digits import passes as passes_in_order
from counted_digits import run_here, write_counted
from digits import make_runs

LADLE = Path(sys.executable).with_name("ladle")
SPLITS = ["held-out", "noisy", "test"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return make_runs(folder, 4)


@pytest.fixture
def task(tmp_path: Path) -> str:
    return write_counted(tmp_path / "counted.py")


def command(name: str, runs: list[Path], task: str, *more: object) -> list[str]:
    return [str(LADLE), name, *map(str, runs), "--task", task, *map(str, more)]


def ladle(name: str, runs: list[Path], task: str, *more: object, die_at: int | None = None) -> Any:
    """A command, in this process where it is to survive: to start another takes seconds."""
    if die_at is not None:
        return subprocess.run(
            command(name, runs, task, *more),
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "DIE_AT": str(die_at)},
        )  # fmt: skip
    return run_here(*command(name, runs, task, *more)[1:])


def passes(task: str) -> list[str]:
    """In no order."""
    return sorted(passes_in_order(task))


def complaint(done: Any, exit_code: int = 2) -> str:
    assert done.returncode == exit_code, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("ladle: ")
    return sentence


def test_evaluate_finds_what_cook_has_measured(runs: list[Path], task: str, tmp_path: Path) -> None:
    cooked = ladle("cook", runs, task, "-o", tmp_path / "soup", "--json")
    assert cooked.returncode == 0, cooked.stderr
    assert passes(task)
    store = tmp_path / "soup" / "ladle.sqlite"
    done = ladle("evaluate", runs, task, "--ensemble", "--soup", "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    assert passes(task) == []
    measured = {
        (row["model"], row["split"]): row["value"]
        for row in json.loads(cooked.stdout)["evaluations"]
    }
    for row in json.loads(done.stdout)["evaluations"]:
        assert row["value"] == measured[row["model"], row["split"]]


@pytest.mark.parametrize("output", ["soup", "soup.pt"])
def test_the_written_soup_is_known_too(
    runs: list[Path], task: str, tmp_path: Path, output: str
) -> None:
    more = () if output == "soup" else ("--store", tmp_path / "s.sqlite")
    recipe = ("--recipe", "uniform", "-o", tmp_path / output, "--json")
    cooked = ladle("cook", runs, task, *recipe, *more)
    assert cooked.returncode == 0, cooked.stderr
    passes(task)
    store = more or ("--store", tmp_path / "soup" / "ladle.sqlite")
    done = ladle("evaluate", [tmp_path / output], task, *store, "--json")
    assert done.returncode == 0, done.stderr
    assert passes(task) == []
    fresh = ladle("evaluate", [tmp_path / output], task, "--json")
    assert len(passes(task)) == len(SPLITS)
    assert done.stdout == fresh.stdout


def test_a_soup_that_is_rounded_is_known_as_it_is_written(
    runs: list[Path], task: str, tmp_path: Path
) -> None:
    """It was measured rounded; what is not rounded is another soup."""
    more = ("--recipe", "uniform", "--dtype", "bfloat16", "-o", tmp_path / "soup")
    assert ladle("cook", runs, task, *more).returncode == 0
    passes(task)
    store = ("--store", tmp_path / "soup" / "ladle.sqlite")
    assert ladle("evaluate", [tmp_path / "soup"], task, *store).returncode == 0
    assert passes(task) == []
    exact = ("--recipe", "uniform", "-o", tmp_path / "exact", "--store", tmp_path / "s.sqlite")
    assert ladle("cook", runs, task, *exact).returncode == 0
    passes(task)
    store = ("--store", tmp_path / "s.sqlite")
    assert ladle("evaluate", [tmp_path / "soup"], task, *store).returncode == 0
    assert len(passes(task)) == len(SPLITS)


def test_a_soup_that_its_model_rounds_is_not_taken_for_its_file(
    runs: list[Path], task: str, tmp_path: Path
) -> None:
    """A sum that is rounded once is not always one that is rounded twice."""
    with (tmp_path / "counted.py").open("a") as file:
        file.write(
            "import torch\n"
            "def build(self):\n"
            "    return super(Counted, self).build().to(torch.bfloat16)\n"
            "def batch(model, inputs):\n"
            "    return (inputs[0].to(torch.bfloat16),)\n"
            "def as_numbers(model, inputs, said):\n"
            "    return said.float()\n"
            "def rounding(self):\n"
            "    model = build(self)\n"
            "    model.register_forward_pre_hook(batch)\n"
            "    model.register_forward_hook(as_numbers)\n"
            "    return model\n"
            "Counted.build = rounding\n"
        )
    cooked = ladle("cook", runs, task, "--recipe", "uniform", "-o", tmp_path / "soup")
    assert cooked.returncode == 0, cooked.stderr
    passes(task)
    store = ("--store", tmp_path / "soup" / "ladle.sqlite")
    assert ladle("evaluate", [tmp_path / "soup"], task, *store).returncode == 0
    assert len(passes(task)) == len(SPLITS)


def test_cook_finds_what_evaluate_has_measured(runs: list[Path], task: str, tmp_path: Path) -> None:
    alone = ladle("cook", runs, task, "-o", tmp_path / "alone", "--json")
    needed = passes(task)
    store = ("--store", tmp_path / "s.sqlite")
    assert ladle("evaluate", runs, task, *store).returncode == 0
    assert passes(task) == sorted(SPLITS * len(runs))
    cooked = ladle("cook", runs, task, "-o", tmp_path / "soup", *store, "--json")
    assert cooked.returncode == 0, cooked.stderr
    assert len(passes(task)) == len(needed) - len(SPLITS) * len(runs)
    # The store is the one that was named, and nowhere else.
    assert not [file for file in (tmp_path / "soup").iterdir() if file.name.startswith("ladle.")]
    assert json.loads(cooked.stdout)["evaluations"] == json.loads(alone.stdout)["evaluations"]
    # A third command, another recipe: singles and their uniform soup are known.
    third = ladle("cook", runs, task, "-o", tmp_path / "u", "--recipe", "uniform", *store)
    assert third.returncode == 0, third.stderr
    assert passes(task) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("store", [(), ("--store", "s.sqlite")], ids=["its own", "named"])
def test_a_killed_cook_evaluates_nothing_twice(
    runs: list[Path], task: str, tmp_path: Path, store: tuple[str, ...]
) -> None:
    named = [tmp_path / one if one.endswith(".sqlite") else one for one in store]
    alone = ladle("cook", runs, task, "-o", tmp_path / "alone", "--json")
    needed = passes(task)
    made: list[str] = []
    for kill in (1, 4):
        killed = ladle("cook", runs, task, "-o", tmp_path / "soup", *named, die_at=kill)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        made += passes(task)
        assert not (tmp_path / "soup").exists()
    done = ladle("cook", runs, task, "-o", tmp_path / "soup", *named, "--json")
    assert done.returncode == 0, done.stderr
    # The one under way when it was killed left no line, and is made again; no other is.
    assert sorted(made + passes(task)) == needed
    assert json.loads(done.stdout)["evaluations"] == json.loads(alone.stdout)["evaluations"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_an_unfinished_cook_may_go_on_with_a_store_of_its_name(
    runs: list[Path], task: str, tmp_path: Path
) -> None:
    assert ladle("cook", runs, task, "-o", tmp_path / "alone").returncode == 0
    needed = passes(task)
    killed = ladle("cook", runs, task, "-o", tmp_path / "soup", die_at=5)
    assert killed.returncode == -signal.SIGKILL
    made = passes(task)
    store = ("--store", tmp_path / "s.sqlite")
    done = ladle("cook", runs, task, "-o", tmp_path / "soup", *store)
    assert done.returncode == 0, done.stderr
    assert sorted(made + passes(task)) == needed


def test_an_overwritten_output_hands_on_its_arrays(
    runs: list[Path], task: str, tmp_path: Path
) -> None:
    output = ("-o", tmp_path / "soup")
    first = ladle("cook", runs, task, *output, "--json")
    assert first.returncode == 0, first.stderr
    passes(task)
    arrays = sorted(file.name for file in (tmp_path / "soup" / "ladle.predictions").iterdir())
    for _ in range(2):
        again = ladle("cook", runs, task, *output, "--overwrite", "--json")
        assert again.returncode == 0, again.stderr
        assert passes(task) == []
        found = (tmp_path / "soup" / "ladle.predictions").iterdir()
        assert sorted(file.name for file in found) == arrays
        assert json.loads(again.stdout)["evaluations"] == json.loads(first.stdout)["evaluations"]
    left = {entry.name for entry in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"counted.py", "soup"}
    # And so it does to a store that it is given.
    store = ("--store", tmp_path / "s.sqlite")
    assert ladle("cook", runs, task, *output, *store, "--overwrite").returncode == 0
    assert ladle("evaluate", runs, task, *store).returncode == 0
    assert passes(task) == []


def test_damaged_and_missing_arrays_alone_are_made_again(
    runs: list[Path], task: str, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "s.sqlite", "--json")
    first = ladle("evaluate", runs, task, *store)
    assert len(passes(task)) == len(SPLITS) * len(runs)
    gone, cut, damaged, *_ = sorted((tmp_path / "s.predictions").iterdir())
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\x00\x00\x80\x7f")
    again = ladle("evaluate", runs, task, *store)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert len(passes(task)) == 3
    assert ladle("evaluate", runs, task, *store).stdout == first.stdout
    assert passes(task) == []


@pytest.mark.slow
def test_cooks_and_evaluations_at_once_share_a_store(
    runs: list[Path], task: str, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "s.sqlite", "--json")
    commands = [
        command("cook", runs, task, "-o", tmp_path / "one", *store),
        command("cook", runs[::-1], task, "-o", tmp_path / "two", *store),
        command("evaluate", runs, task, *store),
        command("evaluate", runs[::-1], task, *store),
    ]
    processes = [
        subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for one in commands
    ]
    said = [one.communicate(timeout=300) for one in processes]
    assert [one.returncode for one in processes] == [0] * 4, said
    found: dict[tuple[str, str], set[float]] = {}
    for output, _ in said:
        for row in json.loads(output)["evaluations"]:
            if row["kind"] == "single":
                found.setdefault((row["model"], row["split"]), set()).add(row["value"])
    assert all(len(values) == 1 for values in found.values())
    passes(task)
    assert ladle("evaluate", runs, task, *store).returncode == 0
    assert passes(task) == []


@pytest.mark.parametrize("place", ["soup", "soup/s.sqlite", "soup.part/s.sqlite"])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_store_in_the_output_is_refused(
    runs: list[Path], task: str, tmp_path: Path, place: str, more: tuple[str, ...]
) -> None:
    done = ladle("cook", runs, task, "-o", tmp_path / "soup", "--store", tmp_path / place, *more)
    assert "would be replaced with the output" in complaint(done)
    assert not (tmp_path / "soup.part").exists()


def test_a_store_in_no_folder_is_refused_by_cook(
    runs: list[Path], task: str, tmp_path: Path
) -> None:
    done = ladle("cook", runs, task, "-o", tmp_path / "soup", "--store", tmp_path / "no" / "s")
    assert "no does not exist, so no store can be kept there" in complaint(done)


@pytest.mark.parametrize("name", ["cook", "evaluate"])
def test_a_store_of_the_earlier_version_is_refused_in_a_sentence(
    runs: list[Path], task: str, tmp_path: Path, name: str
) -> None:
    base = sqlite3.connect(tmp_path / "s.sqlite")
    base.execute("CREATE TABLE predictions (soup TEXT, logits BLOB)")
    base.execute("CREATE TABLE scores (soup TEXT, scorer TEXT, score REAL)")
    base.execute("CREATE TABLE decisions (position INTEGER PRIMARY KEY, tasting TEXT)")
    base.execute("PRAGMA user_version = 1")
    base.commit()
    base.close()
    output = ("-o", tmp_path / "soup") if name == "cook" else ()
    done = ladle(name, runs, task, *output, "--store", tmp_path / "s.sqlite")
    sentence = complaint(done)
    assert "s.sqlite is a store of an earlier ladle" in sentence
    assert sentence.endswith("remove it")
    assert passes(task) == []


def test_what_is_in_the_way_of_the_arrays_is_told_before_any_work(
    runs: list[Path], task: str, tmp_path: Path
) -> None:
    (tmp_path / "s.predictions").write_text("mine")
    done = ladle("evaluate", runs, task, "--store", tmp_path / "s.sqlite")
    assert "s.predictions cannot be written (File exists)" in complaint(done)
    assert passes(task) == []


def test_a_home_that_no_shell_has_replaced_is_found(
    runs: list[Path], task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = ladle("evaluate", runs[:1], task, "--store=~/s.sqlite")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.sqlite").is_file()
