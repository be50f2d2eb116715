"""How everything that is drawn looks: the page's colours, marks, and axes.

Colours are CSS variables throughout, so that a page changes its theme without drawing anew; a file
has the values of the light one.
"""

from __future__ import annotations

import re
from typing import Any

from ladle.report.table import Part

LIGHT = {
    "paper": "#fdfdfb", "ink": "#1c1d1f", "quiet": "#5c6066", "rule": "#d9d9d4",
    "faint": "#ebebe6", "wash": "#f5f5f0",
    "single": "#7d858f", "best": "#0068ad", "soup": "#c65300", "ensemble": "#00805c",
    "base": "#3b3f45", "other": "#8a4fa8",
    "ramp-0": "#0d3b66", "ramp-1": "#145a8d", "ramp-2": "#2279ac", "ramp-3": "#4a97bd",
    "ramp-4": "#7bb3cb", "ramp-5": "#a7cbd6", "ramp-6": "#cbdfe0", "ramp-7": "#e6eeea",
    "ramp-8": "#f6f6ef",
}  # fmt: skip
DARK = {
    "paper": "#16181b", "ink": "#e6e5e1", "quiet": "#a0a4aa", "rule": "#3a3d42",
    "faint": "#292c30", "wash": "#1e2125",
    "single": "#8d95a0", "best": "#5db8f2", "soup": "#ff9447", "ensemble": "#3ccb9b",
    "base": "#d3d5d8", "other": "#c792ea",
    "ramp-0": "#d9f0fb", "ramp-1": "#aadcf5", "ramp-2": "#79c2e8", "ramp-3": "#4fa5d3",
    "ramp-4": "#3588b8", "ramp-5": "#286b96", "ramp-6": "#215072", "ramp-7": "#1d3a51",
    "ramp-8": "#1c2833",
}  # fmt: skip
RAMP = 9
"""Steps from the lowest value, which stands out most, to the highest, which is nearly paper."""

CIRCLE = "M-.8,0A.8,.8,0,1,1,.8,0A.8,.8,0,1,1,-.8,0Z"
SQUARE = "M-.8,-.8H.8V.8H-.8Z"
DIAMOND = "M0,-1L1,0L0,1L-1,0Z"
STAR = "M0,-1L.26,-.36L.95,-.31L.42,.14L.59,.81L0,.44L-.59,.81L-.42,.14L-.95,-.31L-.26,-.36Z"
DOWN = "M-.8,-.5H.8L0,.9Z"

PARTS: dict[Part, tuple[str, str, str, int, bool]] = {
    "single": ("single model", "single", CIRCLE, 70, False),
    "curve": ("on the line from the base", "soup", CIRCLE, 60, False),
    "base": ("base", "base", SQUARE, 90, False),
    "ensemble": ("ensemble", "ensemble", DIAMOND, 170, False),
    "soup": ("other soup", "soup", STAR, 190, True),
    "uniform": ("uniform soup", "soup", STAR, 190, True),
    "best": ("best single model", "best", CIRCLE, 120, False),
    "chosen": ("this soup", "soup", STAR, 300, False),
}
"""Of each part its words, colour, shape, area in square pixels, and whether it is hollow."""

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def colour(name: str) -> str:
    """The CSS variable of a colour."""
    return f"var(--{name})"


def literal(svg: str) -> str:
    """A drawing with the colours of the light theme in place of CSS variables."""
    return re.sub(r"var\(--([\w-]+)\)", lambda found: LIGHT[found.group(1)], svg)


CONFIG: dict[str, Any] = {
    "background": None,
    "font": _FONT,
    "padding": {"left": 2, "right": 12, "top": 6, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "domainColor": colour("quiet"),
        "gridColor": colour("faint"),
        "labelColor": colour("quiet"),
        "labelFontSize": 12,
        "labelFlush": False,
        "labelLimit": 140,
        "labelPadding": 6,
        "ticks": False,
        "titleColor": colour("quiet"),
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
    },
    "axisX": {"tickCount": {"expr": "max(3, width / 90)"}},
    "axisY": {"domain": False},
    "legend": {
        "labelColor": colour("ink"),
        "labelFontSize": 12,
        "labelLimit": 260,
        "orient": "top",
        "symbolStrokeWidth": 1.5,
        "title": None,
        "columns": 4,
    },
    "text": {"color": colour("ink"), "fontSize": 12},
    "line": {"strokeWidth": 2},
    "rule": {"color": colour("quiet")},
}
