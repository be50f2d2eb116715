"""One pair on one split, from predictions that can be worked out by hand."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from ladle.analysis.pairs import PairOnSplit, average, pair_on_split, relative_barrier
from ladle.predictions import METRICS, Predictions

LABELS = np.array([0, 1, 0, 1])


def with_loss(loss: float) -> Predictions:
    """Two classes, and the same loss on every example."""
    margin = -np.log(np.expm1(loss))
    logits = np.where(LABELS[:, None] == [[0, 1]], margin, 0.0)
    return Predictions("test", logits.astype(np.float32), LABELS)


def pair(*along: float, beta: float = 1.0) -> PairOnSplit:
    """A pair whose losses at α = 0, 0.4, 0.5, 0.6 and 1 are these."""
    first, below, middle, above, second = map(with_loss, along)
    ends, around = (first, second), (below, middle, above)
    return pair_on_split(ends, around, METRICS["accuracy"], beta=beta)


@pytest.mark.parametrize(
    ("along", "barrier"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0), 0.0),
        ((1.0, 0.5, 0.4, 0.5, 1.0), 0.0),  # A valley is no barrier,
        ((1.0, 1.4, 1.5, 1.6, 2.0), 0.0),  # nor is a slope,
        ((1.0, 1.1, 1.7, 1.2, 1.0), 0.7),  # wherever its top is:
        ((1.0, 1.9, 1.7, 1.2, 1.0), 0.9),
        ((1.0, 1.1, 1.7, 1.8, 1.0), 0.8),
        ((1.0, 1.4, 2.0, 1.6, 2.0), 0.5),  # above the line from 1 to 2 there is 1.5.
    ],
)
def test_a_barrier_is_what_rises_above_the_line(along: tuple[float, ...], barrier: float) -> None:
    found = pair(*along)
    assert found.barrier == pytest.approx(barrier, abs=1e-6)
    assert relative_barrier(found) == pytest.approx(barrier / (along[0] + along[-1]) * 2, abs=1e-6)
    assert found.first_loss == pytest.approx(along[0])
    assert found.second_loss == pytest.approx(along[-1])


def test_both_temperatures_are_told_apart() -> None:
    found, plain = pair(1.0, 1.2, 1.5, 1.2, 0.6, beta=0.5), pair(1.0, 1.2, 1.5, 1.2, 0.6)
    assert (found.beta, plain.beta) == (0.5, 1.0)
    assert found.soup_loss == plain.soup_loss == pytest.approx(1.5)
    for name in ("approximation", "curvature", "variance"):
        assert getattr(found, f"plain_{name}") == getattr(plain, name)
        assert getattr(found, name) != getattr(plain, name)
    assert plain.loss_difference == pytest.approx(plain.soup_loss - plain.ensemble_loss)
    assert found.loss_difference != pytest.approx(plain.loss_difference)
    assert plain.curvature == pytest.approx(2 * (1.2 - 1.5) / 0.01, rel=1e-5)


def test_a_soup_of_no_numbers_has_no_barrier() -> None:
    broken = Predictions("test", np.full((4, 2), np.nan, np.float32), LABELS)
    end = with_loss(1.0)
    found = pair_on_split((end, end), (end, broken, end), METRICS["accuracy"], beta=1.0)
    assert np.isnan([found.barrier, found.loss_difference, found.approximation]).all()
    assert found.soup == 0  # It names no class.


def test_a_mean_is_of_everything() -> None:
    one, other = pair(1.0, 1.1, 1.7, 1.2, 1.0), pair(0.5, 0.5, 0.6, 0.4, 0.3)
    mean = average([one, other])
    for field in fields(PairOnSplit):
        if field.name != "standard_error":
            both = [getattr(one, field.name), getattr(other, field.name)]
            assert getattr(mean, field.name) == pytest.approx(np.mean(both))
    errors = [one.standard_error, other.standard_error]
    assert mean.standard_error == pytest.approx(np.hypot(*errors) / 2)
    assert average([one]) == one
