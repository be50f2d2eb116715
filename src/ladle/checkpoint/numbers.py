"""Numbers from the bytes of tensors and back: exact out of every dtype, one rounding into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ladle.checkpoint.base import Bytes

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Floating = np.ndarray[Any, np.dtype[np.floating[Any]]]

_KINDS = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}

BOUND = {
    "float64": float("inf"),
    "float32": 2.0**128 - 2.0**103,
    "bfloat16": 2.0**128 - 2.0**119,
    "float16": 65520.0,
}
"""The magnitude from which on a number is rounded to infinity: half a step above the largest."""


def decode(raw: Bytes, dtype: str, *, scratch: Float32 | None = None) -> Floating:
    """Numbers from little-endian bytes of a floating dtype, exactly.

    Those of 16 bits come as float32, in `scratch` where one of at least their number is given;
    all others are views of `raw`.
    """
    if dtype not in ("bfloat16", "float16"):
        return raw.view(_KINDS[dtype])
    count = raw.nbytes // 2
    numbers = np.empty(count, np.float32) if scratch is None else scratch[:count]
    if dtype == "bfloat16":
        bits = numbers.view(np.uint32)
        np.copyto(bits, raw.view("<u2"))
        np.left_shift(bits, 16, out=bits)
    else:
        _from_float16(raw, numbers)
    return numbers


def _from_float16(raw: Bytes, numbers: Float32) -> None:
    # What numpy does, five times faster: sign, exponent and digits are moved to where float32 has
    # them, and the exponent, counted from elsewhere there, is put right by a multiplication.
    signed, unsigned = raw.view("<i2"), raw.view("<u2")
    if signed.max(initial=0) >= 0x7C00 or unsigned.max(initial=0) >= 0xFC00:
        np.copyto(numbers, raw.view("<f2"))  # Infinity and NaN do not survive this.
        return
    bits = numbers.view(np.int32)
    np.copyto(bits, signed)
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(0x8FFFE000 - 2**32), out=bits)
    np.multiply(numbers, np.float32(2.0**112), out=numbers)


def encode(numbers: Float64, dtype: str) -> Bytes:
    """Little-endian bytes of `numbers` in a floating dtype, each rounded once, to nearest even.

    What is too large becomes infinite: see `BOUND`.
    """
    if dtype == "bfloat16":
        return _to_bfloat16(numbers).view(np.uint8)
    with np.errstate(over="ignore", under="ignore"):
        return numbers.astype(_KINDS[dtype]).view(np.uint8)


def _to_bfloat16(numbers: Float64) -> npt.NDArray[np.uint16]:
    with np.errstate(over="ignore", under="ignore"):
        nearest = numbers.astype(np.float32)
    bits = nearest.view(np.uint32)
    # Two roundings are one, except where the first one ends half-way between two bfloat16: there
    # the second has to know on which side the number was, so a last digit says so.
    half_way = np.flatnonzero((bits & np.uint32(0xFFFF)) == np.uint32(0x8000))
    if half_way.size:
        rounded, exact = np.abs(nearest[half_way]), np.abs(numbers[half_way])
        side = (exact > rounded).astype(np.int32) - (exact < rounded).astype(np.int32)
        bits.view(np.int32)[half_way] += side
    odd = bits >> np.uint32(16)
    odd &= np.uint32(1)
    bits += odd
    bits += np.uint32(0x7FFF)
    bits >>= np.uint32(16)
    result: npt.NDArray[np.uint16] = bits.astype(np.uint16)
    return result
