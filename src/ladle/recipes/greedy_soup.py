"""The greedy soup (paper, section 2, recipe 1): the central recipe."""

from __future__ import annotations

from dataclasses import replace

from ladle.recipes.tasting import Map, one_by_one, taste_singles
from ladle.recipes.trial import try_out
from ladle.soup import Evaluate, Policy, Pool, Soup, uniform_soup


def greedy(
    pool: Pool,
    evaluate: Evaluate,
    *,
    strict: bool = False,
    map: Map = one_by_one,
    integers: Policy = "equal",
) -> Soup:
    """Try ingredients best first, and keep each one that does not make the soup worse.

    On the data that `evaluate` looks at, the soup scores at least as well as the best ingredient;
    nothing follows for other data. Costs 2n - 1 evaluations; the first n are independent and go
    through `map`. Of the others, those that fail are not measured to the end where `evaluate` can
    tell (see `ladle.soup.Compares`); that changes no decision.

    Args:
        strict: drop an ingredient that leaves the score unchanged (>), as the authors' released
            code does; the paper keeps it (>=).
        map: how to run the first n evaluations; any parallel `map` that keeps order.

    Raises:
        BadScore: no ingredient has a finite score.

    Example:
        >>> soup = ladle.greedy(pool, lambda soup: accuracy(soup.load_into(model)))
    """
    tastings, ranking = taste_singles(pool, evaluate, map=map, integers=integers)
    first, *rest = ranking
    tastings[first] = replace(tastings[first], kept=True, reason="best alone: starts the soup")
    chosen, score = [first], tastings[first].score
    for i in rest:
        rival = uniform_soup(pool.subset(chosen), integers=integers)
        trial = uniform_soup(pool.subset([*chosen, i]), integers=integers)
        tasting = try_out(trial, pool[i].name, evaluate, score, strict=strict, rival=rival)
        tastings.append(tasting)
        if tasting.kept:
            chosen, score = [*chosen, i], tasting.score
    soup = uniform_soup(pool.subset(chosen), integers=integers)
    return replace(soup, recipe="greedy", options={"strict": strict}, tastings=tuple(tastings))
