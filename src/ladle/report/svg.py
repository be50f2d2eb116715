"""Small pieces of SVG: elements, marks that differ in shape, scales, and labels that keep apart.

Lengths are user units of the drawing, which the page shows at about one CSS pixel each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product

import numpy as np

from ladle.report.table import Part

LETTER = 7.0
"""Width of a letter of a label, on the wide side: fonts differ from reader to reader."""
_PLACES = (
    ("start", 12, 4),
    ("end", -12, 4),
    ("start", 12, 10),
    ("end", -12, 10),
    ("middle", 0, -10),
    ("middle", 0, 19),
    ("start", 7, -6),
    ("end", -7, -6),
    ("start", 7, 15),
    ("end", -7, 15),
)


def tag(name: str, *children: str, **attributes: str | float) -> str:
    """An element; children are markup, attributes are escaped here; empty ones are left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value != ""
    )
    return f"<{name}{shown}>{''.join(children)}</{name}>"


def write(words: str, x: float, y: float, anchor: str = "start", class_: str = "") -> str:
    """A line of text, escaped here."""
    return tag("text", escape(words), x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def mark(part: Part, x: float, y: float, tooltip: str = "", hollow: bool = False) -> str:
    """Dots are single models, stars soups, a diamond the ensemble, a square the base; small dots
    are on a line from the base."""
    class_ = f"mark {part}{' hollow' if hollow else ''}"
    if part in ("single", "best"):
        shape = tag("circle", cx=x, cy=y, r=6 if part == "best" else 4.5, class_=class_)
    elif part == "curve":
        shape = tag("circle", cx=x, cy=y, r=3, class_=class_)
    elif part == "base":
        shape = tag("rect", x=x - 5, y=y - 5, width=10, height=10, class_=class_)
    else:
        radii = [7.5] * 4 if part == "ensemble" else [9 if part == "chosen" else 7.5, 3.5] * 5
        turn = 2 * math.pi / len(radii)
        corners = [
            f"{x + r * math.sin(i * turn):.1f},{y - r * math.cos(i * turn):.1f}"
            for i, r in enumerate(radii)
        ]
        shape = tag("polygon", points=" ".join(corners), class_=class_)
    return tag("g", tag("title", escape(tooltip)), shape) if tooltip else shape


def drawing(width: float, height: float, label: str, *children: str, class_: str) -> str:
    """A whole picture that says in words what it shows."""
    box = f"0 0 {_number(width)} {_number(height)}"
    return tag("svg", *children, viewBox=box, role="img", aria_label=label, class_=class_)


@dataclass(frozen=True)
class Scale:
    """Maps low..high to start..end; what lies outside is put on the nearer edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self, most: int) -> list[float]:
        """At most `most` round values, in order."""
        raw = (self.high - self.low) / most
        power = 10 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10, 20) if m * power >= raw)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def span(values: Sequence[float], keep: Sequence[float] = ()) -> tuple[float, float]:
    """The range to draw: all of `keep`, and of `values` what is not far from the bulk.

    One model that failed to train would otherwise press all others into one point.
    """
    low, high = np.percentile(values, [25, 75])
    reach = 3 * (high - low)
    inside = [*keep, *(v for v in values if low - reach <= v <= high + reach)]
    margin = 0.09 * (max(inside) - min(inside)) or 0.02 * abs(inside[0]) or 1.0
    return float(min(inside) - margin), float(max(inside) + margin)


@dataclass(frozen=True)
class Label:
    """Words that want to stand near a mark."""

    words: str
    x: float
    y: float
    class_: str = ""


def place(
    labels: Iterable[Label], taken: Iterable[Box], frame: Box, avoid: Sequence[Box] = ()
) -> list[str]:
    """The labels that find room inside the frame without covering what is taken or each other.

    Earlier labels choose first. What is to be avoided is covered only when nothing else is left.
    """
    filled = list(taken)
    shown = []
    for label in labels:
        width = LETTER * len(label.words) * (1.1 if label.class_ == "chosen" else 1)
        rounds = [[*filled, *avoid], filled]
        if label.class_ == "chosen":
            rounds.append([])  # never without its name, even across a mark
        for others, (anchor, dx, dy) in product(rounds, _PLACES):
            x, y = label.x + dx, label.y + dy
            left = x - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
            box = Box(left, y - 10, left + width, y + 3)
            if frame.covers(box) and not any(box.meets(other) for other in others):
                filled.append(box)
                shown.append(write(label.words, x, y, anchor, f"label {label.class_}"))
                break
    return shown


@dataclass(frozen=True)
class Box:
    """An upright rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.bottom <= other.top or other.bottom <= self.top)

    @classmethod
    def around(cls, x: float, y: float) -> Box:
        """The room of a mark."""
        return cls(x - 6, y - 6, x + 6, y + 6)

    def covers(self, other: Box) -> bool:
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
