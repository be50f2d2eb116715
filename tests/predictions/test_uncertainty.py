from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.predictions import Predictions, accuracy, compare, interval, mcnemar
from ladle.predictions.metrics import nll


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_two_sided_binomial_tail(wins: int, losses: int) -> None:
    n = wins + losses
    # Under "no difference" each discordant example is won with probability 1/2: both tails that
    # are at least as lopsided as what was seen, out of 2^n outcomes.
    tail = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(wins - losses))
    assert mcnemar(wins, losses) == pytest.approx(tail / 2**n)


def test_nine_wins_to_one_loss_worked_by_hand() -> None:
    # 2 · (C(10,0) + C(10,1)) / 2^10 = 22 / 1024
    assert mcnemar(9, 1) == pytest.approx(22 / 1024)


def hits(good: int, bad: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [good, bad])


def test_verdicts() -> None:
    base = hits(500, 500)
    more = np.concatenate([np.ones(520), np.zeros(480)])  # 20 wins, no losses
    assert compare([more], [base]).verdict == "better"
    assert compare([base], [more]).verdict == "worse"
    found = compare([base], [base])
    assert (found.difference, found.p, found.wins, found.losses) == (0.0, 1.0, 0, 0)
    assert found.verdict == "no difference that this set can show"
    assert compare([hits(503, 497)], [base]).verdict == "no difference that this set can show"


def test_where_lower_is_better_a_smaller_loss_wins() -> None:
    ours, theirs = np.linspace(0, 1, 50), np.linspace(0.2, 1.3, 50)
    found = compare([ours], [theirs], higher_is_better=False)
    assert found.difference < 0
    assert (found.wins, found.losses) == (50, 0)
    assert found.verdict == "better"


def test_an_average_over_splits_weighs_each_split_alike() -> None:
    # 60 % of 10 and 90 % of 1000: the plain mean is 75 %, not the pooled 89.7 %.
    assert interval([hits(6, 4), hits(900, 100)]).value == pytest.approx(0.75)


def test_flipping_signs_agrees_with_mcnemar_on_one_split() -> None:
    generator = np.random.default_rng(0)
    ours = (generator.random(800) < 0.8).astype(float)
    theirs = (generator.random(800) < 0.78).astype(float)
    exact = compare([ours], [theirs]).p
    # Two copies of the split are an average over splits, tested by permutation; half the data
    # each time keeps the evidence about the same.
    flipped = compare([ours[:400], ours[400:]], [theirs[:400], theirs[400:]]).p
    assert flipped == pytest.approx(exact, abs=0.05)


def test_one_example_that_differs_shows_nothing() -> None:
    ours, theirs = np.linspace(0, 1, 50), np.linspace(0, 1, 50)
    ours[7] += 0.1
    assert compare([ours], [theirs]).p == 1.0
    assert compare([ours, theirs], [theirs, theirs]).p == 1.0


def test_what_flipping_signs_cannot_reach_is_rare() -> None:
    # All ten differences are positive: of 2^10 arrangements two are as far from 0.
    found = compare([np.arange(1.0, 11.0)], [np.zeros(10)])
    assert found.p == pytest.approx(2 / 1024, abs=0.002)


def test_nan_logits_are_a_miss_and_no_class() -> None:
    logits = np.array([[np.nan, np.nan], [1.0, np.nan], [2.0, 1.0]], np.float32)
    assert accuracy(Predictions("test", logits, np.array([0, 0, 0]))) == pytest.approx(1 / 3)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for i in range(300):
        found = interval([(generator.random(400) < 0.7).astype(float)], seed=i)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.7 <= found.high
    # 95 % of 300 is 285; three standard deviations are 11.
    assert 274 <= covered <= 299


def test_continuous_scores_get_an_interval_too() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 2000)
    found = interval([values])
    standard_error = values.std() / np.sqrt(2000)
    assert found.low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.01)
    assert found.high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.01)


def test_one_example_leaves_the_interval_open() -> None:
    found = interval([np.array([1.0])])
    assert (found.low, found.high) == (None, None)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [hits(30, 10)]
    assert interval(values, seed=3) == interval(values, seed=3)


def test_models_measured_on_different_examples_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same examples"):
        compare([hits(1, 1)], [hits(1, 2)])


def test_metrics_by_hand() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]], np.float32)
    predictions = Predictions("test", logits, np.array([0, 0, 1]))
    # A tie goes to the first class, as argmax has it, so the third is a miss.
    assert accuracy(predictions) == pytest.approx(1 / 3)
    by_hand = np.mean([np.log1p(np.exp(-2)), np.log1p(np.exp(1)), np.log(2)])
    assert nll(predictions) == pytest.approx(by_hand)
    assert nll.sign == -1.0


def test_predictions_must_go_with_their_labels() -> None:
    with pytest.raises(ValueError, match="split 'test' are not"):
        Predictions("test", np.zeros((3, 2), np.float32), np.zeros(4, np.int64))
