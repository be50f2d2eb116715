"""Tensors read in slices: the one way in which numbers come out of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ladle.checkpoint import Bytes, Checkpoint, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.numbers import Float32, Float64, Floating, decode, packed
from ladle.native import Packed, is_built

SLICE = 2**19
"""Elements of a slice: enough that threads seldom wait for each other's interpreter."""


class Scratch:
    """Memory that one thread uses again for every slice.

    New memory for each would cost more than the arithmetic: the system has to clear it.
    """

    def __init__(self) -> None:
        self._raw = np.empty(0, np.uint8)
        self._numbers: Float32 = np.empty(0, np.float32)
        self._total: Float64 = np.empty(0)
        self._encoded = np.empty(0, np.uint8)

    def raw(self, nbytes: int) -> Bytes:
        if self._raw.nbytes < nbytes:
            self._raw = np.empty(nbytes, np.uint8)
        return self._raw[:nbytes]

    def encoded(self, nbytes: int) -> Bytes:
        if self._encoded.nbytes < nbytes:
            self._encoded = np.empty(nbytes, np.uint8)
        return self._encoded[:nbytes]

    def total(self, count: int) -> Float64:
        if len(self._total) < count:
            self._total = np.empty(count)
        return self._total[:count]

    def numbers(self, count: int) -> Float32:
        if len(self._numbers) < count:
            self._numbers = np.empty(count, np.float32)
        return self._numbers


def slices(spec: TensorSpec, size: int = SLICE) -> Iterator[tuple[int, int]]:
    """(start, stop) of the slices of a tensor, in order; none of an empty one."""
    for start in range(0, spec.numel, size):
        yield start, min(start + size, spec.numel)


def read_bytes(
    checkpoint: Checkpoint, name: str, start: int, stop: int, scratch: Scratch | None = None
) -> Bytes:
    """The little-endian bytes of the elements `start..stop` of a tensor.

    In `scratch` they last until it is used again.
    """
    nbytes = (stop - start) * ITEMSIZE[checkpoint.layout.tensors[name].dtype]
    raw = scratch.raw(nbytes) if scratch else np.empty(nbytes, np.uint8)
    checkpoint.read_into(name, start, raw)
    return raw


def read_numbers(
    checkpoint: Checkpoint, name: str, start: int, stop: int, scratch: Scratch | None = None
) -> Floating:
    """The same as numbers, for a tensor of a dtype that is averaged."""
    dtype = checkpoint.layout.tensors[name].dtype
    raw = read_bytes(checkpoint, name, start, stop, scratch)
    return decode(raw, dtype, scratch=scratch.numbers(stop - start) if scratch else None)


def read_packed(
    checkpoint: Checkpoint, name: str, start: int, stop: int, scratch: Scratch
) -> Packed:
    """The same as `weighted_sum` takes them: as they are stored, where there is a kernel for it."""
    if not is_built():
        return read_numbers(checkpoint, name, start, stop, scratch)
    dtype = checkpoint.layout.tensors[name].dtype
    return packed(read_bytes(checkpoint, name, start, stop, scratch), dtype)
