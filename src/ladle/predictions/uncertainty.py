"""How much of a number is noise: intervals, and paired tests of "A is better than B"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Verdict = Literal["better", "worse", "no difference that this set can show"]

CONFIDENCE = 0.95
_RESAMPLES = 2000
_FLIPS = 9999

PerExample = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval; `low` and `high` are None where n = 1 leaves it open."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """Ours minus theirs on the same examples, in the metric's own direction.

    `wins` and `losses` count the examples on which ours, or theirs, is better; None where no
    example is won on its own. `p` is two-sided, of the `test` of this name.
    """

    difference: float
    low: float | None
    high: float | None
    wins: int | None
    losses: int | None
    p: float
    test: str
    verdict: Verdict


def interval(splits: Sequence[PerExample], *, seed: int = 0) -> Interval:
    """The plain mean over splits of the mean over examples, with a percentile bootstrap interval.

    `splits` is one (N,) array per split; several give the interval of an averaged score, each
    split resampled on its own.
    """
    value = float(np.mean([np.mean(split) for split in splits]))
    n = sum(len(split) for split in splits)
    if min(len(split) for split in splits) < 2:
        return Interval(value, None, None, n)
    low, high = _bootstrap(splits, seed)
    return Interval(value, low, high, n)


def compare(
    ours: Sequence[PerExample],
    theirs: Sequence[PerExample],
    *,
    higher_is_better: bool = True,
    seed: int = 0,
) -> Comparison:
    """Paired comparison of two models on the same examples.

    One split of hits and misses gets the exact McNemar test; averages over splits, and other
    metrics, a permutation test that flips the sign of each example's difference.

    Raises:
        ValueError: the two were not measured on the same examples.
    """
    if [len(split) for split in ours] != [len(split) for split in theirs]:
        raise ValueError("two models can only be compared on the same examples")
    differences = [np.asarray(a - b) for a, b in zip(ours, theirs, strict=True)]
    found = interval(differences, seed=seed)
    sign = 1.0 if higher_is_better else -1.0
    wins = sum(int((sign * d > 0).sum()) for d in differences)
    losses = sum(int((sign * d < 0).sum()) for d in differences)
    hits_and_misses = all(np.isin(split, (0.0, 1.0)).all() for split in (*ours, *theirs))
    if len(ours) == 1 and hits_and_misses:
        test, p = "exact McNemar", mcnemar(wins, losses)
    else:
        test, p = "permutation test", _flip(differences, seed)
    verdict = ruling(p, sign * found.value)
    return Comparison(found.value, found.low, found.high, wins, losses, p, test, verdict)


def ruling(p: float, gain: float) -> Verdict:
    """What a two-sided p says of a gain, which is positive where ours is better."""
    if p >= 1 - CONFIDENCE:
        return "no difference that this set can show"
    return "better" if gain > 0 else "worse"


def quantiles(means: PerExample) -> tuple[float, float]:
    """The percentile interval of resampled scores."""
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    return float(low), float(high)


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact McNemar test: were the examples that only one got right won by chance?

    Each of the n is a fair coin, so p is twice the binomial tail of the rarer outcome, 1 at most.
    """
    n, rarer = wins + losses, min(wins, losses)
    ways = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(rarer + 1)
    )
    return min(1.0, 2 * math.fsum(math.exp(log - n * math.log(2)) for log in ways))


def _bootstrap(splits: Sequence[PerExample], seed: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    means = np.zeros(_RESAMPLES)
    for split in splits:
        values, counts = np.unique(split, return_counts=True)
        if len(values) <= 3:
            # Resampling hits and misses is drawing how many of each, which is much quicker.
            drawn = generator.multinomial(len(split), counts / len(split), size=_RESAMPLES)
            means += drawn @ values / len(split)
        else:
            for i in range(_RESAMPLES):
                means[i] += split[generator.integers(0, len(split), len(split))].mean()
    return quantiles(means / len(splits))


def _flip(differences: Sequence[PerExample], seed: int) -> float:
    """Two-sided p of the mean of means, if the sign of each example's difference were chance.

    The arrangement that was seen is one of those counted, so p is never 0.
    """
    generator = np.random.default_rng(seed)
    sums = np.zeros(_FLIPS)
    for split in differences:
        sizes, counts = np.unique(np.abs(split[split != 0]), return_counts=True)
        for size, count in zip(sizes, counts, strict=True):
            # Of `count` differences of one size, how many get a plus is a binomial draw.
            plus = generator.binomial(count, 0.5, size=_FLIPS)
            sums += size * (2.0 * plus - count) / len(split)
    seen = abs(sum(float(np.mean(split)) for split in differences))
    as_far = np.count_nonzero(np.abs(sums) >= seen * (1 - 1e-12))
    return float((as_far + 1) / (_FLIPS + 1))
