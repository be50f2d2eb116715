"""Examples that are in two splits are found, by what they show."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ladle.evaluate import shared_examples
from ladle.tasks import ImageClassification, load_task
from reviews import write_task


def test_texts_of_held_out_that_are_in_test_are_counted(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    rows = (tmp_path / "valid.csv").read_text().splitlines()
    with (tmp_path / "test.csv").open("a") as file:
        file.write("\n".join(rows[1:4]) + "\n")
    (sentence, *_) = [s for s in shared_examples(load_task(path)) if "of test are in held-out" in s]
    texts = {row.rpartition(",")[0] for row in rows[1:4]}
    found = (tmp_path / "test.csv").read_text()
    assert sentence.startswith(f"{sum(found.count(text) for text in texts):,} of the ")
    assert "by which soups are chosen" in sentence


@pytest.mark.parametrize("as_files", [False, True])
def test_pictures_count_whatever_their_labels(as_files: bool, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    if as_files:
        files = [tmp_path / f"{i}.png" for i in range(12)]
        for file, picture in zip(files, pictures, strict=True):
            Image.fromarray(picture).save(file)
    rows = {"held-out": range(5), "test": range(3, 9), "far": range(9, 12)}
    splits = {
        name: (
            "shift" if name == "far" else name,
            [files[i] for i in chosen] if as_files else pictures[list(chosen)],
            np.array([i % 2 for i in chosen]) if name == "held-out" else np.zeros(len(chosen), int),
        )
        for name, chosen in rows.items()
    }
    task = ImageClassification("pictures", "timm:resnet18", splits, label_names=["a", "b"])  # type: ignore[arg-type]
    (sentence,) = shared_examples(task)
    assert sentence.startswith("2 of the 6 examples of test are in held-out too")


def test_training_files_are_not_read_where_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for i in range(4):
        files.append(tmp_path / f"{i}.png")
        Image.new("RGB", (8, 8), (i, 0, 0)).save(files[-1])

    def task() -> ImageClassification:
        splits = {"train": files[:2], "held-out": files[2:3], "test": files[1:2]}
        given = {name: (name, paths, np.zeros(len(paths), int)) for name, paths in splits.items()}
        return ImageClassification("few", "timm:resnet18", given, label_names=["a", "b"])  # type: ignore[arg-type]

    assert len(shared_examples(task())) == 1
    monkeypatch.setattr("ladle.tasks.vision_splits._MOST_TO_HASH", 0)
    stamped = task().splits["train"]
    assert stamped.contents is None
    assert shared_examples(task()) == []
    assert task().splits["train"].digest == stamped.digest
    os.utime(files[0], (1, 1))
    assert task().splits["train"].digest != stamped.digest
    held_out = task().splits["held-out"]
    assert held_out.contents is not None
