"""The greedy soup (paper, section 2, recipe 1): the central recipe."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ladle.ahead import Map, one_by_one
from ladle.errors import BadInput, BadScore
from ladle.recipes.portions import Portion, single, soup_of, together
from ladle.recipes.tasting import taste_singles
from ladle.recipes.trial import Offer, tried, weighed
from ladle.soup import Evaluate, Policy, Pool, Soup, Tasting

Order = Literal["score", "random", "given"]

_HELPINGS = 5
"""Rounds of `with_replacement` at most: a smooth score could be bettered for ever."""


def greedy(
    pool: Pool,
    evaluate: Evaluate,
    *,
    strict: bool = False,
    order: Order = "score",
    seed: int = 0,
    repeats: int = 1,
    with_replacement: bool = False,
    map: Map = one_by_one,
    integers: Policy = "equal",
) -> Soup:
    """Try ingredients best first, and keep each one that does not make the soup worse.

    On the data that `evaluate` looks at, the soup scores at least as well as the best ingredient;
    nothing follows for other data, nor for another order than that of the scores. Costs 2n - 1
    evaluations; the first n are independent. Of the others, those that fail
    are not measured to the end where `evaluate` can tell (see `ladle.soup.Compares`); that changes
    no decision. In a random order (the paper's ablation) or as given it costs n for every repeat,
    and begins with the first that has a score.

    Args:
        strict: drop an ingredient that leaves the score unchanged (>), as the authors' released
            code does; the paper keeps it (>=).
        order: best first, at random, or as in the pool.
        seed: of random orders; repeat r has the order that seed + r alone would have.
        repeats: how many random orders to try. The soup is the best of them, which flatters its
            held-out score; `Soup.repeats` has all.
        with_replacement: go through the ingredients again, for as long as another helping of one
            makes the soup better, at most five times. So weights become unequal.
        map: how to run evaluations; any parallel `map` that keeps order. One that is lazy has the
            next candidates under way at a time, each as if those before it fail: see `tried`. That
            changes no decision, and what was tried in vain is in no log.

    Raises:
        BadScore: no ingredient has a finite score.
        BadInput: `repeats` without a random order.

    Example:
        >>> soup = ladle.greedy(pool, lambda soup: accuracy(soup.load_into(model)))
    """
    if repeats != 1 and order != "random":
        raise BadInput(f"--repeats goes with --order random; the order by {order} is always one")
    options: dict[str, object] = {"strict": strict, "order": order}
    options |= {"with_replacement": True} if with_replacement else {}
    portions = [single(pool, i) for i in range(len(pool))]
    pot = _Pot(pool, evaluate, strict, with_replacement, integers, map)
    if order == "score":
        tastings, ranking = taste_singles(pool, evaluate, map=map, integers=integers)
        made = pot.from_best(portions, tastings, ranking)
        return replace(pot.soup(made), recipe="greedy", options=options)
    orders: list[Sequence[int]] = [range(len(pool))]
    if order == "random":
        options |= {"seed": seed, "repeats": repeats}
        orders = [shuffled(len(pool), seed + number) for number in range(repeats)]
    tries = [pot.grown([portions[i] for i in one]) for one in orders]
    made = max(tries, key=lambda one: one.score)
    scores = tuple(one.score for one in tries) if order == "random" else ()
    return replace(pot.soup(made), recipe="greedy", options=options, repeats=scores)


def shuffled(n: int, seed: int) -> list[int]:
    """A random order of n things, the same for a seed everywhere."""
    order = list(range(n))
    random.Random(seed).shuffle(order)  # noqa: S311 -- no secret
    return order


@dataclass(frozen=True)
class Grown:
    """What the loop came to: a soup's portion, its score and all that was tried."""

    portion: Portion
    score: float
    tastings: tuple[Tasting, ...]


def grow(
    pool: Pool,
    portions: Iterable[Portion],
    evaluate: Evaluate,
    *,
    strict: bool = False,
    map: Map = one_by_one,
    integers: Policy = "equal",
) -> Grown:
    """The greedy loop over portions, best first: ingredients, or soups of them.

    Raises:
        BadScore: no portion has a finite score.
    """
    offered = list(portions)
    soups = [soup_of(pool, one, integers=integers) for one in offered]
    trials = [
        weighed(soup, one.name, score, None)
        for soup, one, score in zip(soups, offered, map(evaluate, soups), strict=True)
    ]
    alone = [replace(one, kept=False, reason="alone") if one.kept else one for one in trials]
    scores = [one.score for one in alone]
    ranked = [i for i, score in enumerate(scores) if score is not None]
    if not ranked:
        raise BadScore(f"none of the {len(offered)} soups has a finite score; check the evaluation")
    ranked.sort(key=lambda i: -(scores[i] or 0.0))
    return _Pot(pool, evaluate, strict, False, integers, map).from_best(offered, alone, ranked)


@dataclass(frozen=True)
class _Pot:
    """The greedy loop: what goes in, and by which rule it stays."""

    pool: Pool
    evaluate: Evaluate
    strict: bool
    again: bool
    integers: Policy
    map: Map

    def soup(self, made: Grown) -> Soup:
        soup = soup_of(self.pool, made.portion, integers=self.integers)
        return replace(soup, tastings=made.tastings)

    def from_best(
        self, portions: Sequence[Portion], alone: Sequence[Tasting], ranking: Sequence[int]
    ) -> Grown:
        """Portions that were tasted alone, tried in the order of this ranking."""
        first = ranking[0]
        start = replace(alone[first], kept=True, reason="best alone: starts the soup")
        grown = self.grown([portions[i] for i in ranking], start)
        tasted = [start if i == first else one for i, one in enumerate(alone)]
        return replace(grown, tastings=(*tasted, *grown.tastings[1:]))

    def grown(self, portions: Sequence[Portion], start: Tasting | None = None) -> Grown:
        """Portions tried in this order; `start` is the tasting of the first, if it was tasted."""
        chosen: list[Portion] = [] if start is None else [portions[0]]
        score = None if start is None else start.score
        tastings = [] if start is None else [start]
        refused: set[str] = set()
        for helping in range(_HELPINGS if self.again else 1):
            # Ties would be second helpings without end.
            strict = self.strict or helping > 0
            left = list(portions if helping or start is None else portions[1:])
            while left:
                # From the soup so far to the first that is kept; then on from that soup.
                places: deque[int] = deque()
                offers = self._offers(left, chosen, refused, places, again=helping > 0)
                rival = self._mixed(chosen) if chosen else None
                rest: list[Portion] = []
                for one in tried(
                    offers, self.evaluate, score, strict=strict, rival=rival, map=self.map
                ):
                    at = places.popleft()
                    tastings.append(one)
                    refused.add(one.candidate)
                    if one.kept:
                        chosen, score, refused = [*chosen, left[at]], one.score, set()
                        rest = left[at + 1 :]
                left = rest
        if score is None:
            raise BadScore(
                f"none of the {len(portions)} ingredients has a finite score; check the evaluation"
            )
        return Grown(together("", chosen), score, tuple(tastings))

    def _offers(
        self,
        left: Sequence[Portion],
        chosen: Sequence[Portion],
        refused: Collection[str],
        places: deque[int],
        *,
        again: bool,
    ) -> Iterator[Offer]:
        """The soup so far with each of what is left; `places` gets where that was."""
        so_far = together("", chosen).shares if chosen else {}
        for at, portion in enumerate(left):
            if portion.name in refused:
                continue  # The soup is what it was then.
            mixed = together(portion.name, [*chosen, portion])
            if again and mixed.shares == so_far:
                continue  # Of one alone there is no more than all.
            places.append(at)
            yield Offer(soup_of(self.pool, mixed, integers=self.integers), portion.name)

    def _mixed(self, portions: Sequence[Portion]) -> Soup:
        return soup_of(self.pool, together("", portions), integers=self.integers)
