"""WiSE-FT (arXiv 2109.01903; paper, sections 1.7 and 4.6): the line from the base to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Literal

from ladle.ahead import Map, one_by_one
from ladle.errors import BadScore
from ladle.recipes.base import with_start
from ladle.recipes.best_single import best
from ladle.recipes.greedy_soup import greedy
from ladle.recipes.portions import Portion, soup_of
from ladle.recipes.tasting import rather_alone, taste_singles
from ladle.recipes.trial import weighed
from ladle.recipes.uniform_soup import uniform
from ladle.soup import Evaluate, Ingredient, Policy, Pool, Soup, Tasting, uniform_soup

Towards = Literal["greedy", "uniform", "best"]

_STEPS = 10


def wise_ft(
    pool: Pool,
    evaluate: Evaluate,
    *,
    base: Ingredient,
    towards: Towards = "greedy",
    alpha: float | None = None,
    map: Map = one_by_one,
    integers: Policy = "equal",
) -> Soup:
    """Go from the base towards a soup or the best single: (1 - α)·base + α·model.

    The points α = 0, 0.1, ..., 1 are tasted, and the best of them is taken; of equals, the one
    nearest the base, for near it models hold better under distribution shift. On the line to the
    uniform soup all may be worse than the best single, which is the result then. `Soup.beside` has
    the whole line, to be judged on all data. Costs 11 evaluations more than what the line leads to.

    Args:
        base: the checkpoint that the ingredients were fine-tuned from.
        towards: the greedy soup, the uniform soup, or the best single.
        alpha: take this point, whatever held-out scores say; 0.5 is the authors' advice where
            nothing tells how much the data will shift.

    Raises:
        BadScore: no ingredient has a finite score.
        LayoutMismatch: the base has other tensors than the ingredients.
    """
    everything = with_start(pool, base)
    first: Sequence[Tasting] = ()
    ranking: list[int] = []
    if towards == "uniform":
        end = uniform(pool, integers=integers)
        if alpha is None:
            first, ranking = taste_singles(pool, evaluate, map=map, integers=integers)
    else:
        recipe = greedy if towards == "greedy" else best
        end = recipe(pool, evaluate, map=map, integers=integers)
        first = end.tastings
    places = {one.name: i for i, one in enumerate(everything)}
    shares = {places[name]: Fraction(1, len(end.members)) for name in end.members}

    def point(at: Fraction) -> Soup:
        mixed = {0: 1 - at, **{i: at * share for i, share in shares.items()}}
        return soup_of(everything, Portion("", mixed), integers=integers)

    line = {Fraction(step, _STEPS) for step in range(_STEPS + 1)}
    wanted = None if alpha is None else Fraction(str(alpha))
    coefficients = sorted(line | ({wanted} if wanted is not None else set()))
    soups = [point(at) for at in coefficients]
    tastings: list[Tasting] = []
    chosen: int | None = None
    so_far: float | None = None
    for i, (at, score) in enumerate(zip(coefficients, map(evaluate, soups), strict=True)):
        tasting = weighed(soups[i], f"α = {float(at):g}", score, so_far, strict=True)
        if wanted is not None:
            tasting = replace(
                tasting, kept=at == wanted, reason="--alpha" if at == wanted else "on the line"
            )
        if tasting.kept:
            chosen, so_far = i, tasting.score
        tastings.append(tasting)
    better = rather_alone(first[ranking[0]], so_far, "all of the line") if ranking else None
    if better:
        found, taken = uniform_soup(pool.subset(ranking[:1]), integers=integers), None
        tastings.append(better)
    elif chosen is not None:
        found, taken = soups[chosen], float(coefficients[chosen])
    else:
        raise BadScore("no point between base and model has a finite score; check the evaluation")
    return replace(
        found,
        recipe="wise-ft",
        options={"towards": towards, "alpha": taken},
        tastings=(*first, *tastings),
        beside={f"α = {float(at):g}": soup for at, soup in zip(coefficients, soups, strict=True)},
    )
