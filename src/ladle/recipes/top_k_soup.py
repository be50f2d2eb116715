"""The mean of the k best, the simplest use of scores."""

from __future__ import annotations

from dataclasses import replace

from ladle.errors import BadInput
from ladle.recipes.tasting import Map, one_by_one, taste_singles
from ladle.recipes.trial import try_out, weighed
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
    independent and go through `map`.

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
    best = tastings[ranking[0]]
    # The best one alone is tasted already.
    sizes = [k] if k is not None else list(range(2, len(ranking) + 1))
    tried: list[Tasting] = []
    chosen, size = best, 1
    for number in sizes:
        if number == 1:
            continue
        trial = uniform_soup(pool.subset(ranking[:number]), integers=integers)
        name = f"the best {number}"
        if k is not None:
            tasting = weighed(trial, name, evaluate(trial), chosen.score, strict=strict)
            tasting = replace(tasting, kept=True, reason=f"--k; {tasting.reason}")
        else:
            rival = uniform_soup(pool.subset(ranking[:size]), integers=integers)
            tasting = try_out(trial, name, evaluate, chosen.score, strict=strict, rival=rival)
        tried.append(tasting)
        if tasting.kept:
            chosen, size = tasting, number
    if chosen is best:
        tastings[ranking[0]] = replace(best, kept=True, reason="best alone")
    soup = uniform_soup(pool.subset(ranking[:size]), integers=integers)
    options = {"k": k, "strict": strict}
    return replace(soup, recipe="top-k", options=options, tastings=(*tastings, *tried))
