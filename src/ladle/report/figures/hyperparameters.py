"""Each hyper-parameter that varies against the score on held-out data."""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Mapping, Sequence

import altair as alt

from ladle.report.figures.figure import Figure, Key, Row, chart
from ladle.report.figures.scales import (
    axis_with,
    better_up,
    exact_format,
    holds,
    log_ticks,
    ordinal,
    score_axis,
    span,
    tooltip,
)
from ladle.report.figures.style import CIRCLE, colour
from ladle.report.figures.variation import Variation
from ladle.report.record import Metric, Scalar

_LOG_FROM = 8
"""Values that span such a factor are drawn on a logarithmic axis, if most lie near its low end, as
those that are drawn evenly on a logarithmic scale do."""
_FEW = 6
"""As many different values stand side by side, as names do."""


def hyperparameters(
    scores: Mapping[str, float],
    marked: Collection[str],
    words: tuple[str, str],
    metric: Metric,
    variation: Variation,
) -> list[Figure]:
    """One figure for each; `words` are what the marked models are called, and what the others."""
    models = [name for name in variation.values if name in scores]
    if len(models) < 3:
        return []
    domain = span(list(scores.values()), [scores[name] for name in marked if name in scores])
    figures = []
    for i, name in enumerate(variation.names):
        rows: list[Row] = [
            {
                "model": model,
                "value": variation.values[model][name],
                "score": scores[model],
                "group": words[0] if model in marked else words[1],
                "outside": not holds(domain, scores[model]),
                **variation.of(model),
            }
            for model in models
            if variation.values[model].get(name) is not None
        ]
        if len(rows) < 3:
            continue
        figures.append(
            Figure(
                name=f"hyperparameter-{i}-{re.sub('[^a-zA-Z0-9]+', '-', name).strip('-')}",
                title=name,
                alt=f"Scatter plot of {len(rows)} models: held-out {metric.name} against {name}",
                rows=rows,
                columns={"model": "model", "value": name, "score": "held-out", "group": "group"},
                chart=_chart(rows, name, domain, words, metric, variation),
                keys=[
                    Key(words[0], "best", CIRCLE),
                    Key(words[1], "single", CIRCLE),
                ],
                height=190,
                small=True,
            )
        )
    return figures


def _chart(
    rows: Sequence[Row],
    name: str,
    domain: tuple[float, float],
    words: tuple[str, str],
    metric: Metric,
    variation: Variation,
) -> alt.Chart:
    colours = ordinal(words, [colour("best"), colour("single")])
    exact = exact_format(metric)
    points = chart().mark_point(opacity=1, size=80, stroke=colour("paper"), strokeWidth=1)
    encoded: alt.Chart = points.encode(
        x=_axis([row["value"] for row in rows], name),
        y=alt.Y(
            "score:Q",
            scale=better_up(domain, metric),
            axis=score_axis(metric, "held-out", domain),
        ),
        fill=alt.Fill("group:N", title=None, scale=colours),
        order=alt.Order("group:N", sort="descending"),
        tooltip=[
            *tooltip(("model", "model", ""), ("score", "held-out", exact), ("group", "is", "")),
            *variation.tooltips(),
        ],
    )
    return encoded


def _axis(values: Sequence[Scalar], name: str) -> alt.X:
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < len(values) or (len(set(values)) <= _FEW and _are_whole(numbers)):
        order = sorted(set(numbers)) if len(numbers) == len(values) else sorted(map(str, values))
        axis = alt.Axis(title=name, labelAngle=0, labelOverlap=True)
        return alt.X("value:O", sort=order, axis=axis, scale=alt.Scale(padding=0.5))
    low, high, middle = min(numbers), max(numbers), statistics.median(numbers)
    if low > 0 and high / low >= _LOG_FROM and middle - low < (high - low) / 4:
        ends = low / 1.2, high * 1.2
        scale = alt.Scale(type="log", domain=list(ends), nice=False)
        return alt.X("value:Q", scale=scale, axis=axis_with(log_ticks(*ends), name, "~g"))
    margin = 0.06 * (high - low) or 1.0
    scale = alt.Scale(domain=[low - margin, high + margin], nice=False, zero=False)
    return alt.X("value:Q", scale=scale, axis=alt.Axis(title=name, format=".3~g", tickCount=4))


def _are_whole(numbers: Sequence[float]) -> bool:
    return all(float(number).is_integer() for number in numbers)
