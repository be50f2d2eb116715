"""Model Stock (Jang et al., ECCV 2024, arXiv 2403.19522): near the base where models differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ladle.checkpoint.numbers import Float64
from ladle.merge.base import Merge, Readings


@dataclass(frozen=True)
class ModelStock(Merge):
    """t·mean(θᵢ) + (1 - t)·θ₀ for every tensor, with t = N·cos / (1 + (N - 1)·cos).

    θ₀ is the ingredient at `base`, θᵢ are the N others of `count` ingredients, and cos is the mean
    cosine between their task vectors θᵢ - θ₀, over all pairs: the paper has a rule for two models
    alone, and this is what mergekit makes of more. A tensor that did not move in one model has a
    cosine of 0 with all others. Where cos is negative, which the geometry of the paper does not
    know, t is 0. Takes four float64 copies of the largest tensor as memory, however many models.
    """

    count: int
    base: int = 0

    @property
    def elementwise(self) -> bool:
        return False

    def __call__(self, name: str, readings: Readings, out: Float64) -> None:
        start = np.array(readings[self.base], np.float64)
        vector, directions = np.empty_like(start), np.zeros_like(start)
        others = [i for i in range(self.count) if i != self.base]
        moved = 0
        out.fill(0.0)
        for i in others:
            numbers = readings[i]
            np.add(out, numbers, out=out)
            np.subtract(numbers, start, out=vector, dtype=np.float64)
            length = math.sqrt(float(vector @ vector))
            if length:
                moved += 1
                np.divide(vector, length, out=vector)
                np.add(directions, vector, out=directions)
        # Of unit vectors u, |Σu|² is their number and twice the sum of their pairs' cosines.
        pairs = float(directions @ directions) - moved
        ratio = interpolation(pairs / (len(others) * (len(others) - 1)), len(others))
        np.divide(out, len(others), out=out)
        np.multiply(out, ratio, out=out)
        np.multiply(start, 1.0 - ratio, out=start)
        np.add(out, start, out=out)

    def for_order(self, order: Sequence[int]) -> ModelStock:
        return ModelStock(len(order), list(order).index(self.base))

    def weights_of(self) -> tuple[float | None, ...]:
        return (None,) * self.count

    def record(self) -> dict[str, Any]:
        return {"kind": "model-stock", "count": self.count, "base": self.base}


def interpolation(cosine: float, count: int) -> float:
    """How far to go from the base to the mean of `count` models, from 0 to 1."""
    if cosine <= 0.0:
        return 0.0
    return count * cosine / (1 + (count - 1) * cosine)
