"""Tensors read in slices: the one way in which numbers come out of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ladle.checkpoint import Bytes, Checkpoint, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.numbers import Floating, decode

SLICE = 2**18
"""Elements of a slice: 2 MiB of float64, which stays in the cache of a core."""


def slices(spec: TensorSpec, size: int = SLICE) -> Iterator[tuple[int, int]]:
    """(start, stop) of the slices of a tensor, in order; none of an empty one."""
    for start in range(0, spec.numel, size):
        yield start, min(start + size, spec.numel)


def read_bytes(checkpoint: Checkpoint, name: str, start: int, stop: int) -> Bytes:
    """The little-endian bytes of the elements `start..stop` of a tensor."""
    itemsize = ITEMSIZE[checkpoint.layout.tensors[name].dtype]
    raw = np.empty((stop - start) * itemsize, np.uint8)
    checkpoint.read_into(name, start, raw)
    return raw


def read_numbers(checkpoint: Checkpoint, name: str, start: int, stop: int) -> Floating:
    """The same as numbers, for a tensor of a dtype that is averaged."""
    raw = read_bytes(checkpoint, name, start, stop)
    return decode(raw, checkpoint.layout.tensors[name].dtype)
