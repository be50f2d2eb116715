"""Sums of tensors in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ladle import native
from ladle.checkpoint.numbers import Float32, Float64, Floating

_LANES = 16


@dataclass
class Sum:
    """Σᵢ wᵢ·xᵢ in float64, in `total`, which is overwritten by the first addition.

    A mean is weights of 1 and a divisor of n, not weights of 1/n: the float64 sum of a few
    16- or 32-bit numbers of like size is exact, and one division rounds it correctly. For 64-bit
    numbers what the additions lose is kept too, so that the mean of copies is the copy.
    """

    total: Float64
    lost: Float64 | None = None
    started: bool = False
    _product: Float64 | None = field(default=None, repr=False)

    def add(self, numbers: native.Packed, weight: float) -> None:
        """Add weight·numbers."""
        total, starting = self.total, not self.started
        self.started = True
        if native.add(total, numbers, weight, starting=starting):
            return
        if starting and weight == 1.0:
            np.copyto(total, numbers)
        elif starting:
            np.multiply(numbers, weight, out=total, dtype=np.float64)
        elif weight != 1.0:
            self._product = np.empty_like(total) if self._product is None else self._product
            np.multiply(numbers, weight, out=self._product, dtype=np.float64)
            np.add(total, self._product, out=total)
        elif numbers.dtype == np.float64:
            error = _add_exactly(total, numbers)
            self.lost = error if self.lost is None else np.add(self.lost, error, out=self.lost)
        else:
            np.add(total, numbers, out=total)

    def divide(self, divisor: float) -> None:
        """Make `total` the quotient."""
        if self.lost is not None and divisor.is_integer() and abs(divisor) < 2**26:
            self.total[...] = _divided(self.total, self.lost, divisor)
        elif divisor != 1.0:
            _divide(self.total, divisor)


def weighted_sum(
    readings: Iterable[native.Packed], weights: Sequence[float], *, divisor: float, out: Float64
) -> None:
    """(Σᵢ wᵢ·xᵢ) / divisor in float64, into `out`: see `Sum`."""
    found = Sum(out)
    for weight, numbers in zip(weights, readings, strict=True):
        found.add(numbers, weight)
    if not found.started:
        raise ValueError("a sum of no tensors has no shape")
    found.divide(divisor)


def inner_product(numbers: native.Packed, slope: Float32) -> float:
    """Σ numbers·slope in float64: products of 16- and 32-bit numbers are exact, sums in 16 lanes.

    Where there is no compiled kernel, `numbers` are no bfloat16 that is packed.
    """
    found = native.dot(numbers, slope)
    if found is not None:
        return found
    products = np.multiply(numbers, slope, dtype=np.float64)
    whole = len(products) - len(products) % _LANES
    lanes = np.add.reduce(products[:whole].reshape(-1, _LANES), axis=0)
    lanes[: len(products) - whole] += products[whole:]
    total = 0.0
    for lane in lanes.tolist():
        total += lane
    return total


def _divide(total: Float64, divisor: float) -> None:
    mantissa, exponent = math.frexp(divisor)
    if mantissa == 0.5 and abs(exponent) < 1000:
        # The inverse of a power of two is exact: the same numbers, three times as fast.
        np.multiply(total, 1.0 / divisor, out=total)
    else:
        np.divide(total, divisor, out=total)


def _add_exactly(total: Float64, numbers: Floating) -> Float64:
    """Add to `total`, and say what rounding took from it, exactly (Knuth's two-sum)."""
    before = total.copy()
    np.add(total, numbers, out=total)
    added = total - before
    error: Float64 = (before - (total - added)) + (numbers - added)
    return error


def _divided(total: Float64, lost: Float64, divisor: float) -> Float64:
    """(total + lost) / divisor for a whole divisor of at most 26 bits."""
    quotient = total / divisor
    # The upper half of the quotient's digits and the lower one: their products are exact.
    upper = (quotient.view(np.uint64) & np.uint64(0xFFFFFFFFF8000000)).view(np.float64)
    remainder = (total - upper * divisor) - (quotient - upper) * divisor
    correction = (remainder + lost) / divisor
    # Adding a zero would turn -0.0 into 0.0.
    return np.where(correction == 0, quotient, quotient + correction)
