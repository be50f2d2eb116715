"""WiSE-FT: scores along the line from the base to a model."""

from __future__ import annotations

import re

import altair as alt

from ladle.report.figures.figure import Figure, Key, Row, chart
from ladle.report.figures.scales import (
    as_number,
    exact_format,
    ordinal,
    score_axis,
    tooltip,
)
from ladle.report.figures.style import colour
from ladle.report.record import Metric, Scalar
from ladle.report.table import Table

_LOOKS = {"held-out": ("single", [2, 3]), "test": ("best", [1, 0]), "shift": ("soup", [1, 0])}


def line_from_base(table: Table, metric: Metric) -> Figure | None:
    """The scores against α, from the base (0) to the model (1); None where no line was judged."""
    splits = [column for column in table.columns if column.role in ("held-out", "test")]
    rows: list[Row] = []
    roles: dict[str, str] = {}
    for model in (row for row in table.rows if row.part == "curve"):
        found = re.fullmatch(r"α = (-?[\d.]+(?:e-?\d+)?)", model.model)
        if found is None:
            continue
        values = {c.name: (c.role, model.cells[c.name]) for c in splits if c.name in model.cells}
        if model.mean is not None:
            values["mean shift"] = ("shift", model.mean)
        for name, (role, cell) in values.items():
            roles[name] = role
            row: dict[str, Scalar] = {
                "alpha": float(found.group(1)),
                "split": name,
                "score": cell.value,
            }
            rows.append({**row, "low": cell.low, "high": cell.high})
    if not rows:
        return None
    names = list(roles)
    colours = [colour(_LOOKS[roles[name]][0]) for name in names]
    base = chart().encode(
        x=alt.X("alpha:Q", axis=alt.Axis(title="α: 0 is the base, 1 the model", format=".1f")),
        y=alt.Y(
            "score:Q",
            scale=alt.Scale(zero=False, reverse=not metric.higher_is_better),
            axis=score_axis(metric, metric.name, [as_number(row["score"]) for row in rows]),
        ),
        stroke=alt.Stroke("split:N", title=None, scale=ordinal(names, colours)),
    )
    dashes = ordinal(names, [_LOOKS[roles[name]][1] for name in names])
    exact = exact_format(metric)
    points = base.mark_point(size=45, strokeWidth=1.5, fill=colour("paper"), opacity=1)
    return Figure(
        name="line-from-base",
        title="On the line from the base to the model",
        alt=f"Line chart of {metric.name} on {', '.join(names)} against α",
        rows=rows,
        columns={
            "alpha": "α",
            "split": "split",
            "score": metric.name,
            "low": "low",
            "high": "high",
        },
        chart=alt.layer(
            base.mark_line(aria=False).encode(
                strokeDash=alt.StrokeDash("split:N", title=None, scale=dashes)
            ),
            points.encode(
                tooltip=tooltip(
                    ("alpha", "α", ".2~f"), ("split", "split", ""), ("score", "", exact)
                )
            ),
        ),
        keys=[
            Key(name, _LOOKS[roles[name]][0], dash="2 3" if roles[name] == "held-out" else "")
            for name in names
        ],
        height=300,
    )
