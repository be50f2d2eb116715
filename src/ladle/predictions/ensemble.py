"""Ensembles of stored predictions, at no further forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ladle.predictions.base import Predictions


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """The mean of the members' unnormalised logits (paper, section 2).

    Raises:
        ValueError: the members were not measured on the same examples.
    """
    first = members[0]
    for other in members[1:]:
        if other.split != first.split or not np.array_equal(other.labels, first.labels):
            raise ValueError(f"predictions of different data: {first.split} and {other.split}")
    total = np.zeros(first.logits.shape, np.float64)
    for member in members:
        total += member.logits
    return Predictions(first.split, (total / len(members)).astype(np.float32), first.labels)
