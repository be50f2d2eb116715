"""Soups of soups: how much of each ingredient is in a mean of means, exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ladle.merge import Linear, mean
from ladle.soup import Policy, Pool, Soup


@dataclass(frozen=True)
class Portion:
    """One thing to put into a soup: an ingredient, or a soup of some. Shares sum to 1."""

    name: str
    shares: Mapping[int, Fraction]
    """By the ingredient's place in the pool."""


def single(pool: Pool, i: int) -> Portion:
    """An ingredient as it is."""
    return Portion(pool[i].name, {i: Fraction(1)})


def together(name: str, portions: Sequence[Portion]) -> Portion:
    """The mean of several, in their order; one that comes twice counts twice."""
    shares: dict[int, Fraction] = {}
    for portion in portions:
        for i, share in portion.shares.items():
            shares[i] = shares.get(i, Fraction(0)) + share / len(portions)
    return Portion(name, shares)


def soup_of(pool: Pool, portion: Portion, *, integers: Policy = "equal") -> Soup:
    """The one linear merge of ingredients that a portion is.

    Weights are whole numbers and the divisor is their sum, so that equal shares are the same soup
    as a plain mean, and any of copies is the copy.
    """
    taken = [i for i, share in portion.shares.items() if share]
    shares = [portion.shares[i] for i in taken]
    common = math.lcm(*(share.denominator for share in shares))
    weights = tuple(float(share * common) for share in shares)
    merge = mean(len(taken)) if set(weights) == {1.0} else Linear(weights, sum(weights))
    return Soup(pool.subset(taken), merge, integers=integers)
