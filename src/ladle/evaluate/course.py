"""The course of a comparison: which examples are looked at first, and when that is enough.

A candidate is as good as the soup that it would replace on most examples. What settles which is
better are the examples that are hard, so they come first: those that a rival gets wrong, then the
others by how nearly it did. Once the candidate could not reach its bar even if it were perfect on
all that is left, the rest need not be seen.

What is decided is what measuring to the end would decide, exactly. The batches are fixed before,
and gone through in one order whether or not one stops: in the last bits, what a model says of an
example depends on its batch. And the bound is computed as the score is, by the same sum in the
same order over the same number of terms, with the best value in place of those unseen. Floating
point addition is monotone, so it is a bound of the computed score, not only of the true one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ladle.errors import BadTask
from ladle.predictions import Array, ExampleNumbers, Labels, Metric, Predictions
from ladle.soup import reaches

if TYPE_CHECKING:
    from ladle.tasks import PredictsSome


@dataclass(frozen=True, eq=False)
class Course:
    """All examples of a split in batches, which are gone through in this order."""

    batches: Sequence[ExampleNumbers]

    @classmethod
    def of(
        cls, task: PredictsSome, rival: Predictions, metric: Metric, *, batch_size: int
    ) -> Course:
        """The course that begins with what `rival` finds hard.

        Raises:
            BadTask: the metric has an `ideal`, and is no mean of numbers that are no better.
        """
        check_bound(metric, rival)
        order = by_difficulty(rival, metric)
        return cls(task.arranged(rival.split, order, batch_size=batch_size))

    @cached_property
    def digest(self) -> str:
        """Equal where all examples share their batches with the same others."""
        total = hashlib.sha256()
        for batch in self.batches:
            total.update(f"{len(batch)}:".encode())
            total.update(batch.astype("<i8").tobytes())
        return total.hexdigest()

    @cached_property
    def order(self) -> ExampleNumbers:
        """(N,) the examples in the order in which they are seen."""
        return np.concatenate(self.batches)

    def in_split_order(self, rows: Array) -> Array:
        """(N, C) the rows of a full course where their examples are in the split."""
        placed = np.empty_like(rows)
        placed[self.order] = rows
        return placed


def check_bound(metric: Metric, rival: Predictions) -> None:
    """Check on predictions at hand that what a metric says of its bound is true.

    Raises:
        BadTask: it is not.
    """
    if metric.per_example is None or metric.ideal is None:
        raise ValueError(f"scores of {metric.name} have no bound")
    values = metric.per_example(rival)
    best = metric.sign * float(np.max(metric.sign * values))
    if metric.sign * best > metric.sign * metric.ideal:
        raise BadTask(
            f"the metric {metric.name!r} gives an example {best:g}, better "
            f"than its ideal {metric.ideal:g}; correct the ideal, or leave it out"
        )
    if values.dtype != np.float64 or not _same(float(np.mean(values)), metric(rival)):
        raise BadTask(
            f"the metric {metric.name!r} has an ideal, so its score has to be the plain mean of "
            "what it says per example, in float64; make it with ladle.mean_of, or leave the ideal "
            "out"
        )


def _same(one: float, other: float) -> bool:
    return one == other or (np.isnan(one) and np.isnan(other))


def by_difficulty(rival: Predictions, metric: Metric) -> ExampleNumbers:
    """(N,) examples, first those that a rival scores worst on; equals by its rising margin.

    The margin is the logit of the label above the largest other one.
    """
    if metric.per_example is None:
        raise ValueError(f"the metric {metric.name} says nothing of single examples")
    values = metric.sign * metric.per_example(rival)
    return np.lexsort((_margins(rival), values)).astype(np.int64)


def _margins(predictions: Predictions) -> npt.NDArray[np.float64]:
    logits = predictions.logits.astype(np.float64)
    if logits.shape[1] < 2 or predictions.labels.dtype.kind == "f":
        return np.zeros(len(logits))
    rows = np.arange(len(logits))
    right = logits[rows, predictions.labels]
    logits[rows, predictions.labels] = -np.inf
    return np.asarray(right - logits.max(axis=1))


class Tally:
    """The most that a candidate can still score, while it goes through a course."""

    def __init__(self, split: str, labels: Labels, metric: Metric) -> None:
        """
        Raises:
            ValueError: the metric has no bound.
        """
        if metric.per_example is None or metric.ideal is None:
            raise ValueError(f"scores of {metric.name} have no bound")
        self._split, self._labels = split, labels
        self._metric, self._per_example = metric, metric.per_example
        self._values = np.full(len(labels), metric.ideal, np.float64)
        self._is_finite = True
        self.seen = 0

    def add(self, examples: ExampleNumbers, logits: Array) -> None:
        """See what a candidate says of some examples: `logits` (B, C)."""
        self.seen += len(examples)
        self._is_finite = self._is_finite and bool(np.isfinite(logits).all())
        if self._is_finite:
            said = Predictions(self._split, logits, self._labels[examples])
            self._values[examples] = self._per_example(said)

    @property
    def bound(self) -> float:
        """Higher is better; NaN for good after a logit that is not finite, as for a full score."""
        return self._metric.sign * float(np.mean(self._values)) if self._is_finite else float("nan")

    def can_reach(self, bar: float, *, strict: bool) -> bool:
        return reaches(self.bound, bar, strict=strict)
