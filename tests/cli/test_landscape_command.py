"""`ladle landscape`: what it writes and says, what it refuses, and what a kill costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counted_digits import complaint, passes, run_here, write_counted
from digits import make_runs

LADLE = Path(sys.executable).with_name("ladle")

FURTHER = """
class Whole(Digits):
    pass
class NoTrain(Digits):
    def __init__(self):
        super().__init__()
        del self.splits["train"]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, 3)
    return folder


@pytest.fixture
def task(tmp_path: Path) -> str:
    return write_counted(tmp_path / "counted.py", "Some", further=FURTHER)


def command(inputs: list[Path], task: str, *more: object) -> list[str]:
    return ["landscape", *map(str, inputs), "--task", task, *map(str, more)]


def ladle(inputs: list[Path], task: str, *more: object) -> Any:
    return run_here(*command(inputs, task, *more))


def record_of(done: Any, output: Path) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads((output / "landscape.json").read_text("utf-8"))


def splits_of(done: list[str]) -> list[str]:
    return [one.partition(":")[0] for one in done]


def of(runs: Path, *numbers: int) -> list[Path]:
    return [runs / f"run-{i}.pt" for i in numbers]


def test_two_models_and_a_base_are_a_plane(runs: Path, task: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = ladle(
        of(runs, 0, 2), task, "--base", runs / "base.pt", "--mark", runs / "run-1.pt",
        "--grid", "4x3", "--margin", "0.1", "--samples", "50", "--seed", "2", "-o", out,
    )  # fmt: skip
    record = record_of(done, out)
    assert {
        key: record[key] for key in ("version", "kind", "samples", "seed", "remarks", "caveats")
    } == {"version": 1, "kind": "plane", "samples": 50, "seed": 2, "remarks": [], "caveats": []}
    assert record["task"] == {"name": "digits", "digest": "counted"}
    assert record["splits"]["test"]["n"] == 697
    assert [(one["name"], one["role"]) for one in record["models"]] == [
        ("base", "base"), ("run-0.pt", "model"), ("run-2.pt", "model"), ("run-1.pt", "model"),
        ("soup of run-0.pt, run-2.pt", "soup"),
    ]  # fmt: skip
    # By hand: distances, and where the third model lies.
    rows = [
        np.concatenate([
            tensor.double().numpy().ravel()
            for tensor in torch.load(runs / f"{name}.pt", weights_only=True).values()
        ])
        for name in ("base", "run-0", "run-2", "run-1")
    ]  # fmt: skip
    one, two, beside = (row - rows[0] for row in rows[1:])
    u1 = one / np.linalg.norm(one)
    across = two - two @ u1 * u1
    u2 = across / np.linalg.norm(across)
    places = record["models"]
    assert (places[1]["a"], places[1]["b"]) == pytest.approx((np.linalg.norm(one), 0))
    assert (places[2]["a"], places[2]["b"]) == pytest.approx((two @ u1, two @ u2))
    assert (places[3]["a"], places[3]["b"]) == pytest.approx((beside @ u1, beside @ u2))
    inside = beside @ u1 * u1 + beside @ u2 * u2
    assert places[3]["off"] == pytest.approx(np.linalg.norm(beside - inside))
    assert places[3]["weights"] is None
    between = record["geometry"]["distances"][1][2]
    assert between == pytest.approx(np.linalg.norm(one - two))
    assert (len(record["a"]), len(record["b"])) == (4, 3)
    shapes = {np.shape(curve["values"]) for curve in record["curves"]}
    assert shapes == {(3, 4)}
    kinds = {(one["split"], one["role"], one["quantity"]) for one in record["curves"]}
    assert kinds == {
        (name, role, quantity)
        for name, role in (("train", "train"), ("test", "test"), ("noisy", "shift"))
        for quantity in ("loss", "error")
    }
    assert {one["n"] for one in record["curves"]} == {50}
    (path,) = record["paths"]
    assert path["between"] == ["run-0.pt", "run-2.pt"]
    assert path["t"][0] == -0.1
    assert len(path["barriers"]) == len(record["curves"])
    assert sorted(entry.name for entry in out.iterdir()) == [
        "figures", "ladle.predictions", "ladle.sqlite", "landscape.json", "report.html",
    ]  # fmt: skip
    for text in ("plane through base, run-0.pt and run-2.pt", "train loss", "best on the grid",
                 "standard error", "path run-0.pt -> run-2.pt", "barrier"):  # fmt: skip
        assert text in done.stdout
    # Nothing but records and predictions: no point's weights.
    assert not list(out.rglob("*.safetensors"))


def test_a_path_agrees_with_what_evaluate_says(runs: Path, task: str, tmp_path: Path) -> None:
    out, store = tmp_path / "out", tmp_path / "store.sqlite"
    record = record_of(
        ladle(of(runs, 0, 1), task, "--grid", "3", "--margin", "0", "--store", store, "-o", out),
        out,
    )
    assert record["kind"] == "path"
    assert record["t"] == [0.0, 0.5, 1.0]
    passes(task)
    done = run_here(
        "evaluate", *of(runs, 0, 1), "--task", task, "--store", store, "--soup", "--split", "test",
        "--json",
    )  # fmt: skip
    rows = json.loads(done.stdout)["evaluations"]
    # The ends and the middle are the models and their uniform soup, for any command.
    assert splits_of(passes(task)) == ["held-out", "held-out"]
    accuracies = [row["value"] for row in rows]
    error = next(
        one for one in record["curves"] if (one["split"], one["quantity"]) == ("test", "error")
    )
    ends = [accuracies[0], accuracies[2], accuracies[1]]
    assert error["values"] == pytest.approx([1 - accuracy for accuracy in ends])
    assert {entry.name for entry in out.iterdir()} == {"landscape.json", "report.html", "figures"}


def test_json_is_one_document_and_a_dry_run_writes_nothing(
    runs: Path, task: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    plan = ladle(of(runs, 0, 1), task, "--grid", "3", "-o", out, "--dry-run", "--json")
    assert plan.returncode == 0
    assert not list(tmp_path.glob("out*"))
    told = json.loads(plan.stdout)
    done = ladle(of(runs, 0, 1), task, "--grid", "3", "-o", out, "--json")
    document = json.loads(done.stdout)
    assert document == {"output": str(out), "landscape": record_of(done, out)}
    # Of what a plan counts, ends and middle are the marked models again.
    assert len(passes(task)) == told["evaluations"] - 3 * len(told["splits"])
    said = ladle(of(runs, 0, 1), task, "-o", tmp_path / "other", "--dry-run").stdout
    assert said.startswith("would evaluate 18 soups on train, test, noisy (all examples of each)")


@pytest.mark.slow
def test_after_a_kill_the_same_command_goes_on(runs: Path, task: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = command(of(runs, 0, 1), task, "--base", runs / "base.pt", "--grid", "3", "-o", out)
    whole = tmp_path / "whole"
    expected = record_of(
        ladle(of(runs, 0, 1), task, "--base", runs / "base.pt", "--grid", "3", "-o", whole), whole
    )
    all_of_it = len(passes(task))
    killed = subprocess.run(
        [str(LADLE), *given], capture_output=True, check=False, timeout=300,
        env={**os.environ, "DIE_AT": "20"},
    )  # fmt: skip
    assert killed.returncode == -9
    assert not out.exists()
    assert len(passes(task)) == 20
    done = ladle(of(runs, 0, 1), task, "--base", runs / "base.pt", "--grid", "3", "-o", out)
    record = record_of(done, out)
    assert len(passes(task)) == all_of_it - 20
    for key in ("models", "curves", "paths", "geometry"):
        assert record[key] == expected[key]
    assert not list(tmp_path.glob("*.part"))


def test_a_finer_grid_goes_on_from_what_it_replaces(runs: Path, task: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = of(runs, 0, 1), task
    first = record_of(ladle(*given, "--grid", "3", "-o", out), out)
    passes(task)
    assert "add --overwrite" in complaint(ladle(*given, "--grid", "5", "-o", out))
    second = record_of(ladle(*given, "--grid", "5", "-o", out, "--overwrite"), out)
    new = sorted({*second["t"]} - {*first["t"]})
    assert new == pytest.approx([0.15, 0.85])
    assert splits_of(passes(task)) == ["train", "test", "noisy"] * len(new)


def test_a_task_without_training_data_has_no_train_loss_and_it_is_said(
    runs: Path, task: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = ladle(of(runs, 0, 1), task.replace("Some", "NoTrain"), "--grid", "3", "-o", out)
    record = record_of(done, out)
    assert "has no split with the role train" in done.stderr
    assert "has no split with the role train" in record["remarks"][0]
    assert {one["role"] for one in record["curves"]} == {"test", "shift"}


def test_a_landscape_may_lie_in_the_folder_of_a_soup(runs: Path, task: str, tmp_path: Path) -> None:
    soup = tmp_path / "soup"
    run_here("average", *of(runs, 0, 1, 2), "-o", soup)
    out = soup / "landscape"
    done = ladle(of(runs, 0, 1), task, "--grid", "3", "--mark", soup, "-o", out)
    record = record_of(done, out)
    mark = next(one for one in record["models"] if one["path"] == str(soup))
    assert mark["role"] == "soup"
    assert 0 < mark["t"] < 1
    assert mark["off"] > 0
    # A soup is not replaced by a landscape, whatever is asked.
    kept = complaint(ladle(of(runs, 0, 1), task, "-o", soup, "--overwrite"))
    assert "is no landscape that ladle wrote" in kept


# --- bad input: one sentence, exit code 2 ---------------------------------------------------


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, path)
    return path


def on_a_line(runs: Path, path: Path) -> Path:
    states = [torch.load(runs / f"{n}.pt", weights_only=True) for n in ("base", "run-0")]
    mixed = {
        k: (states[0][k].double() * 0.3 + v.double() * 0.7).float() for k, v in states[1].items()
    }
    return save(path, mixed)


def test_what_is_no_landscape_is_refused_in_one_sentence(
    runs: Path, task: str, tmp_path: Path
) -> None:
    base, out = runs / "base.pt", ["-o", tmp_path / "out"]
    same = save(tmp_path / "same.pt", torch.load(base, weights_only=True))
    between = on_a_line(runs, tmp_path / "between.pt")
    cases: list[tuple[list[Path], list[object], str]] = [
        ([*of(runs, 0), between], ["--base", base], "base, run-0.pt and between.pt lie on"),
        ([base, *of(runs, 0), between], [], "lie on one line"),
        ([base, same], [], "same.pt holds the same tensors as .*base.pt"),
        (of(runs, 0, 0), [], "is .*run-0.pt again"),
        (of(runs, 0, 1, 0), [], "is .*run-0.pt again"),
        ([same, *of(runs, 0)], ["--base", base], "base and same.pt are the same model"),
        (of(runs, 0), [], "1 checkpoint is no landscape; give two"),
        ([*of(runs, 0, 1, 2), base], [], "4 checkpoints are no landscape"),
        (of(runs, 0, 1), ["--grid", "1"], "at least two points"),
        (of(runs, 0, 1), ["--margin", "-1"], "cannot be negative"),
        (of(runs, 0, 1), ["--split", "tset"], "--split 'tset': task digits has train"),
        (of(runs, 0, 1), ["--store", tmp_path / "no" / "s.sqlite"], "no store can be kept there"),
        (of(runs, 0, 1), ["--store", tmp_path / "out" / "s.sqlite"], "would be replaced"),
    ]  # fmt: skip
    import re

    for inputs, more, says in cases:
        assert re.search(says, complaint(ladle(inputs, task, *more, *out))), says
    some = ladle(of(runs, 0, 1), task.replace("Some", "Whole"), "--samples", "5", *out)
    assert "cannot predict some examples alone, so leave out --samples" in complaint(some)
    onto = ladle(of(runs, 0, 1), task, "-o", runs, "--overwrite")
    assert "would mix" in complaint(onto)
    assert passes(task) == []
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("flag", [["--grid", "five"], ["--margin", "much"], ["--samples", "0"]])
def test_a_flag_that_is_no_number_is_refused(
    runs: Path, task: str, tmp_path: Path, flag: list[str]
) -> None:
    done = ladle(of(runs, 0, 1), task, "-o", tmp_path / "out", *flag)
    assert done.returncode == 2
    assert flag[0] in done.stderr


def test_a_store_of_another_task_is_refused(runs: Path, task: str, tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    ours = ladle(of(runs, 0, 1), task, "--grid", "3", "--store", store, "-o", tmp_path / "out")
    assert ours.returncode == 0
    theirs = write_counted(tmp_path / "theirs.py", "Some", digest="another")
    given = of(runs, 0, 1), theirs, "--grid", "3"
    done = ladle(*given, "--store", store, "-o", tmp_path / "other")
    assert "has evaluations of another task, and none of digits" in complaint(done)
    # One that has both is a store that commands share.
    assert ladle(*given, "-o", tmp_path / "own").returncode == 0
    from ladle.evaluate import Store

    both = Store(store)
    both.take_over(tmp_path / "own" / "ladle.sqlite")
    both.close()
    assert ladle(*given, "--store", store, "-o", tmp_path / "third").returncode == 0
