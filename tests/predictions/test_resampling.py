"""Intervals and paired tests of metrics that are no means over examples."""

from __future__ import annotations

import numpy as np
import pytest

from ladle.predictions import (
    METRICS,
    Metric,
    Predictions,
    compare,
    compare_by,
    greedy_ensemble,
    interval_by,
)
from ladle.predictions.metrics import accuracy, matthews


def drawn(seed: int, n: int, signal: float, labels_seed: int = 0) -> Predictions:
    labels = np.random.default_rng(labels_seed).integers(0, 2, n)
    logits = np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)
    logits[np.arange(n), labels] += signal
    return Predictions("test", logits, labels)


FAST = Metric("balanced", lambda p: float(np.mean([_recall(p, c) for c in (0, 1)])))


def _recall(predictions: Predictions, label: int) -> float:
    rows = predictions.labels == label
    return float((predictions.logits[rows].argmax(1) == label).mean())


def test_means_over_examples_keep_their_own_tests() -> None:
    ours, theirs = drawn(1, 300, 1.0), drawn(2, 300, 0.5)
    found = compare_by(accuracy, [ours], [theirs])
    assert accuracy.per_example is not None
    rows = [accuracy.per_example(ours)], [accuracy.per_example(theirs)]
    assert found == compare(*rows)
    assert found.wins > 0


def test_a_clear_difference_is_found_and_its_interval_leaves_out_zero() -> None:
    found = compare_by(matthews, [drawn(1, 400, 2.0)], [drawn(2, 400, 0.3)])
    assert found.verdict == "better"
    assert found.p < 0.01
    assert found.low is not None
    assert 0 < found.low < found.difference
    turned = compare_by(matthews, [drawn(2, 400, 0.3)], [drawn(1, 400, 2.0)])
    assert (turned.verdict, turned.difference) == ("worse", -found.difference)


def test_a_model_does_not_differ_from_itself() -> None:
    found = compare_by(FAST, [drawn(1, 50, 1.0)], [drawn(1, 50, 1.0)])
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.verdict == "no difference that this set can show"


def test_lower_is_better_turns_the_verdict() -> None:
    loss = Metric("loss", lambda p: -FAST(p), higher_is_better=False)
    assert compare_by(loss, [drawn(1, 400, 2.0)], [drawn(2, 400, 0.3)]).verdict == "better"


@pytest.mark.slow
def test_models_that_are_alike_are_seldom_called_different() -> None:
    """At most as often as p < 0.05 allows, give or take: 60 pairs, of which 3 are expected."""
    calls = [
        compare_by(FAST, [drawn(2 * i, 80, 1.0, i)], [drawn(2 * i + 1, 80, 1.0, i)]).p < 0.05
        for i in range(60)
    ]
    assert sum(calls) <= 9


def test_other_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="same examples"):
        compare_by(FAST, [drawn(1, 50, 1.0, 0)], [drawn(1, 50, 1.0, 1)])


def test_an_interval_holds_the_truth_and_shrinks_with_the_examples() -> None:
    small, large = (interval_by(FAST, [drawn(3, n, 1.0)]) for n in (100, 1600))
    assert small.low is not None
    assert small.high is not None
    assert large.low is not None
    assert large.high is not None
    assert small.low < small.value < small.high
    assert 3 < (small.high - small.low) / (large.high - large.low) < 5.5  # About sqrt(16).
    assert interval_by(FAST, [drawn(3, 100, 1.0)]) == small


@pytest.mark.parametrize("name", ["f1", "matthews", "accuracy-f1", "ece"])
def test_two_steps_are_one_metric_done_quicker(name: str) -> None:
    """The same resamples and swaps, each looked at anew, give the same numbers."""
    quick = METRICS[name]
    plain = Metric(name, quick, quick.higher_is_better)
    ours, theirs = [drawn(1, 90, 1.2), drawn(5, 40, 1.0)], [drawn(2, 90, 0.4), drawn(6, 40, 0.9)]
    assert compare_by(quick, ours, theirs) == compare_by(plain, ours, theirs)
    assert interval_by(quick, ours) == interval_by(plain, ours)


def test_a_test_is_named_and_wins_are_counted_where_examples_are_won() -> None:
    ours, theirs = [drawn(1, 60, 1.0), drawn(3, 60, 1.0)], [drawn(2, 60, 1.0), drawn(4, 60, 1.0)]
    one = compare_by(accuracy, ours[:1], theirs[:1])
    both = compare_by(accuracy, ours, theirs)
    other = compare_by(matthews, ours, theirs)
    assert [c.test for c in (one, both, other)] == ["exact McNemar", *["permutation test"] * 2]
    assert [c.wins is None for c in (one, both, other)] == [False, False, True]


def test_where_a_metric_has_no_value_there_is_no_interval_and_no_difference() -> None:
    """Of three examples, one resample in nine is a single one again: no correlation has a value."""
    labels = np.array([0.0, 1.0, 2.0])
    said = [np.array([[0.0], [x], [2.0]], np.float32) for x in (1.0, 0.5)]
    ours, theirs = (Predictions("test", logits, labels) for logits in said)
    found = interval_by(METRICS["pearson"], [ours])
    assert (found.value, found.low, found.high) == (pytest.approx(1.0), None, None)
    constant = Predictions("test", np.ones((3, 1), np.float32), labels)
    compared = compare_by(METRICS["pearson"], [ours], [constant])
    assert compared.verdict == "no difference that this set can show"
    assert (compared.p, compared.low, compared.high) == (1.0, None, None)
    assert compare_by(METRICS["pearson"], [ours], [theirs]).low is None


def test_an_average_counts_every_split_alike() -> None:
    splits = [drawn(1, 40, 0.5), drawn(2, 400, 2.0)]
    found = interval_by(METRICS["matthews"], splits)
    assert found.value == pytest.approx(np.mean([matthews(split) for split in splits]))


# --- greedy ensembles ---------------------------------------------------------------------


def test_a_greedy_ensemble_keeps_what_does_not_lower_the_score() -> None:
    labels = np.array([0, 1, 0, 1])
    good = np.array([[2, 0], [0, 2], [2, 0], [1, 0]], np.float32)  # Three of four.
    helper = np.array([[0, 1], [1, 0], [0, 1], [0, 3]], np.float32)  # Alone one, together four.
    spoiler = np.array([[0, 9], [9, 0], [0, 9], [0, 9]], np.float32)
    nothing = np.full((4, 2), np.nan, np.float32)
    members = [Predictions("held-out", x, labels) for x in (spoiler, helper, nothing, good)]
    assert greedy_ensemble(members, accuracy) == [3, 1]


def test_a_greedy_ensemble_is_never_worse_than_its_best_member() -> None:
    members = [drawn(i, 200, 0.8) for i in range(6)]
    chosen = greedy_ensemble(members, accuracy)
    scores = [accuracy(member) for member in members]
    assert scores[chosen[0]] == max(scores)
