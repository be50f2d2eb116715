"""Labelled texts, or pairs of texts, as the splits of a task."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from ladle.errors import BadTask
from ladle.tasks.base import Drawn, Role, Split
from ladle.tasks.text_files import Text


class Texts(NamedTuple):
    """Labelled texts, or pairs of texts, and what they may be used for; classes count from 0.

    `drawn` tells how the examples were cut out of train, where they were.
    """

    role: Role
    texts: Sequence[Text]
    labels: Sequence[float]
    drawn: Drawn | None = None


def as_split(name: str, examples: Texts, *, regression: bool) -> Split:
    """The split of these examples, with the digests of what they are and show."""
    role, texts, given, drawn = examples
    labels = [float(label) if regression else int(label) for label in given]
    digest = hashlib.sha256(json.dumps([list(texts), labels]).encode()).hexdigest()
    kept = np.array(labels, np.float64) if regression else np.array(labels, np.int64)
    return Split(name, role, kept, digest, _contents(texts), drawn=drawn)


def check_splits(task: str, splits: Mapping[str, Texts], classes: int | None) -> None:
    """Raise `BadTask` for splits that no task can be made of; `classes` is None for regression."""
    kinds = {_kind(text) for split in splits.values() for text in split.texts}
    if len(kinds) > 1 or None in kinds:
        raise BadTask(f"texts of task {task} have to be all strings, or all pairs of strings")
    for key, split in splits.items():
        where = f"split {key!r} of task {task}"
        if split.role not in get_args(Role):
            raise BadTask(
                f"{where} has the role {split.role!r}; the roles are {', '.join(get_args(Role))}"
            )
        if not split.texts:
            raise BadTask(f"{where} is empty; give it examples or leave it out")
        if len(split.texts) != len(split.labels):
            raise BadTask(
                f"{where} has {len(split.texts)} texts and {len(split.labels)} labels; "
                f"give one label per text"
            )
        fits = (
            math.isfinite(label) if classes is None else label in range(classes)
            for label in split.labels
        )
        wrong = next((example for example, right in enumerate(fits) if not right), None)
        if wrong is not None:
            raise BadTask(
                f"{where} has the label {split.labels[wrong]} at example {wrong}; "
                + (
                    "regression needs finite numbers"
                    if classes is None
                    else f"labels go from 0 to {classes - 1}, one per label name"
                )
            )
    roles = [split.role for split in splits.values()]
    for role, least in (("held-out", 1), ("train", 0), ("test", 0)):
        if not least <= roles.count(role) <= 1:  # type: ignore[arg-type]
            raise BadTask(
                f"task {task} has {roles.count(role)} splits with the role {role}; "  # type: ignore[arg-type]
                f"give {'exactly' if least else 'at most'} one"
            )


def _kind(text: object) -> type | None:
    """str or tuple, or None for what is no text and no pair of texts."""
    if isinstance(text, str):
        return str
    pair = isinstance(text, tuple) and len(text) == 2 and all(isinstance(x, str) for x in text)
    return tuple if pair else None


def _contents(texts: Sequence[Text]) -> npt.NDArray[np.uint64]:
    # JSON keeps the two texts of a pair apart, whatever they hold.
    shown = (text if isinstance(text, str) else json.dumps(text) for text in texts)
    each = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8] for text in shown)
    return np.frombuffer(b"".join(each), "<u8").astype(np.uint64)
