"""Soups of soups: first within groups of a sweep, then over the groups (arXiv 2403.13341)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ladle.ahead import Map, one_by_one
from ladle.errors import BadInput
from ladle.recipes.greedy_soup import greedy, grow
from ladle.recipes.portions import Portion, single, soup_of, together
from ladle.recipes.tasting import rather_alone, taste_singles
from ladle.soup import Evaluate, Ingredient, Policy, Pool, Soup, Tasting
from ladle.wording import closest, some

Within = Literal["greedy", "uniform"]


def hierarchical(
    pool: Pool,
    evaluate: Evaluate,
    *,
    group_by: str,
    within: Within = "greedy",
    strict: bool = False,
    map: Map = one_by_one,
    integers: Policy = "equal",
) -> Soup:
    """Make a soup of every group of equal hyper-parameter, then a greedy soup of these soups.

    The result is one weighted average of the ingredients: in it a group counts as one, however
    many of it were kept. With greedy soups within, it is on held-out data no worse than the best
    single; with uniform soups within, the best single is the result where it is better.

    Args:
        group_by: the name of a hyper-parameter that every ingredient's record has.
        within: greedy or uniform soups of the groups.
        strict: as in `greedy`, within groups and over them.

    Raises:
        BadInput: an ingredient does not tell this hyper-parameter.
        BadScore: no ingredient, or no soup of a group, has a finite score.
    """
    groups = _groups(pool, group_by)
    tastings: list[Tasting] = []
    portions: list[Portion] = []
    ranking: list[int] = []
    if within == "uniform":
        tastings, ranking = taste_singles(pool, evaluate, map=map, integers=integers)
    for value, members in groups.items():
        name = f"{group_by}={value}"
        if within == "uniform":
            portions.append(together(name, [single(pool, i) for i in members]))
            continue
        if len(members) == 1:
            # Its score is tasted with those of the groups.
            portions.append(replace(single(pool, members[0]), name=name))
            continue
        one = greedy(pool.subset(members), evaluate, strict=strict, map=map, integers=integers)
        tastings += one.tastings
        places = {pool[i].name: i for i in members}
        kept = [single(pool, places[member]) for member in one.members]
        portions.append(together(name, kept))
    made = grow(pool, portions, evaluate, strict=strict, map=map, integers=integers)
    tastings += made.tastings
    portion = made.portion
    if ranking:  # Greedy soups within begin with the best of their groups.
        better = rather_alone(tastings[ranking[0]], made.score, "this soup")
        if better:
            tastings.append(better)
            portion = single(pool, ranking[0])
    return replace(
        soup_of(pool, portion, integers=integers),
        recipe="hierarchical",
        options={"group_by": group_by, "within": within, "strict": strict},
        tastings=tuple(tastings),
    )


def _groups(pool: Pool, name: str) -> Mapping[str, list[int]]:
    """Places of the ingredients by the value of a hyper-parameter, in the pool's order."""
    groups: dict[str, list[int]] = {}
    silent = [one.name for one in pool if name not in one.facts.hyperparameters]
    if silent:
        raise BadInput(_unknown(name, silent, pool))
    for i, one in enumerate(pool):
        groups.setdefault(_shown(one, name), []).append(i)
    return groups


def _shown(one: Ingredient, name: str) -> str:
    value: Any = one.facts.hyperparameters[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{float(value):.12g}"  # One record may say 1 where another says 1.0.
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _unknown(name: str, silent: list[str], pool: Pool) -> str:
    known = sorted({key for one in pool for key in one.facts.hyperparameters})
    near = closest(name, known)
    hint = (
        f"did you mean {near!r}?"
        if near and near != name
        else f"recorded are: {', '.join(known)}"
        if known
        else "give the folder of a sweep, whose records tell hyper-parameters"
    )
    return f"--group-by {name}: {some(silent, 3)} do not tell theirs; {hint}"
