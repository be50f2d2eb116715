"""Tasting candidates: what every recipe that looks at scores has in common."""

from __future__ import annotations

import math
from dataclasses import replace

from ladle.ahead import Map, one_by_one
from ladle.errors import BadScore
from ladle.soup import Evaluate, Policy, Pool, Tasting, uniform_soup


def finite(score: float) -> float | None:
    """The score, or None for one that says nothing: NaN or infinity."""
    return score if math.isfinite(score) else None


def taste_singles(
    pool: Pool, evaluate: Evaluate, *, map: Map = one_by_one, integers: Policy = "equal"
) -> tuple[list[Tasting], list[int]]:
    """Score every ingredient alone.

    Returns one tasting per ingredient, in the pool's order, none kept yet; and the indices of
    those with a finite score, best first. Equal scores keep the pool's order.

    Raises:
        BadScore: no ingredient has a finite score.
    """
    singles = [uniform_soup(pool.subset([i]), integers=integers) for i in range(len(pool))]
    scores = [finite(score) for score in map(evaluate, singles)]
    tastings = [
        Tasting(
            candidate=one.name,
            members=(one.name,),
            score=score,
            kept=False,
            reason="alone" if score is not None else "rejected: its score is not finite",
        )
        for one, score in zip(pool, scores, strict=True)
    ]
    ranked = [i for i, score in enumerate(scores) if score is not None]
    if not ranked:
        raise BadScore(
            f"none of the {len(pool)} ingredients has a finite score; check the evaluation"
        )
    return tastings, sorted(ranked, key=lambda i: -(scores[i] or 0.0))


def rather_alone(alone: Tasting, score: float | None, what: str) -> Tasting | None:
    """The tasting of the best ingredient, kept, if it is better than `what`, of this score.

    Every recipe that chooses by scores ends with something that is no worse than that ingredient.
    """
    if alone.score is None or (score is not None and alone.score <= score):
        return None
    reason = f"the best alone is better than {what}"
    margin = None if score is None else alone.score - score
    return replace(alone, kept=True, reason=reason, margin=margin)
