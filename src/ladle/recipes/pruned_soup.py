"""The pruned soup: from the mean of all, leave out what does no good (arXiv 2301.10092)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ladle.ahead import Map, one_by_one
from ladle.recipes.tasting import rather_alone, taste_singles
from ladle.recipes.trial import Offer, tried, try_out
from ladle.soup import Evaluate, Policy, Pool, Soup, uniform_soup


def pruned(
    pool: Pool,
    evaluate: Evaluate,
    *,
    strict: bool = False,
    map: Map = one_by_one,
    integers: Policy = "equal",
) -> Soup:
    """Start with the mean of all, and leave out, worst first, what does not make it better.

    Passes are repeated until one leaves all in. On held-out data the soup is no worse than the
    uniform soup; where the best single is better than what remains, that is the result. Costs
    n + 1 evaluations and at most as many per pass as there are ingredients left.

    Args:
        strict: leave out only what makes the soup better by being left out (>); otherwise also
            what changes nothing (>=), as in the authors' code.

    Raises:
        BadScore: no ingredient has a finite score.
    """
    tastings, ranking = taste_singles(pool, evaluate, map=map, integers=integers)
    # What says nothing alone is not offered to the others.
    left = sorted(ranking)
    start = uniform_soup(pool.subset(left), integers=integers)
    tasting = try_out(start, f"all {len(left)}", evaluate, None)
    tastings.append(replace(tasting, reason="starts the soup") if tasting.kept else tasting)
    score = tasting.score
    needed: set[int] = set()
    while len(left) > 1 and not needed.issuperset(left):
        worst_first = [i for i in reversed(ranking) if i in left]
        while worst_first:
            # What was needed since something was last left out still is.
            offered = [i for i in worst_first if i not in needed and len(left) > 1]
            offers = [_without(pool, left, i, integers) for i in offered]
            rival = uniform_soup(pool.subset(left), integers=integers)
            rest: list[int] = []
            tastings_of_pass = tried(offers, evaluate, score, strict=strict, rival=rival, map=map)
            # They end with the first that is kept.
            for tasting, i in zip(tastings_of_pass, offered, strict=False):
                tastings.append(tasting)
                needed.add(i)
                if tasting.kept:
                    left, score, needed = [j for j in left if j != i], tasting.score, set()
                    rest = worst_first[worst_first.index(i) + 1 :]
            worst_first = rest
    better = rather_alone(tastings[ranking[0]], score, f"the soup of {len(left)}")
    if better:
        tastings.append(better)
        left = [ranking[0]]
    soup = uniform_soup(pool.subset(left), integers=integers)
    return replace(soup, recipe="pruned", options={"strict": strict}, tastings=tuple(tastings))


def _without(pool: Pool, left: Sequence[int], i: int, integers: Policy) -> Offer:
    others = [j for j in left if j != i]
    trial = uniform_soup(pool.subset(others), integers=integers)
    return Offer(trial, f"without {pool[i].name}")
