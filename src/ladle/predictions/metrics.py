"""Metrics: numbers computed from predictions and labels, each with a direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ladle.predictions.base import Predictions


@dataclass(frozen=True)
class Metric:
    """A named score that is the mean of one number per example.

    `per_example` maps predictions to (N,) float64. Scores keep the metric's own direction when
    printed; recipes are handed `sign * score`, so that higher is better everywhere.
    """

    name: str
    per_example: Callable[[Predictions], npt.NDArray[np.float64]]
    higher_is_better: bool = True

    @property
    def sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    def __call__(self, predictions: Predictions) -> float:
        return float(np.mean(self.per_example(predictions)))


def _hits(predictions: Predictions) -> npt.NDArray[np.float64]:
    hits = predictions.logits.argmax(axis=1) == predictions.labels
    hits &= np.isfinite(predictions.logits).all(axis=1)  # argmax would take NaN for a class
    return np.asarray(hits, np.float64)


def _negative_log_likelihood(predictions: Predictions) -> npt.NDArray[np.float64]:
    logits = predictions.logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(logits).sum(axis=1))
    chosen = logits[np.arange(len(predictions)), predictions.labels]
    return np.asarray(log_total - chosen)


accuracy = Metric("accuracy", _hits)
nll = Metric("nll", _negative_log_likelihood, higher_is_better=False)

METRICS = {metric.name: metric for metric in (accuracy, nll)}
