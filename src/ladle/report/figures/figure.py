"""What a figure is: plain rows, and an Altair chart of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import altair as alt

from ladle.report.figures.style import CONFIG
from ladle.report.record import Scalar

Row = Mapping[str, Scalar]
Chart = alt.Chart | alt.LayerChart | alt.FacetChart
"""What a figure may draw; `alt.layer` is typed as the last two."""

WIDTH = 640
"""Of a figure in a file, in pixels. On the page it is as wide as there is room."""
SMALL_WIDTH = 320


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a mark as an SVG path within -1 to 1, or a line, in a named colour.

    `size` is the share of the room that the mark takes.
    """

    words: str
    colour: str
    path: str = ""
    hollow: bool = False
    dash: str = ""
    size: float = 0.75


@dataclass(frozen=True)
class Figure:
    """A picture of some rows.

    `name` is that of its files, `title` stands above it, `alt` says what kind of picture of what it
    is, and `notes` what to know to read it. `columns` are the fields of rows in the order of a
    table, with their headings; rows may have more, which only the picture needs, and so may the
    figure, `beside` them. A chart without
    `keys` draws its own legend, where it needs one. Of `height` (pixels) or `ratio` (to the width)
    one is given. Figures that are `small` stand side by side.
    """

    name: str
    title: str
    alt: str
    rows: Sequence[Row]
    columns: Mapping[str, str]
    chart: Chart
    notes: Sequence[str] = ()
    keys: Sequence[Key] = ()
    height: int = 300
    ratio: float | None = None
    small: bool = False
    beside: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def spec(self, *, on_page: bool) -> dict[str, Any]:
        """The Vega-Lite specification: for a page, or for a file of a fixed size.

        Colours are CSS variables in both.
        """
        spec = dict(self._chart_spec)
        width = SMALL_WIDTH if self.small else WIDTH
        spec["width"] = "container" if on_page else width
        spec["height"] = self.height if self.ratio is None else round(self.ratio * width)
        spec["description"] = self.alt
        spec["datasets"] = {"rows": self.rows, **self.beside}
        spec["config"] = CONFIG
        if on_page and self.keys:
            spec["config"] = {**CONFIG, "legend": {"disable": True}}
        return spec

    @cached_property
    def _chart_spec(self) -> dict[str, Any]:
        # To check it against Vega-Lite's schema takes longer than to draw it, and is for tests.
        return self.chart.to_dict(validate=False)


def chart(data: str = "rows") -> alt.Chart:
    """A chart of the rows of a figure, or of those that it has beside them under a name.

    By name, for Altair would look at each value.
    """
    return alt.Chart(alt.NamedData(data))
