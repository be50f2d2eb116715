"""Labelled images as the splits of a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from ladle.errors import BadTask
from ladle.predictions import ClassSubset
from ladle.tasks.base import Drawn, Role, Split
from ladle.tasks.vision_pictures import (
    Encoded,
    Images,
    are_corrupt,
    hashed_examples,
    name_of,
    nbytes_of,
    some_images,
    stamp_of,
)


class Examples(NamedTuple):
    """Labelled images and what they may be used for; labels count from 0.

    `drawn` tells how the examples were cut out of train, where they were. Labels count the
    `classes` where they are not the model's. Each image loses `border` pixels on every side before
    anything else.
    """

    role: Role
    images: Images
    labels: npt.ArrayLike
    drawn: Drawn | None = None
    classes: ClassSubset | None = None
    border: int = 0


_MOST_TO_HASH = 4 << 30
"""Bytes of training files that are read only to see whether test data are among them."""


def as_split(name: str, part: Examples) -> Split:
    """The split of these examples; reads every byte of their images, for the digests.

    Many training files are not read (ImageNet has 140 GB of them), for no score depends on them:
    they are known by name, size and time, and what they show is not compared with other splits.
    """
    labels = np.asarray(part.labels, dtype=np.int64)
    contents: npt.NDArray[np.uint64] | None = None
    if part.role == "train" and nbytes_of(part.images) > _MOST_TO_HASH:
        digest = stamp_of(part.images, labels)
    else:
        digest, contents = hashed_examples(part.images, labels)
    if part.border:
        digest = f"{digest}-{part.border}"
    return Split(name, part.role, labels, digest, contents, part.classes, part.drawn)


def without_corrupt(name: str, part: Examples) -> tuple[Examples, list[str]]:
    """The examples whose images can be decoded, and a sentence on the others if there are any."""
    corrupt = are_corrupt(part.images)
    if not corrupt.any():
        return part, []
    first = name_of(part.images, int(corrupt.argmax()))
    if corrupt.all():
        raise BadTask(f"no image of split {name} can be read; the first of them is {first}")
    kept = np.flatnonzero(~corrupt)
    images = some_images(part.images, kept.tolist())
    sentence = (
        f"{corrupt.sum():,} of the {len(corrupt):,} images of {name} cannot be read and are left "
        f"out; the first of them is {first}"
    )
    return part._replace(images=images, labels=np.asarray(part.labels)[kept]), [sentence]


def check_splits(task: str, splits: Mapping[str, Examples], model_classes: int) -> None:
    for name, (role, images, given, _, subset, _) in splits.items():
        labels = np.asarray(given)
        if subset is not None and subset.width > model_classes:
            raise BadTask(
                f"the classes of split {name} are made of {subset.width} columns, and the model of "
                f"task {task} has {model_classes}; give it all label names"
            )
        if subset is not None and role == "train":
            raise BadTask(
                f"split {name} of task {task} has classes of its own, for which the model has no "
                "outputs; train on data that has the model's classes"
            )
        classes = model_classes if subset is None else len(subset)
        if role not in get_args(Role):
            raise BadTask(
                f"split {name} of task {task} has the role {role!r}; "
                f"choose from {', '.join(get_args(Role))}"
            )
        if len(images) == 0:
            raise BadTask(f"split {name} of task {task} is empty; give it images or leave it out")
        if not isinstance(images, np.ndarray):
            if not isinstance(images, Encoded) and not all(
                isinstance(image, str | Path) for image in images
            ):
                raise BadTask(
                    f"images of split {name} are neither one array nor paths; give uint8 (N, H, W) "
                    "or (N, H, W, C), or a list of image files"
                )
        elif not (
            images.dtype == np.uint8
            and (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3)))
        ):
            raise BadTask(
                f"images of split {name} are {images.dtype} {images.shape}; give uint8 (N, H, W) "
                "or (N, H, W, C) with 1 or 3 channels"
            )
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise BadTask(
                f"labels of split {name} are {labels.dtype} {labels.shape}; give one integer for "
                f"each of its {len(images)} images"
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise BadTask(
                f"labels of split {name} go from {labels.min()} to {labels.max()}; with {classes} "
                f"{'label names' if subset is None else 'classes'} they go from 0 to {classes - 1}"
            )
    count = {role: sum(part.role == role for part in splits.values()) for role in get_args(Role)}
    if count["held-out"] != 1 or count["train"] > 1 or count["test"] > 1:
        raise BadTask(
            f"task {task} has {count['train']} train, {count['held-out']} held-out and "
            f"{count['test']} test splits; give exactly one held-out split, for recipes to choose "
            "by, and at most one of the others"
        )
