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
class InTwoSteps:
    """A metric as what it takes from each example, and the score of that.

    `rows` is (N, K), row i of example i alone; `score` is of any such rows, in any order, and the
    number of classes C. Resampling repeats the second step only, which may be a thousand times
    cheaper than looking at all logits again.
    """

    rows: Callable[[Predictions], npt.NDArray[Any]]
    score: Callable[[npt.NDArray[Any], int], float]

    def __call__(self, predictions: Predictions) -> float:
        return self.score(self.rows(predictions), predictions.logits.shape[1])


@dataclass(frozen=True)
class Metric:
    """A named score of predictions, any function of them and their labels.

    Where it is the mean of one number per example, `per_example` gives those, (N,) float64, and
    tests of two models are sharper and quicker for it: see `mean_of`. A `score` that is an
    `InTwoSteps` is tested quicker too. Scores keep the metric's own direction when printed; recipes
    are handed `sign * score`, so that higher is better everywhere.

    `ideal` is the best that `per_example` can say of any example: 1 for a hit, 0 for an error. It
    bounds what a model can still reach while some of its examples are unseen, so that hopeless
    candidates are dropped early. None where there is no bound, or nobody gave one.
    """

    name: str
    score: Callable[[Predictions], float]
    higher_is_better: bool = True
    per_example: PerExample | None = None
    ideal: float | None = None

    @property
    def sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    def __call__(self, predictions: Predictions) -> float:
        return float(self.score(predictions))


def mean_of(
    name: str,
    per_example: PerExample,
    higher_is_better: bool = True,
    *,
    ideal: float | None = None,
) -> Metric:
    """The metric that is the mean of one number per example, `ideal` at best."""
    return Metric(
        name, lambda p: float(np.mean(per_example(p))), higher_is_better, per_example, ideal
    )


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


def _cells(predictions: Predictions) -> npt.NDArray[np.int64]:
    """(N, 1) the cell of each example in the confusion matrix: label x (C + 1) + class named.

    Logits that are not finite name no class: the last column.
    """
    classes = predictions.logits.shape[1]
    named = predictions.logits.argmax(axis=1)
    named[~np.isfinite(predictions.logits).all(axis=1)] = classes
    cells = predictions.labels * (classes + 1) + named
    return np.asarray(cells, np.int64)[:, None]


def _confusion(cells: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    """(C, C + 1) how many examples of each class were given each name, or none."""
    size = classes * (classes + 1)
    return np.bincount(cells[:, 0], minlength=size).reshape(classes, classes + 1)


def _f1_in(counts: npt.NDArray[np.int64]) -> float:
    """Of class 1, where there are two; else the mean over the classes that are there or named.

    In closed form, not by scikit-learn: a paired test takes five thousand of them.
    """
    right = counts.diagonal()
    either = counts.sum(axis=1) + counts.sum(axis=0)[:-1]
    scores = 2 * right / np.maximum(either, 1)
    return float(scores[1] if len(counts) == 2 else scores[either > 0].mean())


def _f1_of(cells: npt.NDArray[np.int64], classes: int) -> float:
    return _f1_in(_confusion(cells, classes))


def _matthews_of(cells: npt.NDArray[np.int64], classes: int) -> float:
    """The correlation of classes and names, for any number of them (Gorodkin, 2004)."""
    counts = _confusion(cells, classes).astype(np.float64)
    true, named, n = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    spread = (n**2 - true @ true) * (n**2 - named @ named)
    if spread == 0:
        return 0.0
    return float((n * counts.trace() - true @ named[:classes]) / np.sqrt(spread))


def _accuracy_f1_of(cells: npt.NDArray[np.int64], classes: int) -> float:
    counts = _confusion(cells, classes)
    return float(counts.trace() / len(cells) + _f1_in(counts)) / 2


accuracy = mean_of("accuracy", _hits, ideal=1.0)
top_5 = mean_of("top-5", partial(_hits, among=5), ideal=1.0)
f1 = Metric("f1", InTwoSteps(_cells, _f1_of))
matthews = Metric("matthews", InTwoSteps(_cells, _matthews_of))
accuracy_f1 = Metric("accuracy-f1", InTwoSteps(_cells, _accuracy_f1_of))

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


def _sureness(predictions: Predictions) -> npt.NDArray[np.float64]:
    """(N, 2) confidence, the largest probability, and whether it lies on the label."""
    confidence = np.exp(log_probabilities(predictions.logits)).max(axis=1)
    return np.stack([confidence, _hits(predictions)], axis=1)


def _in_bins(rows: npt.NDArray[np.float64], bins: int) -> list[npt.NDArray[np.float64]]:
    order = np.argsort(rows[:, 0], kind="stable")
    return np.array_split(rows[order], min(bins, len(rows)))


def bins_of_sureness(predictions: Predictions, bins: int) -> list[npt.NDArray[np.float64]]:
    """Confidence and whether it is right, (n, 2), in bins of equally many examples."""
    return _in_bins(_sureness(predictions), bins)


def _ece_of(rows: npt.NDArray[np.float64], classes: int, bins: int = ECE_BINS) -> float:
    parts = _in_bins(rows, bins)
    return float(sum(abs((part[:, 0] - part[:, 1]).sum()) for part in parts) / len(rows))


def expected_calibration_error(predictions: Predictions, bins: int = ECE_BINS) -> float:
    """The mean distance between confidence and accuracy over bins of equally many examples.

    Examples go by confidence; equal ones by their order in the split. A bin counts by its
    examples, where their number is no multiple of `bins`.
    """
    return _ece_of(_sureness(predictions), predictions.logits.shape[1], bins)


nll = mean_of("nll", _negative_log_likelihood, higher_is_better=False, ideal=0.0)
brier = mean_of("brier", _brier, higher_is_better=False, ideal=0.0)
ece = Metric("ece", InTwoSteps(_sureness, _ece_of), higher_is_better=False)

# --- of numbers: regression, labels (N,) float64 and logits (N, 1) ------------------------


def _errors(predictions: Predictions) -> npt.NDArray[np.float64]:
    return np.asarray(predictions.logits[:, 0].astype(np.float64) - predictions.labels)


def _pairs(predictions: Predictions) -> npt.NDArray[np.float64]:
    """(N, 2) the label of each example and what was said."""
    said = predictions.logits[:, 0].astype(np.float64)
    return np.stack([predictions.labels.astype(np.float64), said], axis=1)


def _r2_of(pairs: npt.NDArray[np.float64], classes: int) -> float:
    if len(pairs) < 2:
        return float("nan")
    try:
        from sklearn.metrics import r2_score
    except ImportError:
        raise MissingExtra("scikit-learn (for the metric r2)", "metrics") from None
    return float(r2_score(pairs[:, 0], pairs[:, 1]))


def _correlation_of(pairs: npt.NDArray[np.float64], classes: int, *, name: str) -> float:
    if (pairs == pairs[0]).all(axis=0).any():
        return float("nan")  # What does not vary correlates with nothing.
    try:
        import scipy.stats
    except ImportError:
        raise MissingExtra("SciPy (for a correlation)", "metrics") from None
    return float(getattr(scipy.stats, name)(pairs[:, 0], pairs[:, 1]).statistic)


mse = mean_of("mse", lambda p: _errors(p) ** 2, higher_is_better=False, ideal=0.0)
mae = mean_of("mae", lambda p: np.abs(_errors(p)), higher_is_better=False, ideal=0.0)
r2 = Metric("r2", InTwoSteps(_pairs, _r2_of))
pearson = Metric("pearson", InTwoSteps(_pairs, partial(_correlation_of, name="pearsonr")))
spearman = Metric("spearman", InTwoSteps(_pairs, partial(_correlation_of, name="spearmanr")))

CLASSIFICATION = (accuracy, top_5, f1, matthews, accuracy_f1, nll, brier, ece)
REGRESSION = (mse, mae, r2, pearson, spearman)
METRICS = {metric.name: metric for metric in (*CLASSIFICATION, *REGRESSION)}
