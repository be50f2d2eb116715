"""Output folders to report on: a greedy soup of 5 of 8 models, in the first record version; a
sweep; a landscape and a comparison, as the commands wrote them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parent / "report" / "samples"

Soup = dict[str, Any]
Lines = list[dict[str, Any]]
Write = Callable[[Soup, "Lines | None"], Path]


def load(name: str) -> dict[str, Any]:
    return dict(json.loads((SAMPLES / name).read_text("utf-8")))


def sample_soup() -> Soup:
    return load("greedy/soup.json")


def sample_lines() -> Lines:
    text = (SAMPLES / "greedy" / "evaluations.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def write_to(folder: Path, soup: Soup, lines: Lines | None) -> Path:
    """Writes the two records into a folder; None leaves the evaluations out."""
    folder.mkdir(exist_ok=True)
    (folder / "soup.json").write_text(json.dumps(soup), "utf-8")
    if lines is not None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "evaluations.jsonl").write_text(text, "utf-8")
    return folder


def scored_by_a_command(soup: Soup) -> Soup:
    """Chosen by a user's score command, lower is better: no task, no splits, no evaluations."""
    for tasting in soup["tastings"]:
        tasting["score"] = round(20 * (1 - tasting["score"]), 4)
    metric = {"name": "perplexity", "higher_is_better": False}
    return soup | {"metric": metric, "task": None, "splits": {}}


def with_everything(folder: Path) -> Path:
    """A soup's folder with calibration, hyper-parameters, a landscape and a comparison."""
    soup, lines = sample_soup(), sample_lines()
    for i, one in enumerate(soup["pool"]):
        settings = {"lr": 1e-5 * 1.7**i, "epochs": 2 + i % 2, "augment": i % 3 == 0, "seed": i}
        one["hyperparameters"] = settings | {"schedule": "cosine"}
    for line in lines:
        if line["role"] == "test":
            bins = [
                {"confidence": 0.5 + 0.1 * i, "accuracy": 0.48 + 0.1 * i, "n": 800}
                for i in range(5)
            ]
            line["calibration"] = {"ece": 0.02, "bins": bins}
    write_to(folder, soup, lines)
    for name in ("landscape", "comparison"):
        shutil.copytree(SAMPLES / name, folder / name)
    return folder


def write_sweep(folder: Path, runs: list[dict[str, Any]]) -> Path:
    """The folder of a sweep with these run.json."""
    folder.mkdir(exist_ok=True)
    about = {"version": 2, "task": "toy", "task_digest": "ab", "seed": 0, "points": "random"}
    about |= {"space": {"lr": {"log_uniform": [1e-5, 1e-3]}, "epochs": {"choice": [2, 3]}}}
    (folder / "sweep.json").write_text(json.dumps(about), "utf-8")
    for run in runs:
        (folder / run["name"]).mkdir(exist_ok=True)
        (folder / run["name"] / "run.json").write_text(json.dumps(run), "utf-8")
    return folder


def run_record(number: int, value: float | None, **more: Any) -> dict[str, Any]:
    """A run.json; its score on the way is a little lower than that of its end."""
    name = f"run-{number:04d}"
    settings = {"lr": 1e-5 * 3.0**number, "epochs": 2 + number % 2, "seed": 7 * number}
    scores = [
        {"step": step, "split": "held-out", "metric": "accuracy", "value": score}
        for step, score in ((10, None if value is None else value - 0.01), (20, value))
    ]
    start = {"version": 2, "name": name, "run": settings, "step": 20, "scores": scores}
    losses = {"training_loss": [0.7, 0.5 - number / 100], "failed": None, "seconds": 12.5}
    return start | losses | more
