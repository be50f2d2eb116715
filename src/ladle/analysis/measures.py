"""What is measured of a model: its loss, and the task's metric, with the sampling error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ladle.predictions import Metric, Predictions, mean_of
from ladle.predictions.metrics import accuracy, mse, nll, top_5
from ladle.tasks import Split

_HITS = (accuracy.name, top_5.name)


@dataclass(frozen=True)
class Measure:
    """A quantity by name, and its metric, with the direction in which it is good."""

    name: str
    metric: Metric

    def __call__(self, parts: Sequence[Predictions]) -> Measured:
        """Of one split; of several, the plain mean of theirs, as the paper averages shifts."""
        found = [self._of(part) for part in parts]
        errors = [one.standard_error for one in found if one.standard_error is not None]
        known = len(errors) == len(found)
        spread = float(np.sqrt(np.sum(np.square(errors)))) / len(found) if known else None
        value = float(np.mean([one.value for one in found]))
        return Measured(value, spread, sum(one.n for one in found))

    def _of(self, part: Predictions) -> Measured:
        if not np.isfinite(part.logits).all():
            return Measured(float("nan"), None, len(part))
        if self.metric.per_example is None:
            return Measured(self.metric(part), None, len(part))
        each = self.metric.per_example(part)
        spread = float(np.std(each, ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
        return Measured(float(np.mean(each)), spread, len(each))


@dataclass(frozen=True)
class Measured:
    """A value over `n` examples, and the standard error that choosing them at random gives it.

    None where the quantity is no mean over examples, or there is but one. NaN where a logit was
    not finite.
    """

    value: float
    standard_error: float | None
    n: int


def measures_of(metric: Metric, *, regression: bool) -> tuple[Measure, ...]:
    """The loss; and the metric, as an error where it counts hits.

    The loss is the cross-entropy of classes in nats, and the squared error of numbers.
    """
    loss = Measure("loss", mse if regression else nll)
    if metric.name in (nll.name, mse.name):
        return (loss,)
    if metric.name in _HITS and metric.per_example is not None:
        return loss, Measure("error", _misses(metric))
    return loss, Measure(metric.name, metric)


def _misses(metric: Metric) -> Metric:
    hits = metric.per_example
    if hits is None:
        raise ValueError(f"{metric.name} counts nothing")
    return mean_of("error", lambda part: 1.0 - hits(part), higher_is_better=False, ideal=0.0)


@dataclass(frozen=True)
class Group:
    """Splits whose measures are averaged: one, or all the shifts."""

    name: str
    role: Literal["train", "held-out", "test", "shift", "mean-shift"]
    splits: tuple[str, ...]


def groups_of(splits: Sequence[Split], mean_of_shifts: str) -> list[Group]:
    """Each split, and the mean of the shifts where there are several."""
    found = [Group(one.name, one.role, (one.name,)) for one in splits]
    shifts = tuple(one.name for one in splits if one.role == "shift")
    return found + ([Group(mean_of_shifts, "mean-shift", shifts)] if len(shifts) > 1 else [])
