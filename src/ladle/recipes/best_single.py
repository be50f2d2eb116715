"""No soup at all: the single ingredient with the best held-out score, as a baseline."""

from __future__ import annotations

from dataclasses import replace

from ladle.ahead import Map, one_by_one
from ladle.recipes.tasting import taste_singles
from ladle.soup import Evaluate, Policy, Pool, Soup, uniform_soup


def best(
    pool: Pool, evaluate: Evaluate, *, map: Map = one_by_one, integers: Policy = "equal"
) -> Soup:
    """The ingredient that scores best alone; of equals, the first.

    Raises:
        BadScore: no ingredient has a finite score.
    """
    tastings, ranking = taste_singles(pool, evaluate, map=map, integers=integers)
    winner = ranking[0]
    tastings[winner] = replace(tastings[winner], kept=True, reason="best alone")
    soup = uniform_soup(pool.subset([winner]), integers=integers)
    return replace(soup, recipe="best", tastings=tuple(tastings))
