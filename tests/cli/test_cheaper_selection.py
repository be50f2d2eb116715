"""`cook --full-evaluation` and `cook --recipe screened --budget`."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from digits import EXAMPLE, make_runs
from ladle.cli import main

SOME = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
import torch
from digits_task import Digits

class Some(Digits):
    def arranged(self, split, order, *, batch_size):
        return np.split(order, range(batch_size, len(order), batch_size))

    @torch.inference_mode()
    def predict_some(self, model, split, batches, *, device):
        for batch in batches:
            yield model(torch.from_numpy(self.images[split][batch])).numpy()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"), 5)


@pytest.fixture
def task(tmp_path: Path) -> str:
    (tmp_path / "some.py").write_text(SOME.format(folder=str(EXAMPLE.parent)))
    return f"{tmp_path}/some.py:Some"


def cook(*given: object) -> tuple[int, str, str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        main(["cook", *map(str, given)])
    return int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue()


@pytest.mark.slow
def test_full_evaluation_makes_the_same_file(runs: list[Path], task: str, tmp_path: Path) -> None:
    records: list[Any] = []
    for name, more in (("early", ()), ("full", ("--full-evaluation",))):
        out = tmp_path / name
        done = cook(*runs, "--task", task, "--batch-size", 8, "-o", out, "--json", *more)
        assert done[0] == 0, done[2]
        records.append(json.loads(done[1]))
    early, full = records
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("early", "full")]
    assert files[0] == files[1]
    assert early["evaluations"] == full["evaluations"]
    dropped = [one for one in early["soup"]["tastings"] if one["bound"] is not None]
    assert dropped
    for one in dropped:
        assert one["score"] is None
        assert one["reason"].endswith("of 500 examples")
    assert all(one["bound"] is None for one in full["soup"]["tastings"])
    page = (tmp_path / "early" / "report.html").read_text("utf-8")
    assert "≤" in page
    assert "dropped early" in page


def test_what_was_dropped_is_told(runs: list[Path], task: str, tmp_path: Path) -> None:
    code, said, _ = cook(*runs, "--task", task, "--batch-size", 8, "-o", tmp_path / "soup")
    assert code == 0
    lines = [line for line in said.splitlines() if "examples" in line]
    assert lines
    assert all(line.split()[0] == "dropped" for line in lines)


def test_screened_measures_as_many_as_its_budget_says(
    runs: list[Path], task: str, tmp_path: Path
) -> None:
    more = ("--recipe", "screened", "--budget", 7, "-o", tmp_path / "soup", "--json")
    code, said, errors = cook(*runs, "--task", task, *more)
    assert code == 0, errors
    record = json.loads(said)["soup"]
    assert record["recipe"]["name"] == "screened"
    assert record["recipe"]["options"] == {"budget": 7, "strict": False}
    assert len(record["tastings"]) == 7


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("--budget", 9), "--budget goes with --recipe screened, not with greedy"),
        (("--recipe", "screened", "--budget", 2), "--budget 2 does not suffice to measure the 5"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(
    runs: list[Path], task: str, tmp_path: Path, given: tuple[object, ...], complaint: str
) -> None:
    code, _, errors = cook(*runs, "--task", task, "-o", tmp_path / "soup", *given)
    assert code == 2
    assert complaint in errors
    assert len(errors.splitlines()) == 1


def test_a_black_box_has_neither(runs: list[Path], tmp_path: Path) -> None:
    score = ("--score", "echo 1 {model}", "-o", tmp_path / "soup")
    code, _, errors = cook(*runs, *score, "--full-evaluation")
    assert code == 2
    assert "--full-evaluation goes with --task" in errors
    code, _, errors = cook(*runs, *score, "--recipe", "screened")
    assert code == 2
    assert "looks at predictions" in errors
