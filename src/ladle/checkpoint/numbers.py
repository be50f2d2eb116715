"""Numbers from the bytes of tensors and back: exact out of every dtype, one rounding into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ladle import native
from ladle.checkpoint.base import Bytes
from ladle.checkpoint.dtypes import ITEMSIZE

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Floating = np.ndarray[Any, np.dtype[np.floating[Any]]]

_PACKED = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4", "float64": "<f8"}
_KINDS = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}

_BLOCK = 2**17

_EXPONENT = {"bfloat16": 0x7F80, "float16": 0x7C00}
"""Of infinity, and of what is no number."""


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


def packed(raw: Bytes, dtype: str) -> native.Packed:
    """A view of bytes of a floating dtype as the numbers they are; bfloat16 goes as uint16."""
    return raw.view(_PACKED[dtype])


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

    They are written into `out`, where that is given. What is too large becomes infinite.
    """
    values = np.empty(numbers.size * ITEMSIZE[dtype], np.uint8) if out is None else out
    if native.encode(numbers, dtype, values):
        return values
    if dtype == "bfloat16":
        _to_bfloat16(numbers, values.view(np.uint16))
    else:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.copyto(values.view(_KINDS[dtype]), numbers, casting="same_kind")
    return values


def all_finite(values: Bytes, dtype: str) -> bool:
    """Whether there is no NaN or infinity among the bytes of a floating dtype."""
    if dtype in _EXPONENT:
        sizes = values.view("<u2") & np.uint16(0x7FFF)
        return bool(sizes.max(initial=0) < _EXPONENT[dtype])
    return bool(np.isfinite(values.view(_KINDS[dtype])).all())


def _to_bfloat16(numbers: Float64, values: npt.NDArray[np.uint16]) -> None:
    # By way of float32 alone there would be two roundings. So the digits that bfloat16 lacks are
    # rounded away before, as an integer's would be; what is left is a float32 exactly.
    room = np.empty(min(_BLOCK, numbers.size), np.uint64)
    narrow = np.empty(room.size, np.float32)
    for start in range(0, numbers.size, _BLOCK):
        block = numbers[start : start + _BLOCK]
        given, bits, single = block.view(np.uint64), room[: block.size], narrow[: block.size]
        np.right_shift(given, np.uint64(45), out=bits)
        np.bitwise_and(bits, np.uint64(1), out=bits)
        np.add(bits, np.uint64(2**44 - 1), out=bits)
        np.add(bits, given, out=bits)
        np.bitwise_and(bits, np.uint64(2**64 - 2**45), out=bits)
        pattern, magnitude = single.view(np.uint32), bits.view(np.uint32)[: block.size]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.copyto(single, bits.view(np.float64), casting="same_kind")
            np.bitwise_and(pattern, np.uint32(0x7FFFFFFF), out=magnitude)
            np.subtract(magnitude, np.uint32(1), out=magnitude)  # Zero, which is fine, comes last.
            if magnitude.min() < 0x007FFFFF or not np.isfinite(block.sum()):
                single[...] = _with_eight_digits(block)
        np.right_shift(pattern, np.uint32(16), out=pattern)
        np.copyto(values[start : start + _BLOCK], pattern, casting="unsafe")


def _with_eight_digits(numbers: Float64) -> Float64:
    """Rounded to the digits of a bfloat16: also those so small that they have fewer, and NaN."""
    # To add a number so large that the sum's last digit is the one wanted, and take it away again.
    power = (numbers.view(np.uint64) & np.uint64(0x7FF0000000000000)).view(np.float64)
    power = np.clip(power, 2.0**-126, 2.0**128) * (1.5 * 2.0**45)
    rounded: Float64 = np.copysign((numbers + power) - power, numbers)  # It loses the sign of -0.0.
    return rounded
