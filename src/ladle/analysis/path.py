"""The straight path between two models: what lies on it, and how high the barrier is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ladle.analysis.plane import Axis
from ladle.analysis.positions import Float64, Positions

_ENDS_AND_MIDDLE = (Fraction(0), Fraction(1, 2), Fraction(1))


def steps(points: int, margin: Fraction) -> Axis:
    """t of points on a path, θ(t) = (1 - t)·θ₀ + t·θ₁: regular, with both ends and the middle."""
    regular = Axis.over(Fraction(0), Fraction(1), points=points, margin=margin)
    return Axis(tuple(sorted({*regular.at, *_ENDS_AND_MIDDLE})))


def along(positions: Positions, i: int) -> tuple[float, float]:
    """t of the point nearest to model i, on the path between the first two; how far that is."""
    gram = positions.gram
    t = float(gram[i, 1] / gram[1, 1])
    return t, max(float(gram[i, i] - t * gram[i, 1]), 0.0) ** 0.5


@dataclass(frozen=True)
class Barrier:
    """How much worse a path gets than its ends, and the t where it does so most.

    Worse than the straight line between the values at both ends, for ends may differ (Entezari et
    al., 2022): 0 where it is nowhere worse. None where a value is not finite, and so high that
    there is no number for it.
    """

    height: float | None
    at: float | None


def barrier(t: Sequence[float], values: Float64, *, higher_is_better: bool) -> Barrier:
    """Of a quantity along a path, between t = 0 and t = 1, which both are among `t`."""
    steps = np.asarray(t)
    inside = (steps >= 0) & (steps <= 1)
    steps, found = steps[inside], values[inside]
    expected = (1 - steps) * found[0] + steps * found[-1]  # At both ends exactly.
    excess = (expected - found) if higher_is_better else (found - expected)
    if not np.isfinite(excess).all():
        return Barrier(None, None)
    worst = int(np.argmax(excess))
    return Barrier(max(float(excess[worst]), 0.0), float(steps[worst]))
