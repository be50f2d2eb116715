"""What data tell: whether the model halfway between two members is as good as they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

from ladle.checks.findings import Finding
from ladle.evaluate import Evaluator
from ladle.predictions import compare_by
from ladle.soup import Pool, uniform_soup

_PAIRS = 8
"""At most so many pairs: three evaluations each."""

_DOUBTFUL = 0.01
_NOT_SOUPABLE = 0.1
"""Loss at the midpoint, as a share of the ends' mean."""


def barriers(pool: Pool, evaluator: Evaluator, *, seed: int = 0) -> list[Finding]:
    """Findings on the midpoints of pairs, on the held-out split (paper, section 4.1).

    All pairs of a few members; of many, a chain through all of them in random order, cut short.
    """
    metric, split = evaluator.task.metric, evaluator.held_out.name
    findings = []
    for i, j in _pairs(len(pool), seed):
        ends = [evaluator.predict(uniform_soup(pool.subset([n])), split) for n in (i, j)]
        middle = evaluator.predict(uniform_soup(pool.subset([i, j])), split)
        values = [metric(end) for end in ends]
        mean, found = sum(values) / 2, metric(middle)
        loss = (mean - found) * metric.sign
        if not loss > _DOUBTFUL * abs(mean):
            continue
        better = max(ends, key=lambda end: metric.sign * metric(end))
        noise = compare_by(metric, [middle], [better], seed=seed)
        if noise.verdict != "worse":
            continue
        names = (pool[i].name, pool[j].name)
        certain = loss > _NOT_SOUPABLE * abs(mean)
        findings.append(
            Finding(
                "not soupable" if certain else "doubtful",
                "barrier",
                f"Halfway between {names[0]} and {names[1]} lies a barrier: {metric.name} "
                f"{found:.4g} on {split}, where they have {values[0]:.4g} and {values[1]:.4g}. "
                "Lower learning rates, fewer epochs or one shared head keep fine-tunings in one "
                "basin.",
                names,
            )
        )
    return findings


def _pairs(k: int, seed: int) -> Sequence[tuple[int, int]]:
    every = list(combinations(range(k), 2))
    if len(every) <= _PAIRS:
        return every
    order = [int(i) for i in np.random.default_rng(seed).permutation(k)]
    return list(pairwise(order))[:_PAIRS]
