"""The share of each ingredient in the soup, in all or tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from ladle.report.figures.figure import Figure, Row, chart
from ladle.report.figures.ramp import by_value
from ladle.report.figures.scales import tooltip
from ladle.report.figures.style import colour
from ladle.report.record import Ingredient, Record
from ladle.runs import natural


def coefficients(record: Record) -> Figure | None:
    """Bars, the largest first; None where tensors have shares of their own, or it is one model."""
    shares = [(one, one.weight) for one in record.ingredients if one.weight is not None]
    if len(shares) < 2 or len(shares) < len(record.ingredients):
        return None
    shares.sort(key=lambda pair: -pair[1])
    kept = {one.name for one, _ in shares}
    rest = [one.name for one in record.pool if one.name not in kept]
    rows: list[Row] = [{"model": one.name, "share": share} for one, share in shares]
    bars = chart().mark_bar(color=colour("soup"), height={"band": 0.6})
    order = [one.name for one, _ in shares]
    return Figure(
        name="coefficients",
        title="Share of each ingredient",
        alt=f"Bar chart of the shares of {len(shares)} ingredients",
        rows=rows,
        columns={"model": "model", "share": "share"},
        chart=bars.encode(
            x=alt.X("share:Q", axis=alt.Axis(title="share of the soup", format=".3~g")),
            y=alt.Y("model:N", sort=order, axis=alt.Axis(title=None)),
            tooltip=tooltip(("model", "model", ""), ("share", "share", ".4g")),
        ),
        notes=[f"Not in it: {', '.join(rest)}."] if rest else [],
        height=26 * len(shares) + 10,
    )


def coefficients_by_tensor(record: Record) -> Figure | None:
    """A heat map, tensors from first to last layer; None where none has shares of its own."""
    if not record.by_tensor:
        return None
    tensors = sorted(record.by_tensor, key=natural)
    names = [one.name for one in record.ingredients]
    rows: list[Row] = [
        {"tensor": tensor, "model": name, "share": share}
        for tensor in tensors
        for name, share in zip(names, record.by_tensor[tensor], strict=True)
    ]
    shares = [share for tensor in tensors for share in record.by_tensor[tensor]]
    cells = chart().mark_rect()
    return Figure(
        name="coefficients-by-tensor",
        title="Share of each ingredient, tensor by tensor",
        alt=f"Heat map of the shares of {len(names)} ingredients in {len(tensors)} tensors",
        rows=rows,
        columns={"tensor": "tensor", "model": "model", "share": "share"},
        chart=cells.encode(
            x=alt.X("model:N", sort=names, axis=alt.Axis(title=None, labelAngle=-40)),
            y=alt.Y("tensor:N", sort=tensors, axis=alt.Axis(title=None, labelOverlap=True)),
            fill=by_value("share", shares, lowest_stands_out=False),
            tooltip=tooltip(
                ("tensor", "tensor", ""), ("model", "model", ""), ("share", "share", ".4g")
            ),
        ),
        notes=[*_summary(record.ingredients, record)],
        height=min(max(8 * len(tensors), 160), 900),
    )


def _summary(ingredients: Sequence[Ingredient], record: Record) -> list[str]:
    means = []
    for i, one in enumerate(ingredients):
        shares = [row[i] for row in record.by_tensor.values()]
        means.append(f"{one.name} {sum(shares) / len(shares):.3f}")
    return [f"The mean share over these tensors: {', '.join(means)}."]
