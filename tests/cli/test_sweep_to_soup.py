"""From a pre-trained model and a task file to a soup that transformers loads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reviews import write_task

LADLE = Path(sys.executable).with_name("ladle")


def ladle(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(LADLE), *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_sweep_cook_and_load_with_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    write_task(tmp_path)
    ladle("sweep", "--task", "task.toml", "--runs", 2, "-o", "sweep", cwd=tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("sweep/run-*/model.safetensors")}
    assert len(stamps) == 2
    # A longer sweep keeps what is there.
    ladle("sweep", "--task", "task.toml", "--runs", 3, "-o", "sweep", cwd=tmp_path)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    page = (tmp_path / "sweep" / "report.html").read_text("utf-8")
    assert "<h1>Sweep of 3 runs</h1>" in page
    assert list(tmp_path.glob("sweep/figures/hyperparameter-*.svg"))

    cooked = json.loads(
        ladle("cook", "sweep", "--task", "task.toml", "--recipe", "uniform",
              "-o", "soup", "--json", cwd=tmp_path)
    )  # fmt: skip
    assert [one["name"] for one in cooked["soup"]["ingredients"]] == [
        "run-0000",
        "run-0001",
        "run-0002",
    ]
    assert {row["model"] for row in cooked["evaluations"]} >= {"base", "run-0000", "uniform soup"}

    # The library loads the folder, and says what a float64 average made by hand says.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "soup")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "soup")("a moving film", return_tensors="pt")
    runs = [
        AutoModelForSequenceClassification.from_pretrained(run)
        for run in sorted(tmp_path.glob("sweep/run-*"))
    ]
    by_hand = runs[0]
    states = [run.state_dict() for run in runs]
    by_hand.load_state_dict(
        {
            name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in states[0].items()
        }
    )
    with torch.inference_mode():
        ours, theirs = model.eval()(**tokens).logits, by_hand.eval()(**tokens).logits
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert model.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.slow
def test_the_first_example_of_the_readme_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    block = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert block
    write_task(tmp_path)
    ladle("sweep", "--task", "task.toml", "--runs", 2, "-o", "runs", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(block.group(1), {})  # noqa: S102 -- our own page
    assert (tmp_path / "soup" / "model.safetensors").is_file()
