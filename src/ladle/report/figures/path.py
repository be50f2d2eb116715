"""The way between two models: loss and error along it."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from ladle.report.analyses import Landscape, Path
from ladle.report.figures.figure import Figure, Key, Row, chart
from ladle.report.figures.landscape_style import file_name, is_share
from ladle.report.figures.scales import ordinal, tooltip
from ladle.report.figures.style import STAR, colour
from ladle.report.record import Scalar
from ladle.report.words import capitalised

_LOOKS = {
    "train": ("base", [6, 3]),
    "held-out": ("single", [2, 3]),
    "test": ("best", [1, 0]),
    "mean-shift": ("soup", [1, 0]),
    "shift": ("other", [3, 2]),
}


def paths(landscape: Landscape) -> list[Figure]:
    """One figure for each path and quantity, with a line for each split."""
    return [
        figure
        for path in landscape.paths
        for quantity in dict.fromkeys(surface.quantity for surface in path.surfaces)
        if (figure := _path(landscape, path, quantity)) is not None
    ]


def _path(landscape: Landscape, path: Path, quantity: str) -> Figure | None:
    surfaces = [one for one in path.surfaces if one.quantity == quantity]
    if any(one.role == "mean-shift" for one in surfaces):
        surfaces = [one for one in surfaces if one.role != "shift"]
    rows: list[Row] = []
    for surface in surfaces:
        (values,), errors = surface.values, surface.errors[0] if surface.errors else ()
        for i, (t, value) in enumerate(zip(path.t, values, strict=True)):
            error = errors[i] if errors else None
            band: dict[str, Scalar] = {}
            if error is not None and value is not None:
                band = {"low": value - error, "high": value + error}
            rows.append({"t": t, "split": surface.split, "value": value, "error": error, **band})
    known = [row for row in rows if row["value"] is not None]
    if not known:
        return None
    percent = all(is_share(one) for one in surfaces)
    names = [one.split for one in surfaces]
    looks = [_LOOKS.get(one.role, _LOOKS["shift"]) for one in surfaces]
    colours = ordinal(names, [colour(name) for name, _ in looks])
    dashes = ordinal(names, [dash for _, dash in looks])
    first, last = path.t[0], path.t[-1]
    x = alt.X(
        "t:Q",
        scale=alt.Scale(domain=[first, last], nice=False),
        axis=alt.Axis(title=_ends(path), format=".2~f"),
    )
    axis = alt.Axis(title=quantity, format=".1~%" if percent else ".3~g")
    y = alt.Y("value:Q", scale=alt.Scale(zero=False), axis=axis)
    exact = ".2%" if percent else ".4g"
    base = chart().encode(x=x, y=y)
    stroke = alt.Stroke("split:N", title=None, scale=colours)
    fields = [("split", "split", ""), ("t", "way", ".3f"), ("value", quantity, exact)]
    banded = any("low" in row for row in known)
    layers: list[alt.Chart] = []
    if banded:
        fields.append(("error", "standard error", exact))
        valid = chart().transform_filter("isValid(datum.low)")
        area = valid.mark_area(opacity=0.14, aria=False)
        fill = alt.Fill("split:N", title=None, scale=colours, legend=None)
        low = alt.Y("low:Q", scale=alt.Scale(zero=False), axis=axis)
        layers.append(area.encode(x=x, y=low, y2="high:Q", fill=fill))
    layers += [
        base.mark_line(aria=False).encode(
            stroke=stroke, strokeDash=alt.StrokeDash("split:N", title=None, scale=dashes)
        ),
        base.mark_point(size=28, strokeWidth=1.25, fill=colour("paper"), opacity=1).encode(
            stroke=stroke, tooltip=tooltip(*fields)
        ),
    ]
    columns = {"t": "way", "split": "split", "value": quantity}
    soups = _soups(landscape, names, quantity)
    if soups:
        layers.append(
            chart("soups")
            .mark_point(shape=STAR, size=220, stroke=colour("paper"), strokeWidth=1.5, opacity=1)
            .encode(
                x=x,
                y=y,
                fill=alt.Fill("split:N", title=None, scale=colours, legend=None),
                tooltip=tooltip(
                    ("model", "model", ""),
                    ("split", "split", ""),
                    ("value", quantity, exact),
                    ("off", "distance from the way", ".3f"),
                ),
            )
        )
    return Figure(
        name=file_name(landscape, "path", *path.between, quantity),
        title=capitalised(f"{quantity} between {' and '.join(path.between)}"),
        alt=f"Line chart of the {quantity} on {', '.join(names)} along the path",
        rows=known,
        columns=columns | ({"error": "standard error"} if banded else {}),
        chart=alt.layer(*layers),
        notes=[
            *(["The bands are one standard error to each side."] if banded else []),
            *(["Stars are soups, at the nearest point of the way."] if soups else []),
        ],
        keys=[
            Key(name, look, dash=" ".join(map(str, dash)) if dash[1] else "")
            for name, (look, dash) in zip(names, looks, strict=True)
        ],
        height=280,
        small=True,
        beside={"soups": soups},
    )


def _soups(landscape: Landscape, splits: Sequence[str], quantity: str) -> list[Row]:
    """Soups that lie on the way or beside it, with their own values."""
    return [
        {"model": one.name, "split": split, "t": one.t, "off": one.off, "value": value}
        for one in landscape.landmarks
        for split in splits
        if one.role == "soup" and one.t is not None
        if (value := one.values.get((split, quantity))) is not None
    ]


def _ends(path: Path) -> str:
    if len(path.between) != 2:
        return "way from the first model to the second"
    return f"0 is {path.between[0]}, 1 is {path.between[1]}"
