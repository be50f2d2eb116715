"""Soups of the same few models: what these share need not be loaded for each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ladle.checkpoint import Layout
from ladle.merge import Linear, differing
from ladle.soup import Pool, Soup

_WIDEST = "float64"

_LARGEST = 2.0**10
"""Of the weights' sizes, added up: larger ones could cancel to less than a float32 holds."""


@dataclass(frozen=True)
class Relatives:
    """A pool's soups whose weights sum to 1.

    Where all ingredients hold the same number, such a soup holds it too: the sum in float64 is
    within a few units in its last place, and rounds to the number in any narrower dtype. So from
    one of them to another only the tensors that are `differing` change.
    """

    digests: frozenset[str]
    layout: Layout
    differing: tuple[str, ...]

    @classmethod
    def of(cls, pool: Pool) -> Relatives:
        """Reads every ingredient, for its digest and what it shares."""
        found = differing([one.checkpoint for one in pool], list(pool.layout.tensors))
        return cls(frozenset(pool.digests), pool.layout, tuple(found))

    def include(self, *soups: Soup) -> bool:
        """Whether these are all of them."""
        kinds = {spec.dtype for spec in self.layout.tensors.values()}
        return _WIDEST not in kinds and all(map(self._includes, soups))

    def _includes(self, soup: Soup) -> bool:
        merge = soup.merge
        return (
            isinstance(merge, Linear)
            and not merge.by_tensor
            and math.isclose(math.fsum(merge.weights), merge.divisor, rel_tol=1e-12)
            and math.fsum(map(abs, merge.weights)) <= _LARGEST * abs(merge.divisor)
            and soup.statistics is None
            and soup.rank is None
            and soup.dtype is None
            and soup.pool.layout == self.layout
            and self.digests.issuperset(soup.pool.digests)
        )
