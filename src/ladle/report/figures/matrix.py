"""Numbers of all pairs of models, in an order that shows basins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from ladle.report.analyses import Comparison, Matrix
from ladle.report.figures.comparison_style import file_name
from ladle.report.figures.figure import Figure, Row, chart
from ladle.report.figures.ramp import by_value
from ladle.report.figures.scales import as_number, tooltip
from ladle.report.figures.style import colour
from ladle.report.words import plain

_TITLES = {
    "angle": "Angle at the base, degrees",
    "barrier": "Barrier: how far the held-out loss rises on the way",
}


def matrices(comparison: Comparison) -> list[Figure]:
    """One figure for each matrix."""
    found = (_matrix(comparison, matrix) for matrix in comparison.matrices)
    return [figure for figure in found if figure is not None]


def _matrix(comparison: Comparison, matrix: Matrix) -> Figure | None:
    order = comparison.order or tuple(range(len(comparison.models)))
    names = [comparison.models[i] for i in order]
    rows: list[Row] = [
        {
            "model": comparison.models[i],
            "other": comparison.models[j],
            "value": value,
            "basin": _basins(comparison, i, j),
        }
        for i in order
        for j in order
        if i != j and (value := matrix.values[i][j]) is not None
    ]
    values = [as_number(row["value"]) for row in rows]
    if not values:
        return None
    axis: dict[str, Any] = {"title": None, "labelLimit": 90, "domain": False}
    cells = chart().mark_rect(stroke=colour("paper"), strokeWidth=1)
    title = _TITLES.get(matrix.name, matrix.name)
    # An angle stands out where it is small, a barrier where it is high enough to part two basins.
    is_angle = matrix.name == "angle"
    reach = values if is_angle or comparison.apart is None else [0.0, comparison.apart, *values]
    fill = by_value("value", reach, lowest_stands_out=is_angle)
    shown = [("model", "model", ""), ("other", "and", ""), ("value", matrix.name, ".3~g")]
    columns = {"model": "model", "other": "other model", "value": matrix.name}
    if comparison.clusters:
        shown.append(("basin", "basins", ""))
        columns["basin"] = "basins"
    return Figure(
        name=file_name(comparison, "matrix", matrix.name),
        title=title,
        alt=f"Heat map of the {matrix.name} of {len(rows) // 2} pairs of {len(names)} models",
        rows=rows,
        columns=columns,
        chart=cells.encode(
            x=alt.X("model:N", sort=names, axis=alt.Axis(labelAngle=-60, **axis)),
            y=alt.Y("other:N", sort=names, axis=alt.Axis(**axis)),
            fill=fill,
            tooltip=tooltip(*shown),
        ),
        notes=_notes(comparison, values) if matrix.name == "barrier" else [],
        ratio=1.0,
        small=True,
    )


def _notes(comparison: Comparison, values: Sequence[float]) -> list[str]:
    if comparison.apart is None:
        return []
    return [
        f"The highest is {plain(max(values))}; from about {plain(comparison.apart)} on two models "
        "lie in different basins."
    ]


def _basins(comparison: Comparison, i: int, j: int) -> str | None:
    if not comparison.clusters:
        return None
    one, other = sorted((comparison.clusters[i] + 1, comparison.clusters[j] + 1))
    return f"both in basin {one}" if one == other else f"basins {one} and {other}"
