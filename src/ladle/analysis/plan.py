"""What a comparison looks at, and so which models it needs evaluated: known before any is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations

import numpy as np

from ladle.analysis.theory import STEP
from ladle.errors import BadInput
from ladle.recipes.portions import Portion, single, soup_of, together
from ladle.soup import Policy, Pool, Soup

MOST_PAIRS = 66
"""All pairs of twelve models; of more models so many pairs, unless another number is asked for."""

ORDERS = 5
"""Random orders in which soups and ensembles grow."""

_EVERY_SIZE = 8
"""Up to this size soups grow one by one; beyond, by half as many again each time."""

_MIDDLE = Fraction(1, 2)
_STEP = Fraction(str(STEP))

Order = tuple[int, ...]
"""All models of the pool by number, in the order in which a soup takes them in."""


@dataclass(frozen=True)
class Plan:
    """Which pairs of a pool's models are compared, and in which orders soups of them grow.

    Soups of one order are nested, so that each size costs one evaluation; an ensemble costs none.
    """

    pool: Pool
    pairs: tuple[tuple[int, int], ...]
    orders: tuple[Order, ...]
    integers: Policy = "equal"

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of ingredients, from two to all."""
        k = len(self.pool)
        found = list(range(2, min(k, _EVERY_SIZE) + 1))
        while found[-1] < k:
            found.append(min(k, found[-1] * 3 // 2))
        return tuple(found)

    @cached_property
    def singles(self) -> tuple[Soup, ...]:
        """Each model as it is."""
        every = (single(self.pool, i) for i in range(len(self.pool)))
        return tuple(soup_of(self.pool, one, integers=self.integers) for one in every)

    @property
    def growing(self) -> Iterator[Soup]:
        """The soups of all sizes in all orders."""
        return (self.grown(order, size) for order in self.orders for size in self.sizes)

    def grown(self, order: Order, size: int) -> Soup:
        """The uniform soup of the first models of an order."""
        # By number: the same models are one soup, whatever the order they came in.
        portions = [single(self.pool, i) for i in sorted(order[:size])]
        return soup_of(self.pool, together("", portions), integers=self.integers)

    def around_the_middle(self, pair: tuple[int, int]) -> tuple[Soup, Soup, Soup]:
        """The soups at α = 1/2 - h, 1/2 and 1/2 + h from the pair's first model to its second."""
        i, j = pair
        below, middle, above = (
            soup_of(self.pool, Portion("", {i: 1 - at, j: at}), integers=self.integers)
            for at in (_MIDDLE - _STEP, _MIDDLE, _MIDDLE + _STEP)
        )
        return below, middle, above

    @cached_property
    def soups(self) -> tuple[Soup, ...]:
        """Everything that is to be evaluated, single models first, each once."""
        around = (soup for pair in self.pairs for soup in self.around_the_middle(pair))
        every = (*self.singles, *around, *self.growing)
        return tuple({soup.digest: soup for soup in every}.values())


def plan(
    pool: Pool,
    *,
    pairs: int | None = None,
    orders: int = ORDERS,
    seed: int = 0,
    integers: Policy = "equal",
) -> Plan:
    """Random pairs, all where there are no more than asked for, and random orders.

    Raises:
        BadInput: there is one model only.
    """
    k = len(pool)
    if k < 2:
        raise BadInput(
            f"{pool[0].name} is the only model left, and comparing takes two; name another"
        )
    generator = np.random.default_rng(seed)
    every = list(combinations(range(k), 2))
    wanted = min(MOST_PAIRS if pairs is None else pairs, len(every))
    drawn = sorted(generator.permutation(len(every))[:wanted].tolist())
    shuffled = [tuple(generator.permutation(k).tolist()) for _ in range(orders)]
    return Plan(pool, tuple(every[i] for i in drawn), tuple(dict.fromkeys(shuffled)), integers)
