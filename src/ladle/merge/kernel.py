"""Sums of tensors in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ladle import native
from ladle.checkpoint.numbers import Float32, Float64, Floating

_LANES = 16


def weighted_sum(
    readings: Iterable[native.Packed], weights: Sequence[float], *, divisor: float, out: Float64
) -> None:
    """(Σᵢ wᵢ·xᵢ) / divisor in float64, into `out`.

    A mean is weights of 1 and a divisor of n, not weights of 1/n: the float64 sum of a few
    16- or 32-bit numbers of like size is exact, and one division rounds it correctly. For 64-bit
    numbers what the additions lose is kept too, so that the mean of copies is the copy.
    """
    lost: Float64 | None = None
    product: Float64 | None = None
    count = 0
    for count, (weight, numbers) in enumerate(zip(weights, readings, strict=True), start=1):
        if native.add(out, numbers, weight, starting=count == 1):
            continue
        if count == 1 and weight == 1.0:
            np.copyto(out, numbers)
        elif count == 1:
            np.multiply(numbers, weight, out=out, dtype=np.float64)
        elif weight != 1.0:
            product = np.empty_like(out) if product is None else product
            np.multiply(numbers, weight, out=product, dtype=np.float64)
            np.add(out, product, out=out)
        elif numbers.dtype == np.float64:
            error = _add_exactly(out, numbers)
            lost = error if lost is None else np.add(lost, error, out=lost)
        else:
            np.add(out, numbers, out=out)
    if not count:
        raise ValueError("a sum of no tensors has no shape")
    if lost is not None and divisor.is_integer() and abs(divisor) < 2**26:
        out[...] = _divided(out, lost, divisor)
    elif divisor != 1.0:
        _divide(out, divisor)


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
