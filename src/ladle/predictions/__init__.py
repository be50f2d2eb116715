"""Stored predictions and what can be computed from them, without torch."""

from ladle.predictions.base import Array, ExampleNumbers, Labels, Predictions
from ladle.predictions.calibration import Bin, fit_temperature, reliability, scaled
from ladle.predictions.ensemble import (
    EnsembleScores,
    ensemble,
    greedy_ensemble,
    nested_ensembles,
)
from ladle.predictions.metrics import METRICS, InTwoSteps, Metric, accuracy, mean_of
from ladle.predictions.resampling import compare_by, interval_by
from ladle.predictions.subset import ClassSubset
from ladle.predictions.uncertainty import Comparison, Interval, compare, interval, mcnemar

__all__ = [
    "METRICS",
    "Array",
    "Bin",
    "ClassSubset",
    "Comparison",
    "EnsembleScores",
    "ExampleNumbers",
    "InTwoSteps",
    "Interval",
    "Labels",
    "Metric",
    "Predictions",
    "accuracy",
    "compare",
    "compare_by",
    "ensemble",
    "fit_temperature",
    "greedy_ensemble",
    "interval",
    "interval_by",
    "mcnemar",
    "mean_of",
    "nested_ensembles",
    "reliability",
    "scaled",
]
