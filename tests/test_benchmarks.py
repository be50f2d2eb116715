"""The benchmarks run, and compare things that do the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ladle
from ladle.recipes import RECIPES
from reviews import write_task

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script: str, *given: object) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, given)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", ["official_loop.py", "timm_average.py"])
def test_the_others_make_the_same_soup(tmp_path: Path, script: str) -> None:
    run("inputs.py", "clip", "float32", "pt", 3, tmp_path / "models", 10)
    paths = sorted((tmp_path / "models").iterdir())
    run(f"peers/{script}", tmp_path / "theirs.pt", *paths)
    theirs = torch.load(tmp_path / "theirs.pt", weights_only=True)
    ours = ladle.uniform(ladle.open(paths)).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_the_limit_and_the_kernels_are_measured(tmp_path: Path) -> None:
    run("inputs.py", "clip", "bfloat16", "safetensors", 2, tmp_path / "models", 10)
    found = json.loads(run("limit.py", tmp_path / "models", tmp_path, 1))
    assert found["bytes"] == sum(p.stat().st_size for p in (tmp_path / "models").iterdir())
    assert found["limit"] > 0 < found["merge"]
    assert {"compiled", "numpy", "torch"} == json.loads(run("kernels.py"))["bfloat16"].keys()


@pytest.mark.slow
def test_evaluation_is_timed_in_every_way(tmp_path: Path) -> None:
    page = tmp_path / "evaluation.md"
    run("evaluate.py", "--rounds", 1, "--images", 4, "--texts", 8, "--output", page)
    rows = [line.split(" | ") for line in page.read_text("utf-8").splitlines() if line[0:1] == "|"]
    rows = rows[2:]
    assert len(rows) == 2 * (4 + 2) + 3
    assert all(float(row[1]) > 0 for row in rows)
    assert [float(row[4].strip(" |")) for row in rows if "as it stands" in row[0]] == [1.0, 1.0]


@pytest.mark.slow
def test_recipes_are_compared_and_early_exit_is_timed(tmp_path: Path) -> None:
    page, task = tmp_path / "recipes.md", write_task(tmp_path)
    given = ("--runs", 3, "--rounds", 1, "--batch-size", 4, "--sweep", tmp_path / "sweep")
    run("recipes.py", "--task", task, *given, "--seeds", 0, 1, "--output", page)
    told = page.read_text("utf-8")
    sections = {part.partition("\n")[0]: part for part in told.split("\n## ")[1:]}
    assert list(sections) == [
        "Early exit",
        "All recipes",
        "Early exit, sweep of seed 1",
        "Recipes, sweep of seed 1",
    ]
    early, full = rows_of(sections["Early exit"])
    assert (early[0], full[0]) == ("early exit", "full evaluation")
    assert 0 < float(early[2]) <= 1.0 == float(full[2])
    assert float(early[3]) > 0
    table = {row[0]: row for row in rows_of(sections["All recipes"])}
    assert all(name in table or f"Not here: {name}: " in told for name in RECIPES)
    # By name, ingredients, evaluations; then held-out, test and a shift.
    assert all(len(row) == 6 for row in table.values())
    assert table["uniform"][1] == "3"
    assert "learned affine by layer" in sections["Recipes, sweep of seed 1"]


def rows_of(section: str) -> list[list[str]]:
    """The cells of a table, below its head."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


@pytest.mark.slow
def test_workers_of_a_cluster_are_compared(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    task = ["--task", write_task(tmp_path)]
    asked = ["--rounds", 1, "--runs", 2, "--models", 3, "--output", page, "--work", tmp_path]
    run("cluster.py", *task, *asked)
    assert page.read_text().count("| round 1 |") == 2
    log, times = tmp_path / "greedy" / "soup.json", tmp_path / "times.json"
    run("speculation.py", log, "--times", times, "--output", page)
    assert "## 3 models of " in page.read_text()
