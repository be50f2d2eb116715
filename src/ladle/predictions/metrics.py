"""Metrics: numbers computed from predictions and labels, each with a direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ladle.errors import MissingExtra
from ladle.predictions.base import Predictions

PerExample = Callable[[Predictions], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Metric:
    """A named score of predictions, any function of them and their labels.

    Where it is the mean of one number per example, `per_example` gives those, (N,) float64, and
    tests of two models are sharper and quicker for it: see `mean_of`. Scores keep the metric's own
    direction when printed; recipes are handed `sign * score`, so that higher is better everywhere.
    """

    name: str
    score: Callable[[Predictions], float]
    higher_is_better: bool = True
    per_example: PerExample | None = None

    @property
    def sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    def __call__(self, predictions: Predictions) -> float:
        return float(self.score(predictions))


def mean_of(name: str, per_example: PerExample, higher_is_better: bool = True) -> Metric:
    """The metric that is the mean of one number per example."""
    return Metric(name, lambda p: float(np.mean(per_example(p))), higher_is_better, per_example)


# --- of the classes that are named --------------------------------------------------------


def _hits(predictions: Predictions, among: int = 1) -> npt.NDArray[np.float64]:
    """Whether the label is `among` so many largest logits; of equal ones, the first count."""
    logits, labels = predictions.logits, predictions.labels
    if among == 1:
        hits = logits.argmax(axis=1) == labels
    else:
        largest = np.argsort(-logits, axis=1, kind="stable")[:, :among]
        hits = (largest == labels[:, None]).any(axis=1)
    hits &= np.isfinite(logits).all(axis=1)  # argmax would take NaN for a class
    return np.asarray(hits, np.float64)


def _by_scikit_learn(name: str, predictions: Predictions, **options: Any) -> float:
    return float(_scikit_learn(name)(predictions.labels, predictions.logits.argmax(1), **options))


def _f1(predictions: Predictions) -> float:
    average = "binary" if predictions.logits.shape[1] == 2 else "macro"
    return _by_scikit_learn("f1_score", predictions, average=average, zero_division=0.0)


def _scikit_learn(name: str) -> Callable[..., float]:
    try:
        import sklearn.metrics
    except ImportError:
        raise MissingExtra("scikit-learn (for this metric)", "metrics") from None
    return getattr(sklearn.metrics, name)  # type: ignore[no-any-return]


accuracy = mean_of("accuracy", _hits)
top_5 = mean_of("top-5", partial(_hits, among=5))
f1 = Metric("f1", _f1)
matthews = Metric("matthews", partial(_by_scikit_learn, "matthews_corrcoef"))
accuracy_f1 = Metric("accuracy-f1", lambda p: (accuracy(p) + f1(p)) / 2)

# --- of probabilities ---------------------------------------------------------------------

ECE_BINS = 15
"""Equal-mass bins (paper, appendix on calibration, which does not say how many)."""


def log_probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The logarithm of the softmax of logits (N, C)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _negative_log_likelihood(predictions: Predictions) -> npt.NDArray[np.float64]:
    chosen = np.arange(len(predictions)), predictions.labels
    return np.asarray(-log_probabilities(predictions.logits)[chosen])


def _brier(predictions: Predictions) -> npt.NDArray[np.float64]:
    """The squared distance of the probabilities from the truth, summed over the classes: 0 to 2."""
    errors = np.exp(log_probabilities(predictions.logits))
    errors[np.arange(len(predictions)), predictions.labels] -= 1.0
    return np.asarray((errors**2).sum(axis=1))


def expected_calibration_error(predictions: Predictions, bins: int = ECE_BINS) -> float:
    """The mean distance between confidence and accuracy over bins of equally many examples.

    Examples go by confidence, the largest probability; equal ones by their order in the split. A
    bin counts by its examples, where their number is no multiple of `bins`.
    """
    confidence = np.exp(log_probabilities(predictions.logits)).max(axis=1)
    order = np.argsort(confidence, kind="stable")
    gaps = (confidence - _hits(predictions))[order]
    parts = np.array_split(gaps, min(bins, len(gaps)))
    return float(sum(abs(part.sum()) for part in parts) / len(gaps))


nll = mean_of("nll", _negative_log_likelihood, higher_is_better=False)
brier = mean_of("brier", _brier, higher_is_better=False)
ece = Metric("ece", expected_calibration_error, higher_is_better=False)

# --- of numbers: regression, labels (N,) float64 and logits (N, 1) ------------------------


def _errors(predictions: Predictions) -> npt.NDArray[np.float64]:
    return np.asarray(predictions.logits[:, 0].astype(np.float64) - predictions.labels)


def _r2(predictions: Predictions) -> float:
    return float(_scikit_learn("r2_score")(predictions.labels, predictions.logits[:, 0]))


def _correlation(name: str, predictions: Predictions) -> float:
    try:
        import scipy.stats
    except ImportError:
        raise MissingExtra("SciPy (for this metric)", "metrics") from None
    found = getattr(scipy.stats, name)(predictions.logits[:, 0], predictions.labels)
    return float(found.statistic)


mse = mean_of("mse", lambda p: _errors(p) ** 2, higher_is_better=False)
mae = mean_of("mae", lambda p: np.abs(_errors(p)), higher_is_better=False)
r2 = Metric("r2", _r2)
pearson = Metric("pearson", partial(_correlation, "pearsonr"))
spearman = Metric("spearman", partial(_correlation, "spearmanr"))

CLASSIFICATION = (accuracy, top_5, f1, matthews, accuracy_f1, nll, brier, ece)
REGRESSION = (mse, mae, r2, pearson, spearman)
METRICS = {metric.name: metric for metric in (*CLASSIFICATION, *REGRESSION)}
