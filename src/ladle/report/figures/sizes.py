"""Soups and ensembles of growing size: how good they are, and how well calibrated."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import altair as alt

from ladle.report.analyses import Calibration, Comparison
from ladle.report.figures.comparison_style import KINDS, file_name, shown_splits, the
from ladle.report.figures.figure import Figure, Key, Row, chart
from ladle.report.figures.scales import (
    as_number,
    exact_format,
    ordinal,
    score_axis,
    tooltip,
    whole_axis,
)
from ladle.report.figures.style import colour
from ladle.report.words import capitalised

_SCALED = "with a fitted temperature"
_PLAIN = "as it is"


def scores_by_size(comparison: Comparison) -> list[Figure]:
    """The score against the number of ingredients, for each split that is shown."""
    found = (_scores(comparison, split) for split in shown_splits(comparison))
    return [figure for figure in found if figure is not None]


def calibration_by_size(comparison: Comparison) -> list[Figure]:
    """The expected calibration error against the number of ingredients, for each split."""
    found = (_calibration(comparison, split) for split in shown_splits(comparison))
    return [figure for figure in found if figure is not None]


def _scores(comparison: Comparison, split: str) -> Figure | None:
    metric = comparison.metric
    rows: list[Row] = [
        {"kind": one.kind, "size": one.size, "mean": one.mean, "low": one.low, "high": one.high}
        for one in comparison.sizes
        if one.split == split and one.mean is not None and one.kind in KINDS
    ]
    if len({row["size"] for row in rows}) < 2:
        return None
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    colours = ordinal(kinds, [colour(KINDS[kind][0]) for kind in kinds])
    scale = alt.Scale(zero=False, reverse=not metric.higher_is_better)
    means = [as_number(row["mean"]) for row in rows]
    axis = score_axis(metric, f"{split} {metric.name}", means)
    x = _size_axis(rows)
    base = chart().encode(x=x, y=alt.Y("mean:Q", scale=scale, axis=axis))
    exact = exact_format(metric)
    stroke = alt.Stroke("kind:N", title=None, scale=colours)
    band = chart().mark_area(opacity=0.14, aria=False)
    layers = [
        band.encode(
            x=x,
            y=alt.Y("low:Q", scale=scale, axis=axis),
            y2="high:Q",
            fill=alt.Fill("kind:N", title=None, scale=colours, legend=None),
        ),
        base.mark_line(aria=False).encode(stroke=stroke),
        base.mark_point(size=45, strokeWidth=1.5, fill=colour("paper"), opacity=1).encode(
            stroke=stroke,
            tooltip=tooltip(
                ("kind", "kind", ""),
                ("size", "models", "d"),
                ("mean", "mean", exact),
                ("low", "lowest", exact),
                ("high", "highest", exact),
            ),
        ),
    ]
    return Figure(
        name=file_name(comparison, "score-by-size", split),
        title=capitalised(f"{split} {metric.name} by the number of models"),
        alt=f"Line chart of the {split} {metric.name} of soups and ensembles by their size",
        rows=rows,
        columns={
            "kind": "kind",
            "size": "models",
            "mean": "mean",
            "low": "lowest",
            "high": "highest",
        },
        chart=alt.layer(*layers),
        notes=["Lines are means over random orders, bands from the lowest to the highest."],
        keys=[Key(kind, KINDS[kind][0]) for kind in kinds],
        height=280,
        small=True,
    )


def _calibration(comparison: Comparison, split: str) -> Figure | None:
    groups: dict[tuple[str, int], list[Calibration]] = {}
    for one in comparison.calibration:
        if one.split == split:
            # A single model is a soup, and an ensemble, of one.
            for kind in ("soup", "ensemble") if one.kind == "single" else (one.kind,):
                groups.setdefault((kind, one.size), []).append(one)
    rows: list[Row] = []
    for (kind, size), ones in sorted(groups.items()):
        for way, values in (
            (_PLAIN, [one.ece for one in ones]),
            (_SCALED, [one.scaled for one in ones]),
        ):
            known = [value for value in values if value is not None]
            if known:
                rows.append(_row(kind, way, size, known))
    if len({row["size"] for row in rows}) < 2:
        return None
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    base = chart().encode(
        x=_size_axis(rows),
        y=alt.Y("ece:Q", axis=alt.Axis(title=f"{split} calibration error", format=".2~g")),
        stroke=alt.Stroke(
            "kind:N", title=None, scale=ordinal(kinds, [colour(KINDS[kind][0]) for kind in kinds])
        ),
    )
    dashes = alt.StrokeDash("way:N", title=None, scale=ordinal([_PLAIN, _SCALED], [[1, 0], [4, 3]]))
    points = base.mark_point(size=40, strokeWidth=1.5, fill=colour("paper"), opacity=1)
    shown = [("kind", "kind", ""), ("way", "calibration", ""), ("size", "models", "d")]
    return Figure(
        name=file_name(comparison, "calibration-by-size", split),
        title=f"Calibration error on {the(split)}",
        alt=f"Line chart of the expected calibration error on {the(split)} by size",
        rows=rows,
        columns={
            "kind": "kind",
            "way": "calibration",
            "size": "models",
            "ece": "mean ECE",
            "count": "of how many",
        },
        chart=alt.layer(
            base.mark_line(aria=False).encode(strokeDash=dashes, detail="way:N"),
            points.encode(detail="way:N", tooltip=tooltip(*shown, ("ece", "mean ECE", ".4f"))),
        ),
        keys=[
            *(Key(f"{kind}, {_PLAIN}", KINDS[kind][0]) for kind in kinds),
            *(Key(f"{kind}, {_SCALED}", KINDS[kind][0], dash="4 3") for kind in kinds),
        ],
        height=280,
        small=True,
    )


def _row(kind: str, way: str, size: int, values: Sequence[float]) -> Row:
    mean = statistics.fmean(values)
    return {"kind": kind, "way": way, "size": size, "ece": mean, "count": len(values)}


def _size_axis(rows: Sequence[Row]) -> alt.X:
    sizes = [as_number(row["size"]) for row in rows]
    return alt.X("size:Q", axis=whole_axis("number of models", sizes))
