"""Images that cannot be decoded: an error, or left out of everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from imagenets import paint, pixels
from ladle.errors import BadInput, BadTask, CorruptImage
from ladle.tasks import ImageClassification
from ladle.tasks.vision import Examples, read_image_folder
from ladle.tasks.vision_pictures import are_corrupt

CPU = torch.device("cpu")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for i in range(3):
        paint(tmp_path / "tree" / "cat" / f"{i}.png", pixels(i))
        paint(tmp_path / "tree" / "dog" / f"{i}.jpg", pixels(10 + i))
    return tmp_path / "tree"


def task_of(tree: Path, *, skip: bool) -> ImageClassification:
    images, labels, names = read_image_folder(tree)
    splits = {"held-out": Examples("held-out", images, labels)}
    return ImageClassification(
        "tree", "timm:test_vit", splits, label_names=names, image_size=32, skip_corrupt=skip
    )


def logits(task: ImageClassification) -> np.ndarray:
    torch.manual_seed(0)
    model = task.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return task.predict(model, "held-out", device=CPU, batch_size=4)


def test_what_is_left_out_is_left_out_of_everything(tree: Path) -> None:
    """Labels, digest, contents and predictions are those of a tree without the damaged images."""
    whole = task_of(tree, skip=True)
    assert whole.remarks == []
    assert len(whole.splits["held-out"]) == 6
    (tree / "cat" / "1.png").write_bytes((tree / "cat" / "1.png").read_bytes()[:200])
    (tree / "dog" / "2.jpg").write_bytes(b"no image")
    with pytest.raises(CorruptImage, match=r"1\.png cannot be read; repair or remove it, or skip"):
        logits(task_of(tree, skip=False))
    skipping = task_of(tree, skip=True)
    assert skipping.remarks == [
        "2 of the 6 images of held-out cannot be read and are left out; the first of them is "
        f"{tree / 'cat' / '1.png'}"
    ]
    ours, found = skipping.splits["held-out"], logits(skipping)
    (tree / "cat" / "1.png").unlink()
    (tree / "dog" / "2.jpg").unlink()
    mended = task_of(tree, skip=False)
    theirs = mended.splits["held-out"]
    assert ours.labels.tolist() == theirs.labels.tolist() == [0, 0, 1, 1]
    assert ours.digest == theirs.digest
    assert ours.contents is not None
    assert theirs.contents is not None
    assert ours.contents.tolist() == theirs.contents.tolist()
    assert np.array_equal(found, logits(mended))


def test_a_split_of_which_nothing_is_left_is_refused(tree: Path) -> None:
    for file in tree.rglob("*.*"):
        file.write_bytes(b"")
    with pytest.raises(
        BadTask, match=r"no image of split held-out can be read; the first .*0\.png"
    ):
        task_of(tree, skip=True)


def test_an_image_that_is_gone_is_not_left_out(tree: Path) -> None:
    """Damage is a fact of the data; a missing file is a mistake of the caller."""
    images = [tree / "cat" / "0.png", tree / "cat" / "gone.png"]
    with pytest.raises(BadInput, match=r"gone\.png does not exist"):
        are_corrupt(images)


def test_images_in_memory_are_whole() -> None:
    assert not are_corrupt(np.zeros((3, 4, 4), np.uint8)).any()
