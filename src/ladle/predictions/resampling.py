"""Intervals and paired tests for any metric, also one that is no mean over examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ladle.predictions.base import Predictions
from ladle.predictions.metrics import InTwoSteps, Metric
from ladle.predictions.uncertainty import Comparison, Interval, compare, interval, quantiles, ruling

_RESAMPLES = 1000
_SWAPS = 999
_DEFINED = 0.9
"""The part of the resamples on which a metric has to have a value, for there to be an interval."""

Rows = npt.NDArray[np.int64]
Score = Callable[[Rows, Rows], float]
"""Of examples (n,), each as answered by the model whose number (n,) stands beside it."""


def interval_by(metric: Metric, splits: Sequence[Predictions], *, seed: int = 0) -> Interval:
    """The plain mean over splits of a metric, with a percentile bootstrap interval.

    Several splits give the interval of an averaged score, each split resampled on its own. There
    is no interval where the metric has no value on many of the resamples.
    """
    if metric.per_example:
        return interval([metric.per_example(split) for split in splits], seed=seed)
    value = float(np.mean([metric(split) for split in splits]))
    n = sum(len(split) for split in splits)
    if min(len(split) for split in splits) < 2:
        return Interval(value, None, None, n)
    scores = [_score(metric, [split]) for split in splits]
    generator = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        drawn = [_drawn(generator, len(split)) for split in splits]
        means[i] = np.mean(
            [score(rows, np.zeros_like(rows)) for score, rows in zip(scores, drawn, strict=True)]
        )
    return Interval(value, *_middle(means), n)


def compare_by(
    metric: Metric, ours: Sequence[Predictions], theirs: Sequence[Predictions], *, seed: int = 0
) -> Comparison:
    """Paired comparison of two models on the same examples, split by split.

    Means over examples are compared as `compare` says. Any other metric by a permutation test: if
    the models were alike, who said what about an example would be chance, so the two are swapped
    on random examples. An arrangement on which the metric has no value counts against a difference.

    Raises:
        ValueError: the two were not measured on the same examples.
    """
    if metric.per_example:
        rows = [[metric.per_example(split) for split in side] for side in (ours, theirs)]
        return compare(*rows, higher_is_better=metric.higher_is_better, seed=seed)
    pairs = list(zip(ours, theirs, strict=True))
    if any(not np.array_equal(a.labels, b.labels) for a, b in pairs):
        raise ValueError("two models can only be compared on the same examples")
    sizes = [len(a) for a, _ in pairs]
    scores = [_score(metric, pair) for pair in pairs]

    def gap(rows: Sequence[Rows], first: Sequence[Rows]) -> float:
        """The mean over splits of how much better model 0 is, where `first` says who is who."""
        return float(
            np.mean(
                [s(r, who) - s(r, 1 - who) for s, r, who in zip(scores, rows, first, strict=True)]
            )
        )

    every = [np.arange(n) for n in sizes]
    itself = [np.zeros(n, np.int64) for n in sizes]
    generator = np.random.default_rng(seed)
    difference = gap(every, itself)
    resampled = [gap([_drawn(generator, n) for n in sizes], itself) for _ in range(_RESAMPLES)]
    swapped = [gap(every, [generator.integers(0, 2, n) for n in sizes]) for _ in range(_SWAPS)]
    less = np.count_nonzero(np.abs(swapped) < abs(difference) * (1 - 1e-12))
    # The arrangement that was seen is one of those counted, so p is never 0.
    p = float((_SWAPS - less + 1) / (_SWAPS + 1))
    return Comparison(
        difference,
        *_middle(np.array(resampled)),
        wins=None,
        losses=None,
        p=p,
        test="permutation test",
        verdict=ruling(p, metric.sign * difference),
    )


def _score(metric: Metric, models: Sequence[Predictions]) -> Score:
    split, labels = models[0].split, models[0].labels
    if isinstance(metric.score, InTwoSteps):
        steps, classes = metric.score, models[0].logits.shape[1]
        seen = np.stack([steps.rows(model) for model in models])
        return lambda rows, who: steps.score(seen[who, rows], classes)
    logits = np.stack([model.logits for model in models])
    return lambda rows, who: metric(Predictions(split, logits[who, rows], labels[rows]))


def _drawn(generator: np.random.Generator, n: int) -> Rows:
    return generator.integers(0, n, n)


def _middle(resampled: npt.NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The percentile interval of those that have a value, if nearly all have."""
    defined = resampled[np.isfinite(resampled)]
    return quantiles(defined) if len(defined) >= _DEFINED * len(resampled) else (None, None)
