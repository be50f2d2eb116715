"""Sums of tensors in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ladle.checkpoint.numbers import Float64, Floating


def weighted_sum(
    readings: Iterable[Floating], weights: Sequence[float], *, divisor: float = 1.0
) -> Float64:
    """(Σᵢ wᵢ·xᵢ) / divisor in float64.

    A mean is weights of 1 and a divisor of n, not weights of 1/n: the float64 sum of a few
    16- or 32-bit numbers of like size is exact, and one division rounds it correctly. For 64-bit
    numbers what the additions lose is kept too, so that the mean of copies is the copy.
    """
    total: Float64 | None = None
    lost: Float64 | None = None
    for weight, numbers in zip(weights, readings, strict=True):
        if total is None:
            total = numbers.astype(np.float64)
            if weight != 1.0:
                total *= weight
        elif weight == 1.0 and numbers.dtype == np.float64:
            total, error = _two_sum(total, numbers.astype(np.float64, copy=False))
            lost = error if lost is None else lost + error
        elif weight == 1.0:
            total += numbers
        else:
            total += np.multiply(numbers, weight, dtype=np.float64)
    if total is None:
        raise ValueError("a sum of no tensors has no shape")
    if lost is not None and divisor.is_integer() and abs(divisor) < 2**26:
        return _divided(total, lost, divisor)
    if divisor != 1.0:
        total /= divisor
    return total


def _two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    """The rounded sum, and what rounding took from it, exactly (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _divided(total: Float64, lost: Float64, divisor: float) -> Float64:
    """(total + lost) / divisor for a whole divisor of at most 26 bits."""
    quotient = total / divisor
    # The upper half of the quotient's digits and the lower one: their products are exact.
    upper = (quotient.view(np.uint64) & np.uint64(0xFFFFFFFFF8000000)).view(np.float64)
    remainder = (total - upper * divisor) - (quotient - upper) * divisor
    correction = (remainder + lost) / divisor
    # Adding a zero would turn -0.0 into 0.0.
    return np.where(correction == 0, quotient, quotient + correction)
