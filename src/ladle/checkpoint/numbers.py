"""Numbers from the bytes of tensors and back: exact out of every dtype, one rounding into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ladle.checkpoint.base import Bytes

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
