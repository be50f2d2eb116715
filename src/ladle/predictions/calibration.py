"""Calibration: one temperature for all logits, fitted on held-out data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ladle.errors import MissingExtra
from ladle.predictions.base import Predictions
from ladle.predictions.metrics import ECE_BINS, bins_of_sureness, nll

_LOWEST, _HIGHEST = math.log(1e-2), math.log(1e2)


@dataclass(frozen=True)
class Bin:
    """`n` examples of like confidence: its mean, and the share of them that are right."""

    confidence: float
    accuracy: float
    n: int


def reliability(predictions: Predictions, bins: int = ECE_BINS) -> list[Bin]:
    """The bins of `expected_calibration_error`, the least confident first.

    That error is the mean of |confidence - accuracy| over them, each counted by its examples.
    """
    return [
        Bin(float(part[:, 0].mean()), float(part[:, 1].mean()), len(part))
        for part in bins_of_sureness(predictions, bins)
    ]


def fit_temperature(predictions: Predictions) -> float:
    """The temperature, between 0.01 and 100, at which the likelihood of the labels is greatest.

    Fit it on held-out data: it is chosen by the labels (Guo et al., 2017).

    Raises:
        MissingExtra: without SciPy.
    """
    try:
        from scipy.optimize import minimize_scalar
    except ImportError:
        raise MissingExtra("SciPy (to fit a temperature)", "metrics") from None
    found = minimize_scalar(
        lambda log: nll(scaled(predictions, math.exp(log))),
        bounds=(_LOWEST, _HIGHEST),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(found.x)


def scaled(predictions: Predictions, temperature: float) -> Predictions:
    """The same with logits divided by a temperature: no other class is named, only more surely."""
    return replace(predictions, logits=np.asarray(predictions.logits / temperature, np.float32))
