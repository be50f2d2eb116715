"""Colours of numbers: a few steps, each a CSS variable."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from ladle.report.figures.style import RAMP, colour


def by_value(field: str, values: Sequence[float], *, lowest_stands_out: bool = True) -> alt.Fill:
    """Equal steps from the lowest value to the highest."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    levels = [low + (high - low) * i / RAMP for i in range(1, RAMP)]
    scale = steps(levels, lowest_stands_out=lowest_stands_out)
    return alt.Fill(f"{field}:Q", scale=scale, legend=strip())


def steps(levels: Sequence[float], *, lowest_stands_out: bool = True) -> alt.Scale:
    """Steps between levels, which are one less than there are colours."""
    colours = [colour(f"ramp-{i}") for i in range(RAMP)]
    if not lowest_stands_out:
        colours.reverse()
    return alt.Scale(type="threshold", domain=list(levels), range=colours)


def strip(form: str = ".3~g") -> alt.Legend:
    """The colours side by side, with the levels between them."""
    return alt.Legend(
        type="gradient",
        orient="bottom",
        gradientLength=260,
        labelOverlap="greedy",
        labelSeparation=14,
        title=None,
        format=form,
    )
