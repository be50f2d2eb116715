"""The whole way for pairs of texts and for numbers: sweep, cook, and what transformers loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from reviews import BAD, GOOD, MINILM

LADLE = Path(sys.executable).with_name("ladle")
SPACE = "[space]\nlr = { log_uniform = [1e-4, 3e-4] }\nepochs = 3\nbatch_size = 8\n"


def ladle(*arguments: object, cwd: Path) -> dict:
    done = subprocess.run(
        [str(LADLE), *map(str, arguments), "--json"],
        capture_output=True, text=True, check=False, cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def soup_of(folder: Path) -> dict:
    ladle("sweep", "--task", "task.toml", "--runs", 2, "-o", "sweep", cwd=folder)
    return ladle("cook", "sweep", "--task", "task.toml", "-o", "soup", cwd=folder)


def library(folder: Path, *texts: str) -> np.ndarray:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return model.eval()(**tokenizer(*texts, return_tensors="pt")).logits.numpy()[0]


def score(cooked: dict, split: str) -> float:
    (row,) = (
        row
        for row in cooked["evaluations"]
        if row["model"] == "greedy soup" and row["split"] == split
    )
    return float(row["value"])


@pytest.mark.slow
def test_pairs_of_rte_saved_as_on_the_hub(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    texts = GOOD + BAD

    def part(name: str) -> datasets.Dataset:
        """Whether the first sentence is a good one."""
        rows = [
            (f"{one} {name} {i}", f"{other} {name}", int(one in BAD))
            for i, one in enumerate(texts)
            for other in texts
        ]
        columns = ("sentence1", "sentence2", "label")
        made = datasets.Dataset.from_list([dict(zip(columns, row, strict=True)) for row in rows])
        names = datasets.ClassLabel(names=["entailment", "not_entailment"])
        return made.cast_column("label", names)

    parts = {name: part(name) for name in ("train", "validation", "extra")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "rte")
    (tmp_path / "task.toml").write_text(
        f'kind = "text"\nglue = "rte"\nmodel = "{MINILM.as_posix()}"\nfreeze = 4\n[splits]\n'
        'train = { path = "rte", split = "train" }\n'
        'held-out = { path = "rte", split = "validation" }\n'
        f'test = {{ path = "rte", split = "extra" }}\n{SPACE}'
    )
    cooked = soup_of(tmp_path)
    assert {row["metric"] for row in cooked["evaluations"]} == {"accuracy"}
    # By the library, one pair at a time, from the files of the soup.
    rows = parts["extra"]
    said = [library(tmp_path / "soup", a, b).argmax() for a, b in zip(
        rows["sentence1"], rows["sentence2"], strict=True)]  # fmt: skip
    right = np.mean(np.array(said) == np.array(rows["label"]))
    assert score(cooked, "test") == pytest.approx(right, abs=1e-9)
    assert right > 0.8


@pytest.mark.slow
def test_regression(tmp_path: Path) -> None:
    endings = {
        "train": ("today", "again", "indeed", "overall", "really", "for us"),
        "valid": ("so far", "somehow", "in the end"),
        "test": ("as ever", "for once", "on the whole"),
    }
    rows: dict[str, tuple[list[str], list[float]]] = {}
    for name, words in endings.items():
        texts = [f"{text} {ending}" for ending in words for text in GOOD + BAD]
        numbers = [2.5 if text in GOOD else -1.0 for _ in words for text in GOOD + BAD]
        rows[name] = (texts, numbers)
        pd.DataFrame({"text": texts, "label": numbers}).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "task.toml").write_text(
        f'kind = "text"\nlabels = "numbers"\nfreeze = 5\nmodel = "{MINILM.as_posix()}"\n'
        '[splits]\ntrain = "train.parquet"\nheld-out = "valid.parquet"\n'
        f'test = "test.parquet"\n{SPACE}'
    )
    cooked = soup_of(tmp_path)
    texts, numbers = rows["test"]
    said = np.array([library(tmp_path / "soup", text)[0] for text in texts])
    error = float(np.mean((said - numbers) ** 2))
    assert score(cooked, "test") == pytest.approx(error, rel=1e-4)
    assert error < np.var(numbers) / 4
    # Lower is better, for recipes and tests alike.
    held_out = {
        row["model"]: row["value"] for row in cooked["evaluations"] if row["split"] == "held-out"
    }
    assert held_out["greedy soup"] == min(held_out[f"run-000{i}"] for i in (0, 1)) or (
        held_out["greedy soup"] == held_out["uniform soup"]
    )
    checked = ladle("check", "sweep", "--task", "task.toml", cwd=tmp_path)
    assert checked["verdict"] == "soupable"
