"""Where the elements of a tensor lie in files, and how a run of them is fetched from there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ladle.checkpoint.base import Bytes, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.location import is_local

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
class Tiled:
    """The tensor cut into boxes, each stored on its own: (offsets, sizes, where).

    The boxes fill it, and none lies over another.
    """

    boxes: tuple[tuple[tuple[int, ...], tuple[int, ...], Region], ...]

    def read_into(self, spec: TensorSpec, start: int, out: Bytes, fetch: Fetch) -> None:
        unsigned = np.dtype(f"<u{ITEMSIZE[spec.dtype]}")
        stop = start + out.nbytes // unsigned.itemsize
        row = math.prod(spec.shape[1:])
        # Whole rows: boxes may be cut along any dimension.
        first, last = start // row, -(-stop // row)
        rows = np.empty((last - first, *spec.shape[1:]), unsigned)
        for offsets, sizes, region in self.boxes:
            begin, end = max(first, offsets[0]), min(last, offsets[0] + sizes[0])
            if begin >= end:
                continue
            part = np.empty((end - begin, *sizes[1:]), unsigned)
            inner = (begin - offsets[0]) * math.prod(sizes[1:])
            box = TensorSpec(spec.dtype, sizes)
            region.read_into(box, inner, part.reshape(-1).view(np.uint8), fetch)
            across = tuple(slice(o, o + n) for o, n in zip(offsets[1:], sizes[1:], strict=True))
            place = (slice(begin - first, end - first), *across)
            rows[place] = part
        out[:] = rows.reshape(-1)[start - first * row : stop - first * row].view(np.uint8)
