"""Clusters of models by the barriers between them, on matrices worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ladle.analysis.basins import APART, basins


def matrix(k: int, pairs: dict[tuple[int, int], float], other: float) -> np.ndarray:
    found = np.full((k, k), other)
    np.fill_diagonal(found, 0.0)
    for (i, j), number in pairs.items():
        found[i, j] = found[j, i] = number
    return found


UNKNOWN = np.full((5, 5), np.nan)


def test_models_without_barriers_are_one_basin() -> None:
    found = basins(matrix(5, {}, APART / 2), matrix(5, {}, 60))
    assert found.clusters == (0, 0, 0, 0, 0)
    assert sorted(found.order) == list(range(5))


def test_two_basins_show_and_the_larger_comes_first() -> None:
    # 1 and 3 go together, and 0, 2, 4 do.
    near = {(1, 3): 0.0, (0, 2): 0.01, (0, 4): 0.02, (2, 4): 0.0}
    found = basins(matrix(5, near, 2.0), UNKNOWN)
    assert found.clusters == (0, 1, 0, 1, 0)
    assert found.order == (0, 2, 4, 1, 3)


def test_within_a_basin_near_angles_stand_side_by_side() -> None:
    angles = matrix(5, {(0, 3): 10, (1, 4): 12, (0, 4): 50, (3, 4): 50}, 80)
    found = basins(matrix(5, {}, 0.0), angles)
    at = {model: place for place, model in enumerate(found.order)}
    assert abs(at[0] - at[3]) == abs(at[1] - at[4]) == 1
    # ... but barriers go first.
    apart = basins(matrix(5, {(0, 1): 0, (2, 3): 0, (2, 4): 0, (3, 4): 0}, 1.0), angles)
    assert apart.clusters == (1, 1, 0, 0, 0)
    assert set(apart.order[:3]) == {2, 3, 4}


def test_one_pair_that_is_a_little_off_does_not_part_a_basin() -> None:
    found = basins(matrix(5, {(0, 1): 1.5 * APART}, 0.2 * APART), UNKNOWN)
    assert found.clusters == (0, 0, 0, 0, 0)


def test_pairs_that_were_not_measured_leave_basins_open() -> None:
    found = basins(matrix(5, {(0, 1): np.nan}, 0.0), matrix(5, {}, 60))
    assert found.clusters is None
    assert sorted(found.order) == list(range(5))
    assert basins(UNKNOWN, UNKNOWN).order == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("k", [2, 3])
def test_few_models_are_no_special_case(k: int) -> None:
    assert basins(matrix(k, {}, 1.0), matrix(k, {}, 90)).clusters == tuple(range(k))
