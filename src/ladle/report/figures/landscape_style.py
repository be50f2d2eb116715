"""What figures of landscapes share: names of files and titles, and marks of models."""

from __future__ import annotations

import re

from ladle.report.analyses import Landscape, Surface
from ladle.report.figures.style import CIRCLE, SQUARE, STAR

ROLES = {
    "base": ("ink", SQUARE, 110),
    "model": ("ink", CIRCLE, 110),
    "soup": ("soup", STAR, 300),
}
"""Of each role of a model its colour, shape and area."""


def file_name(landscape: Landscape, *parts: str) -> str:
    """A name for the files of a figure; of another landscape on the page it is another."""
    words = [landscape.about.place, *parts]
    return "-".join(re.sub("[^a-zA-Z0-9]+", "-", word).strip("-") for word in words if word)


def shown_name(surface: Surface) -> str:
    """`test error`."""
    return f"{surface.split} {surface.quantity}"


def is_share(surface: Surface) -> bool:
    """Whether a quantity is shown in per cent."""
    values = [value for row in surface.values for value in row if value is not None]
    share = surface.quantity in ("error", "accuracy") or surface.quantity.endswith("accuracy")
    return share and all(0 <= value <= 1 for value in values)
