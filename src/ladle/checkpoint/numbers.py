"""Numbers from the bytes of tensors and back: exact out of every dtype, one rounding into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ladle.checkpoint.base import Bytes
from ladle.checkpoint.dtypes import ITEMSIZE

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Floating = np.ndarray[Any, np.dtype[np.floating[Any]]]

_KINDS = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}

_BLOCK = 2**15

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


def encode(numbers: Float64, dtype: str, *, out: Bytes | None = None) -> Bytes:
    """Little-endian bytes of `numbers` in a floating dtype, each rounded once, to nearest even.

    They are written into `out`, where that is given. What is too large becomes infinite: see
    `BOUND`.
    """
    values = np.empty(numbers.size * ITEMSIZE[dtype], np.uint8) if out is None else out
    # In parts that a core's own cache holds, with all that is needed on the way.
    for start in range(0, numbers.size, _BLOCK):
        block = numbers[start : start + _BLOCK]
        if dtype == "bfloat16":
            values.view(np.uint16)[start : start + _BLOCK] = _to_bfloat16(block)
        else:
            with np.errstate(over="ignore", under="ignore"):
                values.view(_KINDS[dtype])[start : start + _BLOCK] = block
    return values


def _to_bfloat16(numbers: Float64) -> npt.NDArray[np.uint32]:
    # By way of float32 there would be two roundings. Here is one: to add a number so large that
    # the sum's last digit is the one wanted, and to take it away again.
    bits = numbers.view(np.uint64) & np.uint64(0x7FF0000000000000)
    power = bits.view(np.float64)
    np.clip(power, 2.0**-126, 2.0**128, out=power)
    power *= 1.5 * 2.0**45
    rounded = numbers + power
    rounded -= power
    np.copysign(rounded, numbers, out=rounded)  # It makes -0.0 positive.
    with np.errstate(over="ignore"):
        result: npt.NDArray[np.uint32] = rounded.astype(np.float32).view(np.uint32)
    result >>= np.uint32(16)
    return result
