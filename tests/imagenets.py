"""Small trees of real images in the folders that ImageNet and its relatives come in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data import ImageNetInfo

MAPPINGS = Path(__file__).parent / "data" / "objectnet_mappings"
SYNSETS = ImageNetInfo().label_names()


def pixels(seed: int) -> np.ndarray:
    """Coarse blobs (48, 40, 3), which no two seeds share."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def framed(seed: int) -> np.ndarray:
    """The same in ObjectNet's red frame of two pixels."""
    framed = np.zeros((52, 44, 3), np.uint8)
    framed[..., 0] = 255
    framed[2:-2, 2:-2] = pixels(seed)
    return framed


def paint(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 95} if path.suffix != ".png" else {}))
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


def answer(logits: np.ndarray, columns: Columns) -> str:
    """The folder whose largest output is the largest."""
    return max(columns, key=lambda folder: logits[columns[folder]].max())


Say = Callable[[np.ndarray], np.ndarray]
"""From the pixels of one image to the 1000 outputs of a model."""


def fill(
    root: Path, data_set: str, say: Say, *, right: int, wrong: int, seed: int, ending: str
) -> None:
    """Images into a tree: some in the folder that the model says, the others in the next."""
    columns = columns_of(data_set)
    folders = sorted(columns)
    for i in range(right + wrong):
        inner = pixels(seed + i)
        folder = answer(say(inner), columns)
        if i >= right:
            folder = folders[(folders.index(folder) + 1) % len(folders)]
        image = framed(seed + i) if data_set == "objectnet" else inner
        paint(root / folder / f"{data_set} {seed + i}{ending}", image)
