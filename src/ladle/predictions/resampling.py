"""Intervals and paired tests for any metric, also one that is no mean over examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ladle.predictions.base import Predictions
from ladle.predictions.metrics import Metric
from ladle.predictions.uncertainty import Comparison, Interval, compare, interval, quantiles, ruling

_RESAMPLES = 1000
_SWAPS = 999


def interval_by(metric: Metric, splits: Sequence[Predictions], *, seed: int = 0) -> Interval:
    """The plain mean over splits of a metric, with a percentile bootstrap interval.

    Several splits give the interval of an averaged score, each split resampled on its own.
    """
    if metric.per_example:
        return interval([metric.per_example(split) for split in splits], seed=seed)
    value = float(np.mean([metric(split) for split in splits]))
    n = sum(len(split) for split in splits)
    if min(len(split) for split in splits) < 2:
        return Interval(value, None, None, n)
    generator = np.random.default_rng(seed)
    means = [
        np.mean([metric(_rows(split, _drawn(generator, split))) for split in splits])
        for _ in range(_RESAMPLES)
    ]
    return Interval(value, *quantiles(np.array(means)), n)


def compare_by(
    metric: Metric, ours: Sequence[Predictions], theirs: Sequence[Predictions], *, seed: int = 0
) -> Comparison:
    """Paired comparison of two models on the same examples, split by split.

    Means over examples are compared as `compare` says. Any other metric by a permutation test: if
    the models were alike, who said what about an example would be chance, so the two are swapped
    on random examples. `wins` and `losses` are 0 then, for no example is won on its own.

    Raises:
        ValueError: the two were not measured on the same examples.
    """
    if metric.per_example:
        rows = [[metric.per_example(split) for split in side] for side in (ours, theirs)]
        return compare(*rows, higher_is_better=metric.higher_is_better, seed=seed)
    pairs = list(zip(ours, theirs, strict=True))
    if any(not np.array_equal(a.labels, b.labels) for a, b in pairs):
        raise ValueError("two models can only be compared on the same examples")
    generator = np.random.default_rng(seed)
    difference = float(np.mean([metric(a) - metric(b) for a, b in pairs]))
    resampled = []
    for _ in range(_RESAMPLES):
        drawn = [_drawn(generator, a) for a, _ in pairs]
        resampled.append(
            np.mean(
                [
                    metric(_rows(a, rows)) - metric(_rows(b, rows))
                    for (a, b), rows in zip(pairs, drawn, strict=True)
                ]
            )
        )
    swapped = [
        np.mean([_swapped(metric, a, b, generator) for a, b in pairs]) for _ in range(_SWAPS)
    ]
    as_far = np.count_nonzero(np.abs(swapped) >= abs(difference) * (1 - 1e-12))
    # The arrangement that was seen is one of those counted, so p is never 0.
    p = float((as_far + 1) / (_SWAPS + 1))
    low, high = quantiles(np.array(resampled))
    return Comparison(difference, low, high, 0, 0, p, ruling(p, metric.sign * difference))


def _drawn(generator: np.random.Generator, split: Predictions) -> npt.NDArray[np.int64]:
    return generator.integers(0, len(split), len(split))


def _rows(split: Predictions, rows: npt.NDArray[np.int64]) -> Predictions:
    return Predictions(split.split, split.logits[rows], split.labels[rows])


def _swapped(
    metric: Metric, ours: Predictions, theirs: Predictions, generator: np.random.Generator
) -> float:
    swap = generator.integers(0, 2, len(ours)).astype(bool)[:, None]
    one = np.where(swap, theirs.logits, ours.logits)
    other = np.where(swap, ours.logits, theirs.logits)
    return metric(Predictions(ours.split, one, ours.labels)) - metric(
        Predictions(ours.split, other, ours.labels)
    )
