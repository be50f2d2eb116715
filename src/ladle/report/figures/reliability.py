"""Calibration: how often models are right against how sure they are."""

from __future__ import annotations

import altair as alt

from ladle.report.figures.figure import Figure, Key, Row, chart
from ladle.report.figures.scales import ordinal, tooltip
from ladle.report.figures.style import colour
from ladle.report.record import Record
from ladle.report.table import Part, Table

_MAIN: dict[Part, tuple[str, list[int]]] = {
    "base": ("base", [2, 3]),
    "best": ("best", [1, 0]),
    "uniform": ("soup", [4, 3]),
    "chosen": ("soup", [1, 0]),
    "ensemble": ("ensemble", [1, 0]),
}


def reliability(record: Record, table: Table) -> Figure | None:
    """Reliability curves of the main models on test; None where none is recorded."""
    test = next((column.name for column in table.role("test")), None)
    recorded = {
        line.model: line.reliability
        for line in record.evaluations
        if line.split == test and line.reliability is not None
    }
    shown = [row for row in table.rows if row.part in _MAIN and row.model in recorded]
    if test is None or not shown:
        return None
    rows: list[Row] = [
        {
            "model": row.model,
            "confidence": one.confidence,
            "accuracy": one.accuracy,
            "n": one.n,
            "ece": recorded[row.model].ece,
        }
        for row in shown
        for one in recorded[row.model].bins
    ]
    names = [row.model for row in shown]
    low = min(min(float(str(row[key])) for row in rows) for key in ("confidence", "accuracy"))
    low = max(0.0, low - 0.03)
    scale = alt.Scale(domain=[low, 1.0], nice=False)
    base = chart().encode(
        x=alt.X("confidence:Q", scale=scale, axis=alt.Axis(title="confidence", format=".0%")),
        y=alt.Y("accuracy:Q", scale=scale, axis=alt.Axis(title="accuracy", format=".0%")),
        stroke=alt.Stroke(
            "model:N",
            title=None,
            scale=ordinal(names, [colour(_MAIN[row.part][0]) for row in shown]),
        ),
    )
    dashes = ordinal(names, [_MAIN[row.part][1] for row in shown])
    diagonal = (
        chart("corners")
        .mark_line(color=colour("rule"), strokeWidth=1.5, aria=False)
        .encode(x=alt.X("at:Q", scale=scale), y=alt.Y("at:Q", scale=scale))
    )
    points = base.mark_point(size=30, strokeWidth=1.5, fill=colour("paper"), opacity=1)
    return Figure(
        name="calibration",
        title=f"Accuracy against confidence on {test}",
        alt=f"Reliability curves of {len(names)} models on {test}",
        rows=rows,
        columns={
            "model": "model",
            "confidence": "mean confidence",
            "accuracy": "accuracy",
            "n": "examples",
        },
        chart=alt.layer(
            diagonal,
            base.mark_line(aria=False).encode(
                strokeDash=alt.StrokeDash("model:N", title=None, scale=dashes)
            ),
            points.encode(
                tooltip=tooltip(
                    ("model", "model", ""),
                    ("confidence", "confidence", ".1%"),
                    ("accuracy", "accuracy", ".1%"),
                    ("n", "examples", "d"),
                    ("ece", "ECE", ".3f"),
                )
            ),
        ),
        notes=[
            "Each point is a bin of equally many examples. Below the diagonal a model is surer "
            "than it is right."
        ],
        keys=[
            Key(
                f"{row.model}, ECE {recorded[row.model].ece:.3f}",
                _MAIN[row.part][0],
                dash=" ".join(map(str, _MAIN[row.part][1])) if _MAIN[row.part][1][1] else "",
            )
            for row in shown
        ],
        ratio=0.62,
        beside={"corners": [{"at": low}, {"at": 1.0}]},
    )
