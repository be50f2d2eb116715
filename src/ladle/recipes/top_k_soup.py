"""The mean of the k best, the simplest use of scores."""

from __future__ import annotations

from dataclasses import replace

from ladle.ahead import Map, one_by_one
from ladle.errors import BadInput
from ladle.recipes.tasting import taste_singles
from ladle.recipes.trial import Offer, tried, weighed
from ladle.soup import Evaluate, Policy, Pool, Soup, Tasting, uniform_soup


def top_k(
    pool: Pool,
    evaluate: Evaluate,
    *,
    k: int | None = None,
    strict: bool = False,
    map: Map = one_by_one,
    integers: Policy = "equal",
) -> Soup:
    """The mean of the k best ingredients, k as given or as held-out scores say.

    Where k is chosen, the best single is among what is chosen from, so on held-out data the soup is
    never worse. Costs n + 1 evaluations for a given k, 2n - 1 otherwise; the first n are
    independent.

    Args:
        k: how many; None tries all from 1 to n.
        strict: of equally good soups, the one of fewer ingredients; otherwise of more.

    Raises:
        BadScore: no ingredient has a finite score.
        BadInput: there are fewer than k with one.
    """
    tastings, ranking = taste_singles(pool, evaluate, map=map, integers=integers)
    if k is not None and k > len(ranking):
        raise BadInput(
            f"--k {k}: only {len(ranking)} of the {len(pool)} checkpoints have a finite score; "
            "give fewer"
        )
    best, n = tastings[ranking[0]], len(ranking)
    best_of = [uniform_soup(pool.subset(ranking[: i + 1]), integers=integers) for i in range(n)]
    offers = [Offer(soup, f"the best {i + 1}") for i, soup in enumerate(best_of)]
    more: list[Tasting] = []
    chosen, size = best, 1
    if k is not None and k > 1:
        one = offers[k - 1]
        tasting = weighed(one.trial, one.candidate, evaluate(one.trial), best.score, strict=strict)
        chosen, size = replace(tasting, kept=True, reason=f"--k; {tasting.reason}"), k
        more.append(chosen)
    # The best one alone is tasted already.
    place = 1 if k is None else n
    while place < n:
        for tasting in tried(
            offers[place:],
            evaluate,
            chosen.score,
            strict=strict,
            rival=best_of[size - 1],
            map=map,
        ):
            more.append(tasting)
            place += 1
            if tasting.kept:
                chosen, size = tasting, place
    if chosen is best:
        tastings[ranking[0]] = replace(best, kept=True, reason="best alone")
    soup = best_of[size - 1]
    options = {"k": k, "strict": strict}
    return replace(soup, recipe="top-k", options=options, tastings=(*tastings, *more))
