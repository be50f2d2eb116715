"""How the runs of a sweep learned."""

from __future__ import annotations

import altair as alt

from ladle.report.figures.figure import Figure, Key, Row, chart
from ladle.report.figures.scales import (
    as_number,
    better_up,
    exact_format,
    named,
    ordinal,
    score_axis,
    span,
    tooltip,
    whole_axis,
)
from ladle.report.figures.style import colour
from ladle.report.figures.variation import Variation
from ladle.report.record import Metric, Scalar
from ladle.report.sweep_record import Sweep

_BEST, _OTHER = "best run", "other run"


def training_losses(sweep: Sweep, variation: Variation) -> Figure | None:
    """Mean training loss of each epoch; None where no run has two."""
    rows: list[Row] = [
        _point(sweep, run.name, epoch, loss) | variation.of(run.name)
        for run in sweep.runs
        for epoch, loss in enumerate(run.losses, start=1)
        if loss is not None
    ]
    if not any(len(run.losses) > 1 for run in sweep.runs) or not rows:
        return None
    y = alt.Y("y:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="mean training loss"))
    x = alt.X("x:Q", axis=whole_axis("epoch", [as_number(row["x"]) for row in rows]))
    return _curves(
        rows, variation, x, y, ("training-loss", "Training loss", "epoch", "loss", ".4g")
    )


def learning_curves(sweep: Sweep, metric: Metric, variation: Variation) -> Figure | None:
    """Held-out score on the way; None where runs were scored at their ends only."""
    if not any(len(run.scores) > 1 for run in sweep.runs):
        return None
    rows: list[Row] = [
        _point(sweep, run.name, score.step, score.value) | variation.of(run.name)
        for run in sweep.runs
        for score in run.scores
        if score.value is not None and (score.split, score.metric) == (sweep.split, metric.name)
    ]
    if not rows:
        return None
    ends = [run.score for run in sweep.runs if run.score is not None]
    domain = span([as_number(row["y"]) for row in rows], ends)
    y = alt.Y(
        "y:Q",
        scale=better_up(domain, metric),
        axis=score_axis(metric, named(metric, sweep.split), domain),
    )
    x = alt.X("x:Q", axis=alt.Axis(title="step", format="d"))
    words = ("learning", "Score on the way", "step", metric.name, exact_format(metric))
    return _curves(rows, variation, x, y, words)


def _point(sweep: Sweep, run: str, x: int, y: float) -> dict[str, Scalar]:
    is_best = sweep.best is not None and sweep.best.name == run
    return {"run": run, "x": x, "y": y, "group": _BEST if is_best else _OTHER}


def _curves(
    rows: list[Row], variation: Variation, x: alt.X, y: alt.Y, words: tuple[str, str, str, str, str]
) -> Figure:
    name, title, across, up, exact = words
    groups = [group for group in (_BEST, _OTHER) if any(row["group"] == group for row in rows)]
    colours = {_BEST: colour("best"), _OTHER: colour("single")}
    by_group = alt.Stroke(
        "group:N", title=None, scale=ordinal(groups, [colours[group] for group in groups])
    )
    runs = {str(row["run"]) for row in rows}
    base = chart().encode(x=x, y=y)
    lines = base.mark_line(strokeWidth=1.25, aria=False).encode(detail="run:N", stroke=by_group)
    best = lines.transform_filter(alt.datum.group == _BEST).mark_line(strokeWidth=2.5, aria=False)
    points = base.mark_point(size=30, strokeWidth=1, filled=False, fill=colour("paper"), opacity=1)
    shown = tooltip(("run", "run", ""), ("x", across, "d"), ("y", up, exact))
    return Figure(
        name=name,
        title=title,
        alt=f"Line chart of {len(runs)} runs: {up} against {across}",
        rows=rows,
        columns={"run": "run", "x": across, "y": up},
        chart=alt.layer(
            lines, best, points.encode(stroke=by_group, tooltip=[*shown, *variation.tooltips()])
        ),
        keys=[Key(group, "best" if group == _BEST else "single") for group in groups],
        height=280,
    )
