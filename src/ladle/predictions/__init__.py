"""Stored predictions and what can be computed from them, with numpy alone."""

from ladle.predictions.base import Array, Labels, Predictions
from ladle.predictions.metrics import METRICS, Metric, accuracy

__all__ = ["METRICS", "Array", "Labels", "Metric", "Predictions", "accuracy"]
