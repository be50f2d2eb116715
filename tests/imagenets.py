"""Small trees of real images in the folders that ImageNet and its relatives come in."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import ImageNetInfo

JPEG: dict[str, Any] = {"quality": 100, "subsampling": 0}
MAPPINGS = Path(__file__).parent / "data" / "objectnet_mappings"
SYNSETS = ImageNetInfo().label_names()


def pixels(seed: int, salt: str = "") -> np.ndarray:
    """Coarse blobs (48, 40, 3), which no two seeds share."""
    random = np.random.default_rng([seed, *salt.encode()])
    coarse = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def framed(image: np.ndarray) -> np.ndarray:
    """The same in ObjectNet's red frame of two pixels."""
    return np.stack([np.pad(image[..., i], 2, constant_values=(255, 0, 0)[i]) for i in range(3)], 2)


def compressed(image: np.ndarray) -> np.ndarray:
    """What a JPEG of it shows, which compressed once more stays nearly the same."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **JPEG)
    return np.array(Image.open(buffer))


def paint(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **(JPEG if path.suffix != ".png" else {}))
    return path


def objectnet_columns() -> dict[str, list[int]]:
    """The columns of ImageNet by folder of ObjectNet, 113 of them."""
    read = {name: json.loads((MAPPINGS / f"{name}.json").read_text()) for name in _JSON}
    folder = {label: name for name, label in read["folder_to_objectnet_label"].items()}
    lines = (MAPPINGS / "imagenet_to_label_2012_v2").read_text().split("\n")
    column = {number: int(key) for key, number in read["pytorch_to_imagenet_2012_id"].items()}
    return {
        folder[label]: [column[lines.index(word)] for word in words.split("; ")]
        for label, words in read["objectnet_to_imagenet_1k"].items()
    }


_JSON = ("folder_to_objectnet_label", "objectnet_to_imagenet_1k", "pytorch_to_imagenet_2012_id")


def make_objectnet(root: Path) -> Path:
    """An objectnet-1.0 with its mappings, and as yet no images."""
    (root / "images").mkdir(parents=True)
    shutil.copytree(MAPPINGS, root / "mappings")
    return root


def class_names(file: str) -> list[str]:
    """WordNet's names of the classes of ImageNet-A or -R, from another list than the one we use."""
    import timm.data

    path = Path(str(timm.data.__file__)).parent / "_info" / f"imagenet_{file}_synsets.txt"
    return path.read_text().split()


Columns = Mapping[str, list[int]]
"""By folder, the outputs of a model that speak for it."""


def columns_of(data_set: str) -> Columns:
    if data_set == "objectnet":
        return objectnet_columns()
    if data_set == "v2":
        return {str(i): [i] for i in range(1000)}
    names = class_names(data_set) if data_set in ("a", "r") else SYNSETS
    return {name: [SYNSETS.index(name)] for name in names}


Say = Callable[[np.ndarray], np.ndarray]
"""From the pixels of one image to the 1000 outputs of a model."""


def projected(says: Sequence[Say], image: np.ndarray, columns: Columns) -> np.ndarray:
    """(models + 1, classes) in the order of the sorted folders; the last row is the ensemble's.

    Of each class the largest of its columns, and of an ensemble the mean of these.
    """
    said = [say(image) for say in says]
    each = [[logits[columns[folder]].max() for folder in sorted(columns)] for logits in said]
    return np.array([*each, np.mean(each, axis=0)])


def fill(
    root: Path, data_set: str, says: Sequence[Say], *, alone: int, together: int, ending: str
) -> list[float]:
    """Images into the folders of a tree; what share of them each model gets right, and all of them.

    The first model is right about as many as `alone` says, and the ensemble about `together`
    others. Only images on which no answer is a close call are taken.
    """
    columns = columns_of(data_set)
    folders = sorted(columns)
    right: list[np.ndarray] = []
    for seed in itertools.count():
        # Of different data sets too, no two images are the same.
        inner = compressed(pixels(seed, data_set)) if ending != ".png" else pixels(seed, data_set)
        scores = projected(says, inner, columns)
        best, second = np.sort(scores)[:, :-3:-1].T
        answers = scores.argmax(axis=1)
        if (best - second).min() < 0.02 or answers[0] == answers[-1]:
            continue
        label = answers[0 if len(right) < alone else -1]
        image = framed(inner) if data_set == "objectnet" else inner
        paint(root / folders[label] / f"{data_set} {seed}{ending}", image)
        right.append(answers == label)
        if len(right) == alone + together:
            return np.mean(right, axis=0).tolist()
    raise AssertionError
