"""The paper's approximation (section 4 and appendix K), where the truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.analysis.theory import STEP, OnSegment, losses, soup_minus_ensemble
from ladle.predictions import Labels, Predictions, ensemble
from ladle.predictions.metrics import METRICS

Array = npt.NDArray[np.float64]
Model = Callable[[Array], Array]
"""From weights to logits (N, C)."""


def on_segment(
    model: Model, ends: tuple[Array, Array], labels: Labels, *, alpha: float = 0.5, step: float
) -> OnSegment:
    def said(at: float) -> Predictions:
        # Not rounded to float32, so that what is left is the approximation's own error.
        return Predictions("test", model((1 - at) * ends[0] + at * ends[1]), labels)

    return OnSegment(
        (said(0.0), said(1.0)), said(alpha - step), said(alpha), said(alpha + step), alpha, step
    )


# --- small tanh nets: correlation, sign agreement, approximation over truth ---------------------

SEEN = {0.05: 0.9999, 0.1: 0.998, 0.2: 0.987, 0.4: 0.951, 0.8: 0.895}
"""Relative distance of the ends: the correlation over 20 pairs that an implementation of its own
found on such nets (5 classes, noisy labels, α = 0.5, h = 0.05, β = 2)."""


def tanh_pairs(distance: float, *, step: float = 0.05) -> Array:
    """(20, 3) differences of two-layer nets and others so far from them: true, by the formula, and
    by the formula without what it neglects."""
    generator = np.random.default_rng(0)
    scales = np.repeat([8**-0.5, 16**-0.5], [8 * 16, 16 * 5])
    found = []
    for _ in range(20):
        inputs = generator.normal(size=(300, 8))

        def net(weights: Array, inputs: Array = inputs) -> Array:
            return np.tanh(inputs @ weights[:128].reshape(8, 16)) @ weights[128:].reshape(16, 5)

        first, way = generator.normal(size=(2, 208)) * scales
        second = first + distance * np.linalg.norm(first) * way / np.linalg.norm(way)
        best = net((first + second) / 2).argmax(axis=1)
        labels = np.where(generator.random(300) < 0.2, generator.integers(0, 5, 300), best)
        on = on_segment(net, (first, second), labels, step=step)
        difference = soup_minus_ensemble(on, beta=2.0)
        found.append((difference.true, difference.approximation, difference.second_order))
    return np.array(found)


@pytest.mark.parametrize("distance", SEEN)
def test_on_tanh_nets_it_is_as_good_as_was_found_elsewhere(distance: float) -> None:
    true, approximate, _ = tanh_pairs(distance).T
    assert np.corrcoef(true, approximate)[0, 1] >= SEEN[distance]
    assert np.mean(np.sign(true) == np.sign(approximate)) >= (1.0 if distance < 0.8 else 0.9)
    # Both signs occur, so that agreement is no accident of one side.
    assert 0 < np.mean(true > 0) < 1 or distance >= 0.4


def test_the_nearer_the_ends_the_better_it_is() -> None:
    errors = []
    for distance in SEEN:
        true, approximate, _ = tanh_pairs(distance).T
        errors.append(float(np.abs(approximate - true).max() / np.abs(true).max()))
    assert errors == sorted(errors)
    assert errors[0] < 0.01
    assert errors[-1] > 0.1


def test_what_is_neglected_vanishes_faster_than_the_difference() -> None:
    """The difference goes with the square of the distance, what is neglected with the fourth."""
    shares = []
    for distance in (0.05, 0.1, 0.2):
        true, first, second = tanh_pairs(distance).T
        assert (second < first).all()
        shares.append(float((first - second).mean() / np.abs(true).mean()))
    assert [shares[1] / shares[0], shares[2] / shares[1]] == pytest.approx([4, 4], rel=0.2)


def test_the_step_of_the_difference_hardly_matters() -> None:
    fine, coarse = tanh_pairs(0.2, step=0.05), tanh_pairs(0.2, step=STEP)
    assert fine[:, 0].tolist() == coarse[:, 0].tolist()
    np.testing.assert_allclose(coarse[:, 1], fine[:, 1], atol=0.05 * np.abs(fine[:, 1]).max())
    assert (coarse[:, 1] != fine[:, 1]).all()


# --- models that are linear in their weights: soup and ensemble are one -------------------------


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.8), st.floats(0.1, 5))
def test_of_linear_models_both_terms_cancel(seed: int, alpha: float, beta: float) -> None:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(50, 4))
    labels = generator.integers(0, 3, 50)
    ends = (generator.normal(size=12), generator.normal(size=12))
    on = on_segment(
        lambda weights: inputs @ weights.reshape(4, 3), ends, labels, alpha=alpha, step=1e-3
    )
    found = soup_minus_ensemble(on, beta=beta)
    assert found.true == pytest.approx(0, abs=1e-12)
    assert found.variance > 0
    # What is left is the error of the difference, h²/12 times the fourth derivative, and rounding.
    assert found.curvature == pytest.approx(found.variance, rel=1e-3, abs=1e-6)
    assert found.approximation == pytest.approx(0, abs=1e-3 * found.variance + 1e-6)


def test_linear_models_that_give_numbers_cancel_exactly() -> None:
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(50, 4)), generator.normal(size=50)
    ends = (generator.normal(size=4), generator.normal(size=4))
    on = on_segment(lambda weights: inputs @ weights[:, None], ends, labels, step=0.1)
    found = soup_minus_ensemble(on)
    # A parabola has the same second difference at any step.
    assert found.variance == pytest.approx(2 * np.mean((inputs @ (ends[1] - ends[0])) ** 2))
    assert found.curvature == pytest.approx(found.variance, rel=1e-9)
    assert found.true == pytest.approx(0, abs=1e-12)


def test_bent_models_that_give_numbers_are_approximated_too() -> None:
    """f = x·w + 0.01 (x·w)²: by hand, f_soup - f_ensemble = -0.01 α(1-α) (x·δ)²."""
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(500, 4)), generator.normal(size=500) + 1
    ends = (generator.normal(size=4), generator.normal(size=4))

    def bent(weights: Array) -> Array:
        line = inputs @ weights[:, None]
        return np.asarray(line + 0.01 * line**2)

    on = on_segment(bent, ends, labels, step=0.1)
    found = soup_minus_ensemble(on)
    soup = bent((ends[0] + ends[1]) / 2)[:, 0]
    apart = 0.01 / 4 * (inputs @ (ends[1] - ends[0])) ** 2
    by_hand = np.mean((soup - labels) ** 2 - (soup + apart - labels) ** 2)
    assert found.true == pytest.approx(by_hand, rel=1e-9)
    assert found.neglected == pytest.approx(np.mean(apart**2), rel=1e-9)
    assert found.approximation == pytest.approx(found.true, rel=0.1)
    assert found.second_order == pytest.approx(found.true, rel=0.01)
    assert found.approximation != pytest.approx(found.true, rel=0.02)


# --- the parts by hand --------------------------------------------------------------------------


def said(*logits: list[float], labels: list[int] | None = None) -> Predictions:
    return Predictions("test", np.array(logits, np.float32), np.array(labels or [0] * len(logits)))


def test_the_variance_is_of_the_change_under_what_the_soup_believes() -> None:
    # At β = 2 the soup's (0, log 3 / 2) are chances (1/4, 3/4); the change (0, 4) has under them
    # the variance 16 · 3/16 = 3, times β² = 12.
    soup = said([0.0, np.log(3) / 2])
    on = OnSegment((said([0.0, -1.0]), said([0.0, 3.0])), soup, soup, soup)
    found = soup_minus_ensemble(on, beta=2.0)
    assert found.variance == pytest.approx(12, rel=1e-6)
    assert found.curvature == 0
    assert found.approximation == pytest.approx(12 / 8, rel=1e-6)


def test_what_is_neglected_is_half_the_same_of_soup_and_ensemble() -> None:
    # The ensemble (0, 1) has the margin 1 where the soup has log 3 / 2 at β = 2: chances 3/16.
    soup = said([0.0, np.log(3) / 2])
    on = OnSegment((said([0.0, -1.0]), said([0.0, 3.0])), soup, soup, soup)
    found = soup_minus_ensemble(on, beta=2.0)
    assert found.neglected == pytest.approx((1 - np.log(3) / 2) ** 2 * 3 / 16 * 4 / 2, rel=1e-6)
    assert found.second_order == found.approximation - found.neglected


def test_where_the_soup_is_sure_disagreement_counts_for_nothing() -> None:
    soup = said([60.0, 0.0])
    on = OnSegment((said([0.0, -1.0]), said([0.0, 3.0])), soup, soup, soup)
    assert soup_minus_ensemble(on).variance < 1e-20


def test_ends_that_agree_leave_the_curvature_alone() -> None:
    end = said([1.0, 0.0])
    on = OnSegment((end, end), end, said([0.0, 0.0]), end)
    found = soup_minus_ensemble(on)
    flat, sure = np.log(2), np.log(1 + np.exp(-1))
    assert found.variance == 0
    assert found.curvature == pytest.approx(2 * (sure - flat) / 0.01, rel=1e-6)
    assert found.true == pytest.approx(flat - sure, rel=1e-6)
    assert found.approximation == pytest.approx(-found.curvature / 8)


def test_the_ensemble_is_the_one_that_is_evaluated() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 100)
    one, other, soup = (
        Predictions("test", generator.normal(size=(100, 4)).astype(np.float32), labels)
        for _ in range(3)
    )
    found = soup_minus_ensemble(OnSegment((one, other), soup, soup, soup))
    nll = METRICS["nll"]
    assert found.ensemble == pytest.approx(nll(ensemble([one, other])), rel=1e-6)
    assert found.soup == pytest.approx(nll(soup), rel=1e-12)
    gap = losses(soup) - losses(ensemble([one, other]))
    assert found.standard_error == pytest.approx(gap.std(ddof=1) / 10, rel=1e-5)


def test_losses_go_by_the_kind_of_the_labels() -> None:
    numbers = Predictions("test", np.array([[3.0], [1.0]], np.float32), np.array([1.0, 1.5]))
    assert losses(numbers, beta=7.0).tolist() == [4.0, 0.25]
    classes = said([0.0, 1.0], labels=[1])
    assert losses(classes, beta=2.0) == pytest.approx([np.log(1 + np.exp(-2))])


def test_one_example_has_no_standard_error_and_no_warning() -> None:
    soup = said([0.0, 1.0])
    assert np.isnan(soup_minus_ensemble(OnSegment((soup, soup), soup, soup, soup)).standard_error)


def test_logits_that_are_no_numbers_are_no_difference() -> None:
    soup, broken = said([0.0, 1.0], [1.0, 0.0]), said([0.0, np.nan], [np.inf, 0.0])
    found = soup_minus_ensemble(OnSegment((soup, soup), soup, broken, soup))
    assert np.isnan([found.true, found.approximation]).all()


def test_what_does_not_go_together_is_refused() -> None:
    soup, other = said([0.0, 1.0]), said([0.0, 1.0], labels=[1])
    with pytest.raises(ValueError, match="different data"):
        OnSegment((soup, other), soup, soup, soup)
    with pytest.raises(ValueError, match="not lie on the segment"):
        OnSegment((soup, soup), soup, soup, soup, alpha=0.05)
