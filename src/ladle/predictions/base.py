"""What a model said about a split: the one thing that everything after the model works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64] | npt.NDArray[np.float64]
"""Of classes, or, for regression, numbers."""

ExampleNumbers = npt.NDArray[np.int64]
"""Which examples of a split, counted from 0, in an order that may mean something."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of one model on one split.

    `logits` is (N, C) float32, unnormalised; `labels` is (N,) int64 in 0..C-1, or float64 for
    regression, where C is 1. Row i of both belongs to example i of the split, in the split's own
    order, for every model.
    """

    split: str
    logits: Array
    labels: Labels

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or self.labels.shape != self.logits.shape[:1]:
            raise ValueError(
                f"logits {self.logits.shape} and labels {self.labels.shape} of split "
                f"{self.split!r} are not (N, C) and (N,)"
            )

    def __len__(self) -> int:
        return len(self.labels)
