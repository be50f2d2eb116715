"""Ranges, number formats and axes that suit scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from ladle.report.record import Metric, Scalar


def span(values: Sequence[float], keep: Sequence[float] = ()) -> tuple[float, float]:
    """The range to draw: all of `keep`, and of `values` what is not far from the bulk.

    One model that failed to train would otherwise press all others into one point.
    """
    low, high = np.percentile(values, [25, 75])
    reach = 3 * (high - low)
    inside = [*keep, *(v for v in values if low - reach <= v <= high + reach)]
    margin = 0.09 * (max(inside) - min(inside)) or 0.02 * abs(inside[0]) or 1.0
    return float(min(inside) - margin), float(max(inside) + margin)


def holds(domain: tuple[float, float], value: float) -> bool:
    """Whether a value lies within a range."""
    return domain[0] <= value <= domain[1]


def better_up(domain: tuple[float, float], metric: Metric) -> alt.Scale:
    """A scale whose better end is up, or to the right; what lies outside is put on its edge."""
    return alt.Scale(
        domain=list(domain),
        clamp=True,
        nice=False,
        zero=False,
        reverse=not metric.higher_is_better,
    )


def axis_format(metric: Metric, values: Sequence[float]) -> str:
    """Of ticks among these values, or between two ends: per cent where the metric is."""
    if not metric.percent:
        return ".4~g"
    # Ticks are about a tenth of the range apart, and no two may read the same.
    return ".2~%" if max(values) - min(values) < 0.01 else ".1~%"


def exact_format(metric: Metric) -> str:
    """Of a value that is pointed at."""
    return ".2%" if metric.percent else ".4g"


def score_axis(metric: Metric, title: str, values: Sequence[float]) -> alt.Axis:
    """An axis of scores, among these values or between two ends."""
    return alt.Axis(format=axis_format(metric, values), title=title)


def whole_axis(title: str, values: Sequence[float]) -> alt.Axis:
    """An axis of counts: ticks at whole numbers alone, at most about ten."""
    low, high = int(min(values)), int(max(values))
    every = 1 + (high - low) // 10
    return axis_with(range(low, high + 1, every), title, "d")


def axis_with(ticks: Sequence[float], title: str, form: str) -> alt.Axis:
    """An axis with these ticks, none of which is left out where others would be."""
    return alt.Axis(title=title, format=form, values=list(ticks), tickCount=len(ticks))


def log_ticks(low: float, high: float) -> list[float]:
    """Up to six round values on a logarithmic axis: 1, 2 and 5 times powers of ten, or the powers
    alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        shown = [tick for tick in ticks if low <= tick <= high]
        if len(shown) <= 6:
            break
    return shown[:: 1 + len(shown) // 7]


def as_number(value: Scalar) -> float:
    """A value of a row that is known to be a number."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def named(metric: Metric, split: str) -> str:
    """`test accuracy`, with its direction where that is unusual."""
    return f"{split} {metric.name}{'' if metric.higher_is_better else ' (lower is better)'}"


def tooltip(*fields: tuple[str, str, str]) -> list[Any]:
    """What is shown of the mark that is pointed at: field, heading, and format of numbers or ''."""
    return [
        alt.Tooltip(f"{name}:Q", title=title, format=shape)
        if shape
        else alt.Tooltip(f"{name}:N", title=title)
        for name, title, shape in fields
    ]


def ordinal(names: Sequence[str], values: Sequence[Any]) -> alt.Scale:
    """A scale from names to what stands for them."""
    return alt.Scale(domain=list(names), range=list(values))
