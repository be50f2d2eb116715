"""Arithmetic on the bytes of tensors: exact out of every dtype, one rounding into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ladle.checkpoint import Bytes

Float64 = npt.NDArray[np.float64]
Floating = np.ndarray[Any, np.dtype[np.floating[Any]]]


def decode(raw: Bytes, dtype: str) -> Floating:
    """Numbers from little-endian bytes of a floating dtype, exactly.

    bfloat16, which numpy lacks, comes as float32; all others are views of `raw`.
    """
    if dtype == "bfloat16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view({"float16": "<f2", "float32": "<f4", "float64": "<f8"}[dtype])


def encode(numbers: Float64, dtype: str) -> Bytes:
    """Little-endian bytes of `numbers` in a floating dtype, each rounded once, to nearest even.

    What is too large becomes infinite.
    """
    if dtype == "bfloat16":
        return _to_bfloat16(numbers).view(np.uint8)
    kind = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}[dtype]
    with np.errstate(over="ignore", under="ignore"):
        return numbers.astype(kind).view(np.uint8)


def _to_bfloat16(numbers: Float64) -> npt.NDArray[np.uint16]:
    # Through float32 there would be two roundings. Rounding to odd on the way (the float32 next
    # to an inexact number whose last bit is set) keeps what the second one has to know.
    with np.errstate(over="ignore", under="ignore"):
        nearest = numbers.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.uint32)
    bits -= (np.abs(back) > np.abs(numbers)).astype(np.uint32)
    bits |= (back != numbers).astype(np.uint32)
    bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded: npt.NDArray[np.uint16] = (bits >> np.uint32(16)).astype(np.uint16)
    return rounded


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
