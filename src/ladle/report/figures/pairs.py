"""Pairs of models: soup and ensemble, the formula and the truth, angle and advantage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ladle.report.analyses import Agreement, Agreements, Comparison, OnSplit, Pair
from ladle.report.figures.comparison_style import file_name, shown_splits, the
from ladle.report.figures.figure import Chart, Figure, Key, Row, chart
from ladle.report.figures.scales import as_number, axis_format, exact_format, ordinal, tooltip
from ladle.report.figures.style import CIRCLE, colour

Take = Callable[[Pair, OnSplit], float | None]


@dataclass(frozen=True)
class _Side:
    """One of two numbers of a pair: its axis, how to take it, and formats of ticks and values."""

    title: str
    take: Take
    ticks: str
    exact: str


def soup_against_ensemble(comparison: Comparison) -> Figure | None:
    """Each pair's soup against its ensemble, on test and on the shifts."""
    metric = comparison.metric
    known = [one.soup for pair in comparison.pairs for one in pair.splits.values()]
    scores = [score for score in known if score is not None] or [0.0]
    formats = axis_format(metric, scores), exact_format(metric)
    return _scatter(
        comparison,
        "soup-against-ensemble",
        "Soup against ensemble",
        _Side(f"ensemble {metric.name}", lambda pair, one: one.ensemble, *formats),
        _Side(f"soup {metric.name}", lambda pair, one: one.soup, *formats),
        lambda found: found.soups,
        note="On the diagonal, averaging weights is as good as averaging what both models say, at "
        "half the cost.",
        reference="diagonal",
    )


def formula_against_truth(comparison: Comparison) -> Figure | None:
    """What the analytical approximation says of the difference of losses, against that."""
    return _scatter(
        comparison,
        "formula-against-difference",
        "The formula against the true difference",
        _Side("by the formula", lambda pair, one: one.approximation, ".2~g", ".3~g"),
        _Side("loss of soup − ensemble", lambda pair, one: one.difference, ".2~g", ".3~g"),
        lambda found: found.formula,
        note="Below 0 the soup is the better one. On the diagonal the formula is exact.",
        reference="diagonal and zero",
        signs=True,
    )


def angle_against_advantage(comparison: Comparison) -> Figure | None:
    """How much better the middle of two models is than their mean, against their angle."""
    percent = comparison.metric.percent
    formats = (".2~%", ".3%") if percent else (".2~g", ".3~g")
    return _scatter(
        comparison,
        "angle-against-advantage",
        "Angle against advantage",
        _Side("angle at the base, degrees", lambda pair, one: pair.angle, ".3~g", ".1f"),
        _Side("advantage of the soup", lambda pair, one: one.advantage, *formats),
        lambda found: found.angles,
        note="The advantage is the soup's score less the mean of the scores of its two models.",
        reference="zero",
    )


def _scatter(
    comparison: Comparison,
    name: str,
    title: str,
    x: _Side,
    y: _Side,
    agreement: Callable[[Agreements], Agreement],
    *,
    note: str,
    reference: str,
    signs: bool = False,
) -> Figure | None:
    splits = shown_splits(comparison)
    rows: list[Row] = [
        {
            "pair": " + ".join(pair.names),
            "split": split,
            "x": x.take(pair, one),
            "y": y.take(pair, one),
            "angle": pair.angle,
        }
        for pair in comparison.pairs
        for split in splits
        if (one := pair.splits.get(split)) is not None
        and x.take(pair, one) is not None
        and y.take(pair, one) is not None
    ]
    if not rows:
        return None
    values = {side: [as_number(row[side]) for row in rows] for side in ("x", "y")}
    domains = {side: _domain(values[side]) for side in ("x", "y")}
    if "diagonal" in reference:
        domains = dict.fromkeys(("x", "y"), _domain(values["x"] + values["y"]))
    low, high = domains["x"]
    found = {
        split: agreement(comparison.agreements[split])
        for split in splits
        if split in comparison.agreements
    }
    return Figure(
        name=file_name(comparison, name),
        title=title,
        alt=f"Scatter plot of {len(rows)} points: {y.title} against {x.title}",
        rows=rows,
        columns={"pair": "pair", "split": "split", "x": x.title, "y": y.title, "angle": "angle"},
        chart=_chart(domains, splits, x, y, reference),
        notes=[note, *_told(found, signs=signs)],
        keys=[Key(split, name, CIRCLE) for split, name in splits.items()],
        height=300,
        small=True,
        beside={
            "origin": [{"x": 0.0, "y": 0.0}],
            "diagonal": [{"x": low, "y": low}, {"x": high, "y": high}],
        },
    )


def _told(found: dict[str, Agreement], *, signs: bool) -> list[str]:
    notes = []
    for split, one in found.items():
        parts = [] if one.pearson is None else [f"correlation {one.pearson:.2f}"]
        if signs and one.pairs:
            parts.append(f"the same sign in {one.same_sign} of {one.pairs} pairs")
        if parts:
            notes.append(f"On {the(split)}: {', '.join(parts)}.")
    return notes


def _chart(
    domains: dict[str, list[float]], splits: dict[str, str], x: _Side, y: _Side, reference: str
) -> Chart:
    scales = {
        side: alt.Scale(domain=domain, nice=False, zero=False) for side, domain in domains.items()
    }
    across = alt.X("x:Q", scale=scales["x"], axis=alt.Axis(title=x.title, format=x.ticks))
    up = alt.Y("y:Q", scale=scales["y"], axis=alt.Axis(title=y.title, format=y.ticks))
    layers: list[alt.Chart] = []
    quiet: dict[str, Any] = {"color": colour("rule"), "strokeWidth": 1.5, "aria": False}
    if "zero" in reference:
        zero = chart("origin").mark_rule(clip=True, **quiet)
        layers.append(zero.encode(y=up))
        if "diagonal" in reference:
            layers.append(zero.encode(x=across))
    if "diagonal" in reference:
        layers.append(chart("diagonal").mark_line(**quiet).encode(x=across, y=up))
    colours = ordinal(list(splits), [colour(name) for name in splits.values()])
    points = chart().mark_point(size=60, opacity=0.85, stroke=colour("paper"), strokeWidth=1)
    shown = tooltip(
        ("pair", "pair", ""),
        ("split", "split", ""),
        ("x", x.title, x.exact),
        ("y", y.title, y.exact),
        ("angle", "angle, degrees", ".1f"),
    )
    layers.append(
        points.encode(
            x=across, y=up, fill=alt.Fill("split:N", title=None, scale=colours), tooltip=shown
        )
    )
    return alt.layer(*layers)


def _domain(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - margin, high + margin]
