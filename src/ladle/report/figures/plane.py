"""The plane through three models: a heat map with contours for each quantity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import altair as alt
import numpy as np
import numpy.typing as npt
from contourpy import ContourGenerator, FillType, contour_generator

from ladle.report.analyses import Landscape, Surface
from ladle.report.figures.figure import Figure, Row, chart
from ladle.report.figures.landscape_style import ROLES, file_name, is_share, shown_name
from ladle.report.figures.ramp import steps, strip
from ladle.report.figures.scales import ordinal, tooltip
from ladle.report.figures.style import RAMP, colour
from ladle.report.words import capitalised


def planes(landscape: Landscape) -> list[Figure]:
    """What the paper shows: training loss, and the score on test and on the mean of the shifts;
    all that there is where these are not there."""
    shown = [one for one in landscape.surfaces if _is_main(one, landscape)]
    found = (_plane(landscape, surface) for surface in shown or landscape.surfaces)
    return [figure for figure in found if figure is not None]


def _is_main(surface: Surface, landscape: Landscape) -> bool:
    if surface.role == "train":
        return surface.quantity == "loss"
    roles = {one.role for one in landscape.surfaces}
    quantities = {one.quantity for one in landscape.surfaces if one.role == surface.role}
    score = surface.quantity != "loss" or quantities == {"loss"}
    return score and surface.role in ("test", "mean-shift" if "mean-shift" in roles else "shift")


def levels_of(values: Sequence[float]) -> list[float]:
    """Levels for contours, dense near the lowest value: those of a round bowl are evenly spaced.

    They end at the 95th percentile, for far out a loss may be as high as it likes.
    """
    low, high = min(values), float(np.percentile(values, 95))
    high = high if high > low else max(values)
    if high == low:
        return [low + i * 1e-6 for i in range(1, RAMP)]
    return [low + (high - low) * (i / (RAMP - 1)) ** 2 for i in range(1, RAMP)]


def regions(landscape: Landscape, surface: Surface, levels: Sequence[float]) -> list[Row]:
    """Outlines of the regions between levels, by their middle value.

    All outlines of a region are one path, with a gap between them; those of holes run the other
    way round, so that they stay empty.
    """
    found = _generator(landscape, surface)
    ends = [-np.inf, *levels, np.inf]
    rows: list[Row] = []
    for region, (low, high) in enumerate(pairwise(ends)):
        # Thresholds belong to the region above them.
        inside = low if region else levels[0] - 1.0
        for outline in _outlines(found, low, high):
            points = [*outline.tolist(), (None, None)]
            start = len(rows)
            rows += [
                {"a": a, "b": b, "region": region, "inside": inside, "at": start + i}
                for i, (a, b) in enumerate(points)
            ]
    return rows


def _outlines(found: ContourGenerator, low: float, high: float) -> list[npt.NDArray[np.float64]]:
    """(N, 2) points of each outline of a region."""
    outlines: list[npt.NDArray[np.float64]] = []
    for points, offsets in zip(*found.filled(low, high), strict=True):
        if points is not None and offsets is not None:
            outlines += np.split(np.asarray(points), np.asarray(offsets)[1:-1])
    return outlines


def contours(landscape: Landscape, surface: Surface, levels: Sequence[float]) -> list[Row]:
    """Points of the lines of equal value, each line with a number of its own."""
    found = _generator(landscape, surface)
    return [
        {"a": float(a), "b": float(b), "line": f"{i}-{j}", "at": at}
        for i, level in enumerate(levels)
        for j, line in enumerate(found.lines(level))
        for at, (a, b) in enumerate(np.asarray(line))
    ]


def _generator(landscape: Landscape, surface: Surface) -> ContourGenerator:
    grid = np.array([[np.nan if v is None else v for v in row] for row in surface.values])
    masked = np.ma.masked_invalid(grid)
    return contour_generator(
        landscape.a, landscape.b, masked, fill_type=FillType.ChunkCombinedOffset
    )


def _plane(landscape: Landscape, surface: Surface) -> Figure | None:
    values = [value for row in surface.values for value in row if value is not None]
    if not values or len(landscape.a) < 2 or len(landscape.b) < 2:
        return None
    title, share = shown_name(surface), is_share(surface)
    columns = {"a": "a", "b": "b", "value": title, "error": "standard error"}
    a_edges, b_edges = _edges(landscape.a), _edges(landscape.b)
    rows: list[Row] = [
        {
            "a": a,
            "b": b,
            "value": value,
            "error": surface.errors[j][i] if surface.errors else None,
            "left": a_edges[i],
            "right": a_edges[i + 1],
            "bottom": b_edges[j],
            "top": b_edges[j + 1],
        }
        for j, b in enumerate(landscape.b)
        for i, a in enumerate(landscape.a)
        for value in (surface.values[j][i],)
        if value is not None
    ]
    levels = levels_of(values)
    scale, legend = steps(levels), strip(".1~%" if share else ".3~g")
    exact = ".2%" if share else ".4g"
    shown = tooltip(("value", title, exact), ("a", "a", ".3f"), ("b", "b", ".3f"))
    if surface.errors:
        shown += tooltip(("error", "standard error", exact))

    x, y = _across("a", landscape.a), _up("b", landscape.b)
    areas = chart("regions").mark_line(
        # A thin line of the same colour, or there would be gaps between regions.
        strokeWidth=0.7,
        aria=False,
        invalid="break-paths-show-domains",
    )
    lines = chart("contours").mark_line(
        color=colour("ink"), opacity=0.4, strokeWidth=0.7, aria=False
    )
    cells = chart().mark_rect(opacity=0)
    layers = [
        areas.encode(
            x=x,
            y=y,
            detail="region:N",
            order="at:Q",
            fill=alt.Fill("inside:Q", scale=scale, legend=legend),
            stroke=alt.Stroke("inside:Q", scale=scale, legend=None),
        ),
        lines.encode(x=x, y=y, detail="line:N", order="at:Q"),
        cells.encode(
            x=_across("left", landscape.a),
            x2="right",
            y=_up("bottom", landscape.b),
            y2="top",
            tooltip=shown,
        ),
        *_marks(landscape),
    ]
    about = f" ({landscape.samples:,} examples)" if landscape.samples else ""
    return Figure(
        name=file_name(landscape, "plane", surface.split, surface.quantity),
        title=capitalised(f"{title}{about}"),
        alt=f"Contour map of the {title} in the plane through "
        f"{', '.join(one.name for one in landscape.landmarks)}",
        rows=rows,
        columns=columns if surface.errors else {k: v for k, v in columns.items() if k != "error"},
        chart=alt.layer(*layers),
        ratio=(b_edges[-1] - b_edges[0]) / (a_edges[-1] - a_edges[0]),
        small=True,
        beside={
            "regions": regions(landscape, surface, levels),
            "contours": contours(landscape, surface, levels),
            "landmarks": landmarks(landscape),
        },
    )


def _across(field: str, points: Sequence[float]) -> alt.X:
    scale = alt.Scale(domain=[points[0], points[-1]], nice=False, zero=False)
    axis = alt.Axis(title="a, weight distance", grid=False, format=".3~g")
    return alt.X(f"{field}:Q", scale=scale, axis=axis)


def _up(field: str, points: Sequence[float]) -> alt.Y:
    scale = alt.Scale(domain=[points[0], points[-1]], nice=False, zero=False)
    axis = alt.Axis(title="b, weight distance", grid=False, format=".3~g", domain=True)
    return alt.Y(f"{field}:Q", scale=scale, axis=axis)


def landmarks(landscape: Landscape) -> list[Row]:
    """The models; names lie on the side that is towards the middle of the picture."""
    middle = (landscape.a[0] + landscape.a[-1]) / 2
    return [
        {
            "model": one.name,
            "role": one.role,
            "area": ROLES[one.role][2],
            "a": one.a,
            "b": one.b,
            "off": one.off,
            "side": "left" if one.a > middle else "right",
        }
        for one in landscape.landmarks
        if one.a is not None and one.b is not None and one.role in ROLES
    ]


def _marks(landscape: Landscape) -> list[alt.Chart]:
    roles = [role for role in ROLES if any(one.role == role for one in landscape.landmarks)]
    x, y = _across("a", landscape.a), _up("b", landscape.b)

    def by_role(channel: Any, values: list[str]) -> Any:
        return channel("role:N", legend=None, scale=ordinal(roles, values))

    points = chart("landmarks").mark_point(opacity=1, stroke=colour("paper"), strokeWidth=1.5)
    marks = points.encode(
        x=x,
        y=y,
        fill=by_role(alt.Fill, [colour(ROLES[role][0]) for role in roles]),
        shape=by_role(alt.Shape, [ROLES[role][1] for role in roles]),
        size=alt.Size("area:Q", scale=None, legend=None),
        tooltip=tooltip(
            ("model", "model", ""),
            ("role", "is", ""),
            ("a", "a", ".3f"),
            ("b", "b", ".3f"),
            ("off", "distance from the plane", ".3f"),
        ),
    )
    return [marks, *_names("left", x, y), *_names("right", x, y)]


def _names(side: Literal["left", "right"], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Drawn twice: the first is a rim that keeps a name readable on any colour."""
    here = chart("landmarks").transform_filter(alt.datum.side == side)
    look: dict[str, Any] = {
        "align": "right" if side == "left" else "left",
        "dx": -10 if side == "left" else 10,
        "dy": -9,
        "fontWeight": 600,
        "aria": False,
    }
    rim = here.mark_text(stroke=colour("paper"), strokeWidth=3, **look)
    return [one.encode(x=x, y=y, text="model:N") for one in (rim, here.mark_text(**look))]


def _edges(points: Sequence[float]) -> list[float]:
    """Edges of cells around the points of an axis, which end with it."""
    between = [(low + high) / 2 for low, high in pairwise(points)]
    return [points[0], *between, points[-1]]
