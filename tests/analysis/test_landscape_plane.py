"""Where models lie: distances, angles, the plane's basis, against float64 by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bowls import ingredient
from ladle.analysis import Plane, Positions, with_origin
from ladle.analysis.path import along, barrier, steps
from ladle.analysis.plane import Axis
from ladle.errors import BadInput, NonFiniteTensor
from ladle.soup import Pool
from ladle.soup.soup import uniform_soup

FIFTH = Fraction(1, 5)


def drawn(seed: int, *, models: int = 3, scale: float = 1.0) -> list[np.ndarray[Any, Any]]:
    """Weights of so many models, float32, of two tensors with 12 and 20 numbers in one row."""
    generator = np.random.default_rng(seed)
    start = generator.normal(size=32)
    found = [start + scale * generator.normal(size=32) * (i > 0) for i in range(models)]
    return [one.astype(np.float32) for one in found]


def pool_of(rows: list[np.ndarray[Any, Any]], dtype: Any = torch.float32) -> Pool:
    return Pool.of(
        ingredient(f"m{i}", dtype, u=row[:12].reshape(3, 4), v=row[12:])
        for i, row in enumerate(rows)
    )


def weights_at(plane: Plane, rows: list[np.ndarray[Any, Any]], a: float, b: float) -> Any:
    shares = plane.weights(a, b)
    return sum(w * row.astype(np.float64) for w, row in zip(shares, rows[:3], strict=True))


def test_distances_and_angle_by_hand() -> None:
    # θ₁ - θ₀ = (3, 4), θ₂ - θ₀ = (4, 3): distances 5 and 5, √2 apart, cos φ = 24 / 25.
    rows = [np.array([1.0, 1.0]), np.array([4.0, 5.0]), np.array([5.0, 4.0])]
    pool = Pool.of(ingredient(f"m{i}", w=row) for i, row in enumerate(rows))
    positions = Positions.of(pool)
    expected = [[0, 5, 5], [5, 0, math.sqrt(2)], [5, math.sqrt(2), 0]]
    assert positions.distances == pytest.approx(np.array(expected), abs=1e-12)
    assert positions.angle(1, 2) == pytest.approx(math.degrees(math.acos(24 / 25)), abs=1e-9)
    plane = Plane.of(positions)
    # u₁ = (3, 4) / 5; along it θ₂ - θ₀ has 24 / 5, and 7 / 5 across.
    assert plane.coordinates(1) == pytest.approx((5, 0, 0), abs=1e-7)
    assert plane.coordinates(2) == pytest.approx((24 / 5, 7 / 5, 0), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_basis_is_the_papers_in_float64(seed: int) -> None:
    rows = drawn(seed)
    plane = Plane.of(Positions.of(pool_of(rows)))
    zero, one, two = (row.astype(np.float64) for row in rows)
    u1 = (one - zero) / np.linalg.norm(one - zero)
    w = (two - zero) - (two - zero) @ u1 * u1
    u2 = w / np.linalg.norm(w)
    for a, b in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-2.5, 7.0)]:
        expected = zero + a * u1 + b * u2
        assert weights_at(plane, rows, a, b) == pytest.approx(expected, rel=1e-7, abs=1e-7)
    assert plane.coordinates(2)[:2] == pytest.approx(((two - zero) @ u1, (two - zero) @ u2))


@given(
    seed=st.integers(0, 50),
    x=st.fractions(-3, 3, max_denominator=50),
    y=st.fractions(-3, 3, max_denominator=50),
)
def test_shares_sum_to_one_and_lead_back_to_the_point(seed: int, x: Fraction, y: Fraction) -> None:
    plane = Plane.of(Positions.of(pool_of(drawn(seed))))
    shares = plane.shares(x, y)
    assert sum(shares) == 1
    expected = (float(x) * plane.width, float(y) * plane.height)
    assert plane.of_shares(shares) == pytest.approx(expected, abs=1e-9)


def test_a_model_beside_the_plane_is_projected_and_its_distance_told() -> None:
    rows = drawn(1)
    zero, one, two = (row.astype(np.float64) for row in rows)
    plane = Plane.of(Positions.of(pool_of(rows)))
    inside = 0.5 * zero + 0.25 * one + 0.25 * two
    across = np.random.default_rng(9).normal(size=32)
    basis, _ = np.linalg.qr(np.stack([one - zero, two - zero], axis=1))
    across -= basis @ (basis.T @ across)
    beside = inside + 3.0 * across / np.linalg.norm(across)
    positions = Positions.of(pool_of([*rows, inside.astype(np.float32), beside.astype(np.float32)]))
    plane = Plane.of(positions)
    at = plane.of_shares((Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)))
    assert plane.coordinates(3) == pytest.approx((*at, 0.0), abs=1e-5)
    assert plane.coordinates(4) == pytest.approx((*at, 3.0), rel=1e-5)


def test_a_point_on_a_path_is_projected_and_its_distance_told() -> None:
    rows = [np.array([1.0, 0.0]), np.array([5.0, 0.0]), np.array([2.0, 3.0])]
    positions = Positions.of(Pool.of(ingredient(f"m{i}", w=r) for i, r in enumerate(rows)))
    assert along(positions, 2) == pytest.approx((0.25, 3.0))


def test_a_grid_does_not_depend_on_the_last_bits_of_inner_products() -> None:
    """Threads and machines add up in other orders; a point has to be the same soup all the same."""
    positions = Positions.of(pool_of(drawn(2)))
    nudged = Positions(positions.pool, positions.gram * (1 + 1e-14), positions.rounding)
    nudged.gram[1, 2] *= 1 + 3e-15
    one, other = Plane.of(positions), Plane.of(nudged)
    assert one.slant == other.slant
    assert one.columns(15, FIFTH) == other.columns(15, FIFTH)


def test_the_usual_grid_has_the_models_on_it_and_covers_them() -> None:
    rows = [np.array([0.0, 0.0]), np.array([4.0, 0.0]), np.array([1.0, 3.0])]
    plane = Plane.of(Positions.of(Pool.of(ingredient(f"m{i}", w=r) for i, r in enumerate(rows))))
    assert plane.slant == Fraction(1, 4)
    expected = tuple(Fraction(tenth, 10) for tenth in range(-2, 13))
    assert plane.columns(15, FIFTH).at == expected
    assert plane.rows(15, FIFTH).at == expected


def test_a_grid_reaches_models_that_lie_behind_the_origin() -> None:
    rows = [np.array([0.0, 0.0]), np.array([1.0, 0.0]), np.array([-2.0, 1.0])]
    plane = Plane.of(Positions.of(Pool.of(ingredient(f"m{i}", w=r) for i, r in enumerate(rows))))
    assert plane.slant == -2
    assert plane.columns(4, Fraction(0)) == Axis(
        (Fraction(-2), Fraction(-1), Fraction(0), Fraction(1))
    )


def test_a_finer_grid_has_the_points_of_the_coarser_one() -> None:
    coarse = Axis.over(Fraction(0), Fraction(1), points=8, margin=FIFTH)
    fine = Axis.over(Fraction(0), Fraction(1), points=15, margin=FIFTH)
    assert {*coarse.at} < {*fine.at}


def test_a_path_has_both_ends_and_the_middle() -> None:
    assert steps(4, Fraction(1, 7)).at == tuple(
        map(Fraction, ("-1/7", "0", "2/7", "1/2", "5/7", "1", "8/7"))
    )


# --- barriers -----------------------------------------------------------------------------


def test_a_barrier_is_what_rises_above_the_line_between_the_ends() -> None:
    t = [-0.5, 0.0, 0.5, 1.0, 1.5]
    found = barrier(t, np.array([9.0, 1.0, 4.0, 3.0, 9.0]), higher_is_better=False)
    assert (found.height, found.at) == (2.0, 0.5)
    found = barrier(t, np.array([9.0, 0.9, 0.5, 0.7, 0.1]), higher_is_better=True)
    assert found.height == pytest.approx(0.3)
    valley = barrier(t, np.array([9.0, 1.0, 0.0, 3.0, 9.0]), higher_is_better=False)
    assert (valley.height, valley.at) == (0.0, 0.0)


def test_a_path_that_leaves_the_numbers_has_no_height() -> None:
    found = barrier([0.0, 0.5, 1.0], np.array([1.0, np.nan, 1.0]), higher_is_better=False)
    assert (found.height, found.at) == (None, None)


# --- what is no plane ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_three_models_on_a_line_are_refused_in_any_precision(dtype: Any) -> None:
    """A saved point of the line is a little off it, by rounding."""
    one, two = (torch.tensor(row).to(dtype) for row in drawn(0, models=2))
    pool = Pool.of([ingredient("a", dtype, w=one.double()), ingredient("b", dtype, w=two.double())])
    between = uniform_soup(pool).state_dict()["w"]
    third = ingredient("between", dtype, w=between.double())
    with pytest.raises(BadInput, match=r"a, b and between lie on one line"):
        Plane.of(Positions.of(Pool.of([*pool, third])))


def test_a_small_angle_is_no_line() -> None:
    zero, one, _ = drawn(0)
    across = np.random.default_rng(5).normal(size=32)
    two = 0.5 * (zero + one) + 1e-4 * across
    plane = Plane.of(Positions.of(pool_of([zero, one, two.astype(np.float32)])))
    assert plane.height < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_model_twice_is_refused_with_both_names(dtype: Any) -> None:
    rows = drawn(0)
    same = rows[1] * np.float32(1 + 2**-24)  # The next number, where it is another at all.
    with pytest.raises(BadInput, match=r"m1 and m2 are the same model .*give each once"):
        Plane.of(Positions.of(pool_of([rows[0], rows[1], same], dtype)))


def test_a_base_that_is_one_of_the_models_is_refused() -> None:
    pool = pool_of(drawn(0))
    with pytest.raises(BadInput, match="base and m1 are the same model"):
        Positions.of(with_origin(pool, pool[1])).check_apart()


def test_a_model_that_is_not_finite_is_named() -> None:
    rows = drawn(0)
    rows[2][5] = np.nan
    with pytest.raises(NonFiniteTensor, match="m2 has NaN or infinity in 1 "):
        Positions.of(pool_of(rows))


def test_what_never_changed_does_not_hide_a_line_or_a_difference() -> None:
    """A large frozen part has much rounding of its own, and none of it is between the models."""
    frozen = np.full(100_000, 1000.0)
    rows = [np.array([1.0, 0.0]), np.array([1.0, 1e-3]), np.array([1.0 + 1e-3, 0.0])]
    pool = Pool.of(ingredient(f"m{i}", w=row, frozen=frozen) for i, row in enumerate(rows))
    plane = Plane.of(Positions.of(pool))
    assert plane.height == pytest.approx(1e-3, rel=1e-4)
