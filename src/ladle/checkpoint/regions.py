"""Where the elements of a tensor lie in files, and how a run of them is fetched from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ladle.checkpoint.base import Bytes, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.location import is_local

Fetch = Callable[[Path, int, Bytes], None]
"""Fills a buffer from an offset of a file on, if the file is still the one that was opened.

Raises:
    EOFError: the file ends too early; its argument is the file.
"""


class Region(Protocol):
    """Where one tensor is."""

    def read_into(self, spec: TensorSpec, start: int, out: Bytes, fetch: Fetch) -> None:
        """Fill `out` with the elements of the tensor `spec` from `start` on, in row-major order."""
        ...


@dataclass(frozen=True)
class Plain:
    """The elements one after the other, in row-major order."""

    file: Path
    offset: int

    def read_into(self, spec: TensorSpec, start: int, out: Bytes, fetch: Fetch) -> None:
        fetch(self.file, self.offset + start * ITEMSIZE[spec.dtype], out)


@dataclass(frozen=True)
class Strided:
    """The elements in another order; `strides`, in elements, says in which."""

    file: Path
    offset: int
    strides: tuple[int, ...]

    def read_into(self, spec: TensorSpec, start: int, out: Bytes, fetch: Fetch) -> None:
        itemsize = ITEMSIZE[spec.dtype]
        fetch(self.file, self.offset, np.empty(0, np.uint8))  # Only to see that it is unchanged.
        strided = np.lib.stride_tricks.as_strided(
            self._all(spec, fetch),
            spec.shape,
            tuple(s * itemsize for s in self.strides),
            writeable=False,
        )
        # `.flat` copies the slice alone, where reshape would copy the tensor.
        slice_ = strided.flat[start : start + out.nbytes // itemsize]
        out[:] = np.ascontiguousarray(slice_).view(np.uint8)

    def _all(self, spec: TensorSpec, fetch: Fetch) -> np.ndarray[Any, Any]:
        span = 1 + sum((n - 1) * s for n, s in zip(spec.shape, self.strides, strict=True))
        unsigned = np.dtype(f"<u{ITEMSIZE[spec.dtype]}")
        if not is_local(self.file):
            raw = np.empty(span * unsigned.itemsize, np.uint8)
            fetch(self.file, self.offset, raw)
            return raw.view(unsigned)
        try:
            return np.memmap(self.file, unsigned, "r", offset=self.offset, shape=(span,))
        except ValueError as error:
            raise EOFError(self.file) from error


@dataclass(frozen=True)
class Box:
    """Elements of a tensor between two corners: an offset and a size for each dimension."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(o + n for o, n in zip(self.offsets, self.sizes, strict=True))

    @property
    def numel(self) -> int:
        return math.prod(self.sizes)

    def offsets_in(self, outer: Box) -> tuple[int, ...]:
        return tuple(o - before for o, before in zip(self.offsets, outer.offsets, strict=True))

    def intersection(self, other: Box) -> Box:
        """What both have; where that is nothing, some size is 0."""
        offsets = tuple(map(max, self.offsets, other.offsets))
        ends = map(min, self.ends, other.ends)
        return Box(offsets, tuple(max(0, e - o) for e, o in zip(ends, offsets, strict=True)))


@dataclass(frozen=True)
class Tiled:
    """The tensor cut into boxes that fill it, none over another, each stored on its own."""

    pieces: tuple[tuple[Box, Region], ...]

    def read_into(self, spec: TensorSpec, start: int, out: Bytes, fetch: Fetch) -> None:
        elements = out.view(f"<u{ITEMSIZE[spec.dtype]}")
        if not elements.size:
            return
        stop, row, done = start + elements.size, math.prod(spec.shape[1:]), 0
        # There can be a thousand, and few of them have any of these rows.
        pieces = [
            (piece, region)
            for piece, region in self.pieces
            if piece.offsets[0] * row < stop and start < (piece.offsets[0] + piece.sizes[0]) * row
        ]
        for wanted in _boxes_of_run(spec.shape, start, stop):
            target = elements[done : done + wanted.numel].reshape(wanted.sizes)
            done += wanted.numel
            for piece, region in pieces:
                common = wanted.intersection(piece)
                if not common.numel:
                    continue
                corner = common.offsets_in(wanted)
                there = target[
                    tuple(slice(o, o + n) for o, n in zip(corner, common.sizes, strict=True))
                ]
                part = there if there.flags.c_contiguous else np.empty_like(there, order="C")
                # What a piece has of such a box is one run of its own elements.
                first = 0
                for o, n in zip(common.offsets_in(piece), piece.sizes, strict=True):
                    first = first * n + o
                raw = part.reshape(-1).view(np.uint8)
                region.read_into(TensorSpec(spec.dtype, piece.sizes), first, raw, fetch)
                there[...] = part


def _boxes_of_run(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """The elements `start..stop` in row-major order, as few boxes one after the other.

    Each has one index in some first dimensions, a range of the next, and all of the rest.
    """
    below = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    while start < stop:
        d = next(d for d, n in enumerate(below) if start % n == 0 and start + n <= stop)
        offsets = tuple(start // n % size for n, size in zip(below, shape, strict=True))
        count = min((stop - start) // below[d], shape[d] - offsets[d])
        yield Box(offsets, (1,) * d + (count,) + shape[d + 1 :])
        start += count * below[d]
