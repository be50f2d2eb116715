"""Test against mean shift: the paper's first figure."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from ladle.report.figures.figure import Chart, Figure, Row, chart
from ladle.report.figures.marks import area_of, as_parts, keys_of, order_of, words_of
from ladle.report.figures.scales import (
    as_number,
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
from ladle.report.table import Part, Table
from ladle.report.words import capitalised, listed, score

Domain = tuple[float, float]


def robustness(table: Table, metric: Metric, variation: Variation) -> Figure | None:
    """Every model at (test, mean shift); None unless two have both.

    Better is up and to the right whatever the metric's direction; a model far outside is drawn
    hollow on the edge.
    """
    tests, shifts = table.role("test"), table.role("shift")
    if not tests or not shifts:
        return None
    test, shift = tests[0].name, shifts[0].name if len(shifts) == 1 else "mean shift"
    shown = sorted(
        (row for row in table.rows if test in row.cells and row.mean is not None),
        key=lambda row: order_of(row.part),
    )
    points = [(row, row.cells[test].value, row.mean.value) for row in shown if row.mean]
    if len(points) < 2:
        return None
    important = [(x, y) for row, x, y in points if row.part in ("chosen", "best")]
    across = span([x for _, x, _ in points], [x for x, _ in important])
    up = span([y for _, _, y in points], [y for _, y in important])
    rows: list[Row] = [
        {
            "model": row.model,
            "part": words_of(row.part),
            "area": area_of(row.part),
            "test": x,
            "shift": y,
            "number": i,
            "outside": not (holds(across, x) and holds(up, y)),
            **variation.of(row.model),
        }
        for i, (row, x, y) in enumerate(points)
    ]
    parts = {row.part for row, _, _ in points}
    return Figure(
        name="test-and-shift",
        title=capitalised(f"{named(metric, test)} against {named(metric, shift)}"),
        alt=f"Scatter plot of {len(points)} models: {shift} against {test} {metric.name}",
        rows=rows,
        columns={
            "model": "model",
            "part": "what it is",
            "test": test,
            "shift": shift,
            **variation.headings,
        },
        chart=_chart(metric, (test, shift), (across, up), variation, parts),
        notes=_notes(rows, metric, (test, shift)),
        keys=keys_of(parts),
        ratio=0.62,
    )


def _chart(
    metric: Metric,
    names: tuple[str, str],
    domains: tuple[Domain, Domain],
    variation: Variation,
    parts: set[Part],
) -> Chart:
    (test, shift), (across, up) = names, domains
    x = alt.X(
        "test:Q",
        scale=better_up(across, metric),
        axis=score_axis(metric, named(metric, test), across),
    )
    y = alt.Y(
        "shift:Q", scale=better_up(up, metric), axis=score_axis(metric, named(metric, shift), up)
    )
    best = chart().transform_filter(alt.datum.part == words_of("best"))
    guide = best.mark_rule(strokeDash=[2, 4], color=colour("best"), aria=False)
    curve = chart().transform_filter(alt.datum.part == words_of("curve"))
    layers = [
        guide.encode(x=x),
        guide.encode(y=y),
        curve.mark_line(color=colour("soup"), strokeWidth=1.25, aria=False).encode(
            x=x, y=y, order=alt.Order("number:Q")
        ),
    ]
    points = chart().mark_point(opacity=1, strokeWidth=1.5)
    shown = tooltip(
        ("model", "model", ""),
        ("part", "is", ""),
        ("test", test, exact_format(metric)),
        ("shift", shift, exact_format(metric)),
    )
    layers.append(
        points.encode(x=x, y=y, tooltip=[*shown, *variation.tooltips()], **as_parts(parts))
    )
    return alt.layer(*layers)


def _notes(rows: Sequence[Row], metric: Metric, names: tuple[str, str]) -> list[str]:
    notes = ["Better is up and to the right."]
    if any(row["part"] == words_of("best") for row in rows):
        notes.append("The dashed lines cross at the best single model.")
    outside = [
        f"{row['model']} ({score(as_number(row['test']), metric)} {names[0]}, "
        f"{score(as_number(row['shift']), metric)} {names[1]})"
        for row in rows
        if row["outside"]
    ]
    if outside:
        notes.append(f"Far from the others and drawn hollow on the edge: {listed(outside)}.")
    return notes
