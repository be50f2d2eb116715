"""Calibration: one temperature for all logits, fitted on held-out data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ladle.errors import MissingExtra
from ladle.predictions.base import Predictions
from ladle.predictions.metrics import nll

_LOWEST, _HIGHEST = math.log(1e-2), math.log(1e2)


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
