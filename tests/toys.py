"""Pools of one number per model, and evaluations of them that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ladle.checkpoint import MemoryCheckpoint
from ladle.soup import Ingredient, Pool, Soup


def toy_pool(*values: float) -> Pool:
    """Models run0, run1, ... whose only weight is a number."""
    return Pool.of(
        Ingredient(f"run{i}", MemoryCheckpoint(Path(f"run{i}"), {"w": torch.tensor([value])}))
        for i, value in enumerate(values)
    )


def near(target: float) -> Callable[[Soup], float]:
    """Scores a soup by how near its number is to `target`; 0 is perfect."""
    return lambda soup: -abs(float(soup.state_dict()["w"]) - target)
