"""How the soup was chosen: candidates in the order in which they were tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ladle.report.figures.figure import Chart, Figure, Key, Row, chart
from ladle.report.figures.scales import (
    better_up,
    exact_format,
    holds,
    named,
    ordinal,
    score_axis,
    span,
    tooltip,
)
from ladle.report.figures.style import CIRCLE, DOWN, colour
from ladle.report.record import Metric, Tasting

_NAMED = 24
_KEPT, _NOT, _BELOW = "kept", "not kept", "not kept, far worse"


@dataclass(frozen=True)
class Step:
    """A candidate that was tried; `value` is its score, or the best that it could have had."""

    name: str
    value: float
    kept: bool
    reason: str
    exact: bool


def steps_of(tastings: Sequence[Tasting]) -> list[Step]:
    """The singles that were kept, then all mixtures, in order; what has no score is left out."""
    first = [t for t in tastings if len(t.members) == 1 and t.kept]
    tried = [t for t in tastings if len(t.members) > 1]
    steps = []
    for tasting in [*first, *tried]:
        value = tasting.bound if tasting.score is None else tasting.score
        if value is not None:
            exact = tasting.score is not None
            steps.append(Step(tasting.candidate, value, tasting.kept, tasting.reason, exact))
    return steps


def story(steps: Sequence[Step], metric: Metric) -> Figure:
    """Held-out score against the order of candidates, the best so far as a line."""
    domain = span([s.value for s in steps], [s.value for s in steps if s.kept])
    rows: list[Row] = []
    best: float | None = None
    for i, step in enumerate(steps, start=1):
        best = step.value if step.kept else best
        outcome = _KEPT if step.kept else _NOT if holds(domain, step.value) else _BELOW
        rows.append(
            {
                "step": i,
                "label": f"{i} {step.name}" if len(steps) <= _NAMED else str(i),
                "candidate": step.name,
                "score": step.value,
                "measured": "to the end" if step.exact else "until it could not be kept",
                "outcome": outcome,
                "area": 110 if step.kept else 70,
                "reason": step.reason,
                "best": best,
            }
        )
    outcomes = [o for o in (_KEPT, _NOT, _BELOW) if any(row["outcome"] == o for row in rows)]
    return Figure(
        name="choice",
        title="Held-out score of each candidate",
        alt=f"Step chart: {len(steps)} candidates tried in order, "
        f"{sum(step.kept for step in steps)} kept",
        rows=rows,
        columns={
            "step": "step",
            "candidate": "candidate",
            "score": "held-out",
            "measured": "measured",
            "outcome": "outcome",
            "reason": "reason",
            "best": "best so far",
        },
        chart=_chart(rows, metric, domain, outcomes),
        keys=[
            *(Key(_KEPT, "best", CIRCLE) for o in outcomes if o == _KEPT),
            *(Key(_NOT, "single", CIRCLE, hollow=True) for o in outcomes if o == _NOT),
            *(Key(_BELOW, "single", DOWN) for o in outcomes if o == _BELOW),
            Key("best so far", "best"),
        ],
        height=320,
    )


def _chart(
    rows: Sequence[Row], metric: Metric, domain: tuple[float, float], outcomes: Sequence[str]
) -> Chart:
    order = [str(row["label"]) for row in rows]
    axis = alt.Axis(labelAngle=-40, title="candidate, in the order tried", labelLimit=110)
    x = alt.X("label:N", sort=order, axis=axis, scale=alt.Scale(padding=0.5))
    scale = better_up(domain, metric)

    def y(name: str) -> alt.Y:
        return alt.Y(
            f"{name}:Q", scale=scale, axis=score_axis(metric, named(metric, "held-out"), domain)
        )

    def by(channel: Any, kept: str, other: str, below: str) -> Any:
        values = {_KEPT: kept, _NOT: other, _BELOW: below}
        scale = ordinal(outcomes, [values[one] for one in outcomes])
        return channel("outcome:N", title=None, scale=scale)

    line = chart().mark_line(
        interpolate="step-after", color=colour("best"), strokeWidth=1.75, aria=False
    )
    points = chart().mark_point(opacity=1, strokeWidth=1.75)
    single, blue = colour("single"), colour("best")
    marks = points.encode(
        x=x,
        y=y("score"),
        fill=by(alt.Fill, blue, colour("paper"), single),
        stroke=by(alt.Stroke, blue, single, single),
        shape=by(alt.Shape, CIRCLE, CIRCLE, DOWN),
        size=alt.Size("area:Q", scale=None, legend=None),
        tooltip=tooltip(
            ("candidate", "candidate", ""),
            ("score", "held-out", exact_format(metric)),
            ("measured", "measured", ""),
            ("outcome", "outcome", ""),
            ("reason", "reason", ""),
        ),
    )
    return alt.layer(line.encode(x=x, y=y("best")), marks)
