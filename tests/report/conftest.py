"""An output folder to report on: a greedy soup of 5 of 8 models, in the first record version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAMPLE = Path(__file__).parent / "samples" / "greedy"

Soup = dict[str, Any]
Lines = list[dict[str, Any]]
Write = Callable[[Soup, "Lines | None"], Path]


@pytest.fixture
def soup() -> Soup:
    return dict(json.loads((SAMPLE / "soup.json").read_text("utf-8")))


@pytest.fixture
def lines() -> Lines:
    text = (SAMPLE / "evaluations.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the two records into a folder; None leaves the evaluations out."""

    def written(soup: Soup, lines: Lines | None) -> Path:
        (tmp_path / "soup.json").write_text(json.dumps(soup), "utf-8")
        if lines is not None:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / "evaluations.jsonl").write_text(text, "utf-8")
        return tmp_path

    return written


@pytest.fixture
def black_box(soup: Soup) -> Soup:
    """Chosen by a user's score command, lower is better: no task, no splits, no evaluations."""
    for tasting in soup["tastings"]:
        tasting["score"] = round(20 * (1 - tasting["score"]), 4)
    metric = {"name": "perplexity", "higher_is_better": False}
    return soup | {"metric": metric, "task": None, "splits": {}}
