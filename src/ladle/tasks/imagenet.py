"""ImageNet, and the data sets that try its models elsewhere, in the folders they come in.

Labels follow from the names of the folders, never from how many there are. Classes of ImageNet-A,
ImageNet-R and ObjectNet are made of the model's 1000 as in the official code of the paper, which
is mlfoundations/model-soups, `datasets/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ladle.errors import BadTask
from ladle.predictions import ClassSubset
from ladle.tasks.base import Role
from ladle.tasks.vision_pictures import SUFFIXES, class_folders, imported, read_image_folder
from ladle.tasks.vision_splits import Examples
from ladle.wording import some

OBJECTNET_BORDER = 2
"""Pixels: ObjectNet's images come in a red frame, which its authors ask to cut off."""


@dataclass(frozen=True)
class DataSet:
    """Where the class folders of a data set are, and what they mean.

    `folders` are those of the classes in the order of the labels; `classes` says how these are made
    of ImageNet's, None where they are ImageNet's. `unused` are folders of no class.
    """

    title: str
    path: Path
    folders: tuple[str, ...]
    classes: ClassSubset | None = None
    unused: frozenset[str] = frozenset()
    border: int = 0


@dataclass(frozen=True)
class Wanted:
    """A split of ImageNet or one of its relatives, a key of `DATA_SETS`; its tree may lack classes.

    `crop_border` is of ObjectNet alone.
    """

    path: Path
    data_set: str
    role: Role
    crop_border: bool = True

    @classmethod
    def read(cls, file: Path, name: str, role: Role, path: Path, given: object) -> Wanted:
        """From what a task file says: a path, or a table with `path`, `set` and `crop_border`.

        A split is ImageNet's and a shift that of its name, unless `set` says otherwise.

        Raises:
            BadTask: it does not say which data set, or says it wrongly.
        """
        table = given if isinstance(given, Mapping) else {}
        where = f"{file}: {'shifts' if role == 'shift' else 'splits'}.{name}"
        data_set = table.get("set", name if role == "shift" else "imagenet")
        if not isinstance(data_set, str) or data_set not in DATA_SETS:
            known = ", ".join(DATA_SETS)
            if "set" in table:
                raise BadTask(f"{where}.set is {data_set!r}; it must be one of {known}")
            raise BadTask(
                f"{where} has the name of no data set ({known}); say which it is, as in "
                f"{name} = {{ path = {str(given)!r}, set = 'v2' }}"
            )
        crop_border = table.get("crop_border", True)
        if not isinstance(crop_border, bool):
            raise BadTask(f"{where}.crop_border is {crop_border!r}; it has to be true or false")
        if "crop_border" in table and data_set != "objectnet":
            raise BadTask(f"{where}.crop_border is of objectnet alone; leave it out")
        return cls(path, data_set, role, crop_border)


def read_examples(wanted: Wanted) -> Examples:
    """The images of a data set, with their labels and what its classes are made of.

    Raises:
        BadTask: the folders are none of this data set.
        MissingExtra: timm, which brings the lists of classes, is not installed.
    """
    found = DATA_SETS[wanted.data_set](wanted.path)
    folders = _folders_of(found)
    known = {*found.folders, *found.unused}
    if unknown := [folder for folder in folders if folder not in known]:
        raise BadTask(
            f"{found.path} holds folders that are no classes of {found.title}: {some(unknown)}; "
            f"give the folder of {found.title} as it is distributed, or say which data set it is"
        )
    if found.unused.issuperset(folders):
        raise BadTask(f"{found.path} holds none of the classes of {found.title} that count")
    images, labels, _ = read_image_folder(found.path, found.folders, ignored=found.unused)
    border = found.border if wanted.crop_border else 0
    return Examples(wanted.role, images, labels, classes=found.classes, border=border)


@lru_cache(maxsize=1)
def synsets() -> tuple[str, ...]:
    """WordNet's names of the 1000 classes, in the order of a model's outputs."""
    return tuple(imported("timm.data").ImageNetInfo("imagenet-1k").label_names())


def _imagenet(path: Path) -> DataSet:
    return DataSet("ImageNet", path, synsets())


def _sketch(path: Path) -> DataSet:
    return DataSet("ImageNet-Sketch", path, synsets())


def _v2(path: Path) -> DataSet:
    # Its folders are named for the labels; sorted, 10 would come before 2.
    return DataSet("ImageNet-V2", path, tuple(map(str, range(1000))))


def _a(path: Path) -> DataSet:
    return _with_some_classes("ImageNet-A", path, "imagenet_a_indices.txt")


def _r(path: Path) -> DataSet:
    return _with_some_classes("ImageNet-R", path, "imagenet_r_indices.txt")


def _with_some_classes(title: str, path: Path, file: str) -> DataSet:
    numbers = sorted(_indices(file))
    names = synsets()
    columns = ClassSubset(tuple((number,) for number in numbers))
    return DataSet(title, path, tuple(names[number] for number in numbers), columns)


@lru_cache(maxsize=2)
def _indices(file: str) -> tuple[int, ...]:
    """Numbers of classes, from the lists that timm carries along but has no function for."""
    imported("timm.data")
    try:
        text = (resources.files("timm.data") / "_info" / file).read_text("utf-8")
    except FileNotFoundError:
        raise BadTask(f"the installed timm lacks its list {file}; install timm 1.0.9") from None
    return tuple(map(int, text.split()))


def _objectnet(path: Path) -> DataSet:
    root = path.parent if path.name == "images" else path
    for needed in ("images", "mappings"):
        if not (root / needed).is_dir():
            raise BadTask(
                f"{root} has no folder {needed}; give the folder objectnet-1.0 as it is "
                "distributed, with images/ and mappings/ in it"
            )
    every, of_class = _objectnet_classes(root / "mappings")
    folders = tuple(sorted(of_class))
    columns = ClassSubset(tuple(of_class[folder] for folder in folders))
    unused = every.difference(folders)
    return DataSet("ObjectNet", root / "images", folders, columns, unused, OBJECTNET_BORDER)


def _objectnet_classes(mappings: Path) -> tuple[frozenset[str], dict[str, tuple[int, ...]]]:
    """All of ObjectNet's folders; and by folder, where ImageNet has the class, its columns there.

    ImageNet's classes are named in words there, and the words stand in an order of their own, that
    of the challenge of 2012.
    """
    label_of = _json(mappings / "folder_to_objectnet_label.json")
    in_words = _json(mappings / "objectnet_to_imagenet_1k.json")
    of_2012 = _json(mappings / "pytorch_to_imagenet_2012_id.json")
    lines = _text(mappings / "imagenet_to_label_2012_v2").splitlines()
    folder_of = {label: folder for folder, label in label_of.items()}
    column_of = {number: int(column) for column, number in of_2012.items()}
    of_class = {}
    for label, words in in_words.items():
        columns = []
        for word in str(words).split("; "):
            rows = [row for row, line in enumerate(lines) if line.strip() == word]
            if label not in folder_of or len(rows) != 1 or rows[0] not in column_of:
                raise BadTask(
                    f"{mappings}: ObjectNet's {label!r} and ImageNet's {word!r} do not meet; take "
                    "the four files as they are distributed"
                )
            columns.append(column_of[rows[0]])
        of_class[folder_of[label]] = tuple(columns)
    return frozenset(label_of), of_class


DATA_SETS: Mapping[str, Callable[[Path], DataSet]] = {
    "imagenet": _imagenet,
    "v2": _v2,
    "sketch": _sketch,
    "r": _r,
    "a": _a,
    "objectnet": _objectnet,
}


def _folders_of(found: DataSet) -> list[str]:
    if found.path.is_dir():
        entries = list(found.path.iterdir())
        if entries and not any(entry.is_dir() for entry in entries):
            images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
            if images:
                raise BadTask(
                    f"{found.path} holds {len(images):,} images and no class folders; sort them "
                    f"into the folders of {found.title} ({found.folders[0]}, ...) first"
                )
    return class_folders(found.path)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise BadTask(f"{path} is not JSON ({error}); take the file as distributed") from error
    if not isinstance(found, dict):
        raise BadTask(f"{path} is not a JSON object; take the file as distributed")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadTask(f"{path} cannot be read ({error}); it comes with ObjectNet") from error
