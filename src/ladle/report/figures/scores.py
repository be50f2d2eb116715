"""One line per model: its score on one split, with the interval."""

from __future__ import annotations

import altair as alt

from ladle.report.figures.figure import Figure, Row, chart
from ladle.report.figures.marks import area_of, as_parts, keys_of, words_of
from ladle.report.figures.scales import (
    better_up,
    exact_format,
    holds,
    named,
    score_axis,
    span,
    tooltip,
)
from ladle.report.figures.style import colour
from ladle.report.figures.variation import Variation
from ladle.report.record import Metric
from ladle.report.table import Row as Model
from ladle.report.table import Table
from ladle.report.words import capitalised


def scores(table: Table, split: str, metric: Metric, variation: Variation) -> Figure | None:
    """The scores of all models on a split; None where there are none."""
    models = [row for row in table.rows if split in row.cells]
    if not models:
        return None
    values = [row.cells[split].value for row in models]
    keep = [row.cells[split].value for row in models if row.part in ("chosen", "best")]
    low, high = span(values, keep or values[:1])
    ends = [e for row in models for e in _ends(row, split) if low - (high - low) <= e]
    domain = (min([low, *ends]), max([high, *(e for e in ends if e <= high + (high - low))]))
    rows: list[Row] = [
        {
            "model": row.model,
            "part": words_of(row.part),
            "area": area_of(row.part),
            "score": row.cells[split].value,
            "low": row.cells[split].low,
            "high": row.cells[split].high,
            "outside": not holds(domain, row.cells[split].value),
            **variation.of(row.model),
        }
        for row in models
    ]
    parts = {row.part for row in models}
    scale = better_up(domain, metric)
    x = alt.X("score:Q", scale=scale, axis=score_axis(metric, named(metric, split), domain))
    y = alt.Y("model:N", sort=[row.model for row in models], axis=alt.Axis(title=None, grid=True))
    measured = any(row["low"] is not None for row in rows)
    whiskers = chart().transform_filter("isValid(datum.low)")
    rules = whiskers.mark_rule(color=colour("single"), strokeWidth=1.5, aria=False)
    points = chart().mark_point(opacity=1, strokeWidth=1.5)
    exact = exact_format(metric)
    shown = tooltip(("model", "model", ""), ("score", split, exact))
    if measured:
        shown += tooltip(("low", "from", exact), ("high", "to", exact))
    return Figure(
        name=f"scores-{split}",
        title=capitalised(named(metric, split)),
        alt=f"Dot plot of the {split} scores of {len(models)} models",
        rows=rows,
        columns={
            "model": "model",
            "part": "what it is",
            "score": split,
            "low": "low",
            "high": "high",
            **variation.headings,
        },
        chart=alt.layer(
            rules.encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y),
            points.encode(x=x, y=y, tooltip=[*shown, *variation.tooltips()], **as_parts(parts)),
        ),
        notes=["Whiskers are confidence intervals."] if measured else [],
        keys=keys_of(parts),
        height=24 * len(models) + 10,
    )


def _ends(row: Model, split: str) -> list[float]:
    cell = row.cells[split]
    return [end for end in (cell.low, cell.high) if end is not None]
