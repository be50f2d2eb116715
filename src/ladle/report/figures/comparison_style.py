"""What figures of comparisons share: the splits that they show, and names of files."""

from __future__ import annotations

import re

from ladle.report.analyses import Comparison

KINDS = {"soup": ("soup", [1, 0]), "ensemble": ("ensemble", [1, 0]), "single": ("single", [1, 0])}
"""Of each kind of model its colour, and the dashes of its lines."""


def shown_splits(comparison: Comparison) -> dict[str, str]:
    """Test and the mean of the shifts, with their colours; held-out data where there is no test."""
    roles = comparison.roles
    wanted = {"test": "best", "mean-shift": "soup"}
    if "mean-shift" not in roles.values():
        wanted = {"test": "best", "shift": "soup"}
    shown = {name: wanted[role] for name, role in roles.items() if role in wanted}
    return shown or dict.fromkeys(roles, "single")


def the(split: str) -> str:
    """`test`, `the mean of shifts`."""
    return f"the {split}" if split.startswith("mean") else split


def file_name(comparison: Comparison, *parts: str) -> str:
    """A name for the files of a figure; of another comparison on the page it is another."""
    words = [comparison.about.place, *parts]
    return "-".join(re.sub("[^a-zA-Z0-9]+", "-", word).strip("-") for word in words if word)
