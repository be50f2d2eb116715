"""Classes that are made of a model's: what a data set asks of a model that knows more."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ladle.predictions.base import Array


@dataclass(frozen=True)
class ClassSubset:
    """Per class of a split, the columns of a model's logits that speak for it.

    A split of ObjectNet has 113 classes, some of which are several of ImageNet's 1000; one of
    ImageNet-R has 200, each of which is one. A column may speak for no class, and then what it
    says does not count.

    Example:
        >>> clocks_and_bananas = ClassSubset(((409, 530), (954,)))

    Raises:
        ValueError: no class, a class of no column, or a column below 0.
    """

    columns: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.columns or not all(self.columns) or min(map(min, self.columns)) < 0:
            raise ValueError("a class subset needs classes, each of at least one column from 0 on")

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def width(self) -> int:
        """How many columns logits need at least."""
        return 1 + max(map(max, self.columns))

    @property
    def digest(self) -> str:
        """Sha256 of the columns."""
        return hashlib.sha256(repr(self.columns).encode()).hexdigest()

    def project(self, logits: Array) -> Array:
        """Logits (N, classes) out of (N, C): of every class, its largest column.

        What the official code does; NaN in a column is NaN in its class.

        Raises:
            ValueError: the logits have too few columns.
        """
        if logits.shape[1] < self.width:
            raise ValueError(f"{logits.shape[1]} columns of logits, where {self.width} are needed")
        projected = np.empty((len(logits), len(self)), np.float32)
        for number, columns in enumerate(self.columns):
            projected[:, number] = logits[:, list(columns)].max(axis=1)
        return projected
