"""Metrics, against scikit-learn where it has them and against plain definitions where not."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from ladle.predictions import METRICS, Predictions, ensemble, fit_temperature, reliability, scaled
from ladle.predictions.metrics import expected_calibration_error


def drawn(seed: int, n: int = 200, classes: int = 2, signal: float = 1.0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += signal
    return Predictions("test", logits, labels)


def probabilities(predictions: Predictions) -> np.ndarray:
    powers = np.exp(predictions.logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


@given(seed=st.integers(0, 10_000), classes=st.sampled_from([2, 7]))
def test_classification_agrees_with_scikit_learn(seed: int, classes: int) -> None:
    found = drawn(seed, classes=classes)
    said, labels, shares = found.logits.argmax(1), found.labels, probabilities(found)
    average = "binary" if classes == 2 else "macro"
    f1 = sklearn.metrics.f1_score(labels, said, average=average)
    right = sklearn.metrics.accuracy_score(labels, said)
    wanted = {
        "accuracy": right,
        "f1": f1,
        "accuracy-f1": (f1 + right) / 2,
        "matthews": sklearn.metrics.matthews_corrcoef(labels, said),
        "nll": sklearn.metrics.log_loss(labels, shares, labels=range(classes)),
    }
    if classes == 7:
        wanted["top-5"] = sklearn.metrics.top_k_accuracy_score(labels, found.logits, k=5)
    if classes == 2:
        # Summed over both classes: twice what scikit-learn says of one.
        wanted["brier"] = 2 * sklearn.metrics.brier_score_loss(labels, shares[:, 1])
    for name, value in wanted.items():
        assert METRICS[name](found) == pytest.approx(value, abs=1e-9), name


def test_names_that_are_none_are_wrong() -> None:
    """Logits that are not finite name no class, and never count as right."""
    logits = np.array([[2, 0], [0, 2], [np.nan, 3], [0, np.inf]], np.float32)
    found = Predictions("test", logits, np.array([0, 1, 1, 1]))
    assert METRICS["accuracy"](found) == 0.5
    assert METRICS["f1"](found) == pytest.approx(0.5)  # One right, two missed, none too many.
    said, labels = [0, 1, 2, 2], found.labels  # A name of its own for none.
    wanted = sklearn.metrics.matthews_corrcoef(labels, said)
    assert METRICS["matthews"](found) == pytest.approx(wanted)


def test_of_many_classes_those_count_that_are_there_or_named() -> None:
    logits = np.eye(9, dtype=np.float32)[[0, 0, 3, 5]]
    found = Predictions("test", logits, np.array([0, 1, 3, 3]))
    wanted = sklearn.metrics.f1_score(found.labels, logits.argmax(1), average="macro")
    assert METRICS["f1"](found) == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["f1", "matthews", "accuracy-f1"])
def test_one_class_alone_is_no_division_by_zero(name: str) -> None:
    nothing = Predictions("test", np.array([[1, 0]] * 3, np.float32), np.zeros(3, np.int64))
    assert METRICS[name](nothing) == (0.5 if name == "accuracy-f1" else 0.0)


def test_top_5_of_four_classes_is_always_right_and_ties_go_to_the_first() -> None:
    assert METRICS["top-5"](drawn(0, classes=4)) == 1.0
    tie = Predictions("test", np.zeros((2, 7), np.float32), np.array([4, 5]))
    assert METRICS["top-5"](tie) == 0.5


@given(seed=st.integers(0, 10_000), n=st.integers(20, 400), bins=st.integers(1, 20))
def test_the_calibration_error_is_that_of_bins_of_equal_mass(seed: int, n: int, bins: int) -> None:
    found = drawn(seed, n, classes=3)
    pairs = sorted(
        (
            (share.max(), float(share.argmax() == label))
            for share, label in zip(probabilities(found), found.labels, strict=True)
        ),
        key=lambda pair: pair[0],
    )
    # The first n % bins of them have one example more than the others.
    sizes = [n // bins + (i < n % bins) for i in range(bins)]
    total, at = 0.0, 0
    for size in sizes:
        part = pairs[at : at + size]
        at += size
        total += size / n * abs(fmean(c for c, _ in part) - fmean(hit for _, hit in part))
    assert expected_calibration_error(found, bins) == pytest.approx(total, abs=1e-9)
    drawn_as = reliability(found, bins)
    assert [one.n for one in drawn_as] == sizes
    assert sum(one.n * abs(one.confidence - one.accuracy) for one in drawn_as) / n == pytest.approx(
        total, abs=1e-9
    )
    assert [one.confidence for one in drawn_as] == sorted(one.confidence for one in drawn_as)


def test_regression_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = generator.normal(size=100)
    said = labels + generator.normal(size=100)
    found = Predictions("test", said.astype(np.float32)[:, None], labels)
    wanted = {
        "mse": sklearn.metrics.mean_squared_error(labels, said),
        "mae": sklearn.metrics.mean_absolute_error(labels, said),
        "r2": sklearn.metrics.r2_score(labels, said),
        "pearson": np.corrcoef(labels, said)[0, 1],
        "spearman": np.corrcoef(labels.argsort().argsort(), said.argsort().argsort())[0, 1],
    }
    for name, value in wanted.items():
        assert METRICS[name](found) == pytest.approx(value, abs=1e-5), name


def test_lower_is_better_where_it_is() -> None:
    lower = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert lower == {"nll", "brier", "ece", "mse", "mae"}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_temperature_is_found_again(temperature: float) -> None:
    """Labels drawn from the softmax itself are calibrated at temperature 1."""
    generator = np.random.default_rng(1)
    logits = 2 * generator.normal(size=(20_000, 4))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    spoilt = Predictions("held-out", (temperature * logits).astype(np.float32), labels)
    found = fit_temperature(spoilt)
    assert found == pytest.approx(temperature, rel=0.05)
    better = scaled(spoilt, found)
    assert METRICS["nll"](better) <= METRICS["nll"](spoilt)
    assert METRICS["accuracy"](better) == METRICS["accuracy"](spoilt)


def test_of_linear_models_the_soup_says_what_the_ensemble_says() -> None:
    generator = np.random.default_rng(2)
    inputs = generator.integers(-8, 8, (50, 6)).astype(np.float32)
    heads = generator.integers(-64, 64, (4, 6, 3)).astype(np.float32)  # Sums of these are exact.
    labels = generator.integers(0, 3, 50)
    each = [Predictions("test", inputs @ head, labels) for head in heads]
    assert np.array_equal(ensemble(each).logits, inputs @ heads.mean(axis=0))


# --- the paper's own 72 models ------------------------------------------------------------

SHIFTS = ("ImageNetV2", "ImageNetSketch", "ImageNetR", "ObjectNet", "ImageNetA")


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, float]]:
    """Held-out (2p), test and the mean over the shifts of each, in percent."""
    file = Path(__file__).parents[1] / "data" / "clip_vitb32_72_models.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len(rows) == 72
    return {
        row["model_name"]: {
            "held-out": 100 * row["ImageNet2p"],
            "test": 100 * row["ImageNet"],
            "shifts": 100 * fmean(row[shift] for shift in SHIFTS),
        }
        for row in rows
    }


def test_the_mean_over_the_shifts_is_the_papers(models: dict[str, dict[str, float]]) -> None:
    """The plain mean of the five (paper, sections 2.2 and 3.2)."""
    wanted = {
        "model_43": (83.050, 80.386, 47.967),
        "model_44": (82.900, 79.888, 43.995),
        "model_69": (82.473, 79.790, 48.431),
        "model_48": (82.408, 79.910, 48.278),
        "model_61": (80.512, 78.110, 50.673),
        "model_0": (78.081, 75.574, 47.149),
    }
    for name, values in wanted.items():
        assert tuple(round(value, 3) for value in models[name].values()) == values


def test_the_ranks_are_the_papers(models: dict[str, dict[str, float]]) -> None:
    def ranked(split: str) -> list[str]:
        return sorted(models, key=lambda name: -models[name][split])

    assert ranked("held-out")[:3] == ["model_43", "model_44", "model_69"]
    assert ranked("held-out")[-1] == "model_0"
    assert ranked("test")[:2] == ["model_43", "model_48"]
    assert ranked("shifts")[0] == "model_61"
    held_out, test, shifts = (
        np.array([model[split] for model in models.values()])
        for split in ("held-out", "test", "shifts")
    )
    for ours, theirs, wanted in ((held_out, test, 0.985), (test, shifts, 0.28)):
        found = Predictions("ranks", ours.astype(np.float32)[:, None], theirs)
        assert METRICS["spearman"](found) == pytest.approx(wanted, abs=0.005)
