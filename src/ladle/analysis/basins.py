"""Which models lie in one basin: the barriers between pairs, clustered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ladle.analysis.positions import Float64
from ladle.errors import MissingExtra

APART = 0.1
"""A barrier that parts two basins, as a share of the ends' mean loss. Within a basin the loss
halfway between two fine-tunings is about that of the ends, or less; between basins it is often
several times as high."""


@dataclass(frozen=True, eq=False)
class Basins:
    """Models by number, in an order that brings together what belongs together.

    `clusters` has a number for each model, from 0, the largest first; None where not every pair
    was measured. Models of one cluster can be averaged: on average over pairs of them, the loss
    does not rise by more than `APART` of the ends' mean.
    """

    order: tuple[int, ...]
    clusters: tuple[int, ...] | None


def basins(barriers: Float64, angles: Float64) -> Basins:
    """Clusters by barriers, as shares of the ends' losses, and within them an order by angles.

    Both are (k, k); one that is NaN somewhere, for it is not known, plays no part. Average linkage
    of both, that of the barriers cut at `APART`.

    Raises:
        MissingExtra: without SciPy.
    """
    k = len(barriers)
    clusters = None if np.isnan(barriers).any() else _clusters(barriers)
    order = list(range(k)) if np.isnan(angles).any() else _leaves(angles)
    if clusters is not None:
        order.sort(key=lambda i: clusters[i])
    return Basins(tuple(order), clusters)


def require_scipy() -> None:
    """Check that clustering, correlations and temperatures can be computed.

    Raises:
        MissingExtra: without SciPy.
    """
    try:
        import scipy.cluster.hierarchy  # noqa: F401
    except ImportError:
        raise MissingExtra("SciPy (to compare models)", "metrics") from None


def _clusters(barriers: Float64) -> tuple[int, ...]:
    from scipy.cluster.hierarchy import fcluster, linkage

    labels = fcluster(linkage(_condensed(barriers), "average"), APART, "distance")
    return _by_size(labels.tolist())


def _by_size(labels: Sequence[int]) -> tuple[int, ...]:
    """The same groups, numbered from 0: the largest first, of equal ones the first in the pool."""
    by_size = sorted(dict.fromkeys(labels), key=lambda label: -labels.count(label))
    return tuple(by_size.index(label) for label in labels)


def _leaves(angles: Float64) -> list[int]:
    from scipy.cluster.hierarchy import leaves_list, linkage

    tree = linkage(_condensed(angles), "average", optimal_ordering=True)
    return [int(i) for i in leaves_list(tree)]


def _condensed(matrix: Float64) -> Float64:
    """(k(k-1)/2,) what is above the diagonal, row by row, as SciPy wants distances."""
    return np.asarray(matrix[np.triu_indices(len(matrix), 1)])
