"""Telling checkpoints apart without reading them."""

from __future__ import annotations

import hashlib

import numpy as np

from ladle.checkpoint import Checkpoint
from ladle.merge.slices import read_bytes, slices

_TENSORS = 32
_ELEMENTS = 64


def fingerprint(checkpoint: Checkpoint) -> bytes:
    """Equal for equal tensors, and cheap: the layout, and both ends of some tensors."""
    tensors = sorted(checkpoint.layout.tensors.items())
    digest = hashlib.sha256(repr(tensors).encode())
    step = -(-len(tensors) // _TENSORS) or 1
    for name, spec in tensors[::step]:
        ends = {(0, min(_ELEMENTS, spec.numel)), (max(0, spec.numel - _ELEMENTS), spec.numel)}
        for start, stop in sorted(ends):
            digest.update(read_bytes(checkpoint, name, start, stop).data)
    return digest.digest()


def same_tensors(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether all tensors of two checkpoints with one layout are equal, byte for byte."""
    return all(
        np.array_equal(read_bytes(one, name, *place), read_bytes(other, name, *place))
        for name, spec in one.layout.tensors.items()
        for place in slices(spec)
    )
