"""Stored predictions and what can be computed from them, without torch."""

from ladle.predictions.base import Array, Labels, Predictions
from ladle.predictions.ensemble import ensemble
from ladle.predictions.metrics import METRICS, Metric, accuracy
from ladle.predictions.uncertainty import Comparison, Interval, compare, interval, mcnemar

__all__ = [
    "METRICS",
    "Array",
    "Comparison",
    "Interval",
    "Labels",
    "Metric",
    "Predictions",
    "accuracy",
    "compare",
    "ensemble",
    "interval",
    "mcnemar",
]
