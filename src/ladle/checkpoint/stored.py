"""Checkpoints whose tensors lie as plain bytes somewhere in files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ladle.checkpoint.base import Bytes, Layout
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.errors import UnreadableCheckpoint


@dataclass(frozen=True)
class Region:
    """Where a tensor's bytes are. `strides`, in elements, only where not row-major."""

    file: Path
    offset: int
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in one or more files, whatever their format: see `Checkpoint`."""

    path: Path
    format: str
    files: tuple[Path, ...]
    layout: Layout
    regions: Mapping[str, Region]
    metadata: Mapping[str, str] = field(default_factory=dict)
    stamps: Mapping[Path, tuple[int, int]] = field(default_factory=dict, compare=False)
    """Size and time of change (ns) of each file when it was opened."""

    def __post_init__(self) -> None:
        if not self.stamps:
            stamps = {file: _stamp(file.stat()) for file in self.files}
            object.__setattr__(self, "stamps", stamps)

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        region = self.regions[name]
        spec = self.layout.tensors[name]
        itemsize = ITEMSIZE[spec.dtype]
        if region.strides is not None:
            count = out.nbytes // itemsize
            self._check_unchanged(region.file, region.file.stat())
            try:
                out[:] = _gather(region, region.strides, spec.shape, itemsize, start, count)
            except ValueError as error:  # of mmap
                raise _ended(region.file, name) from error
            return
        # No mapping of the file: it may be replaced or cut while we read, which would be a
        # crash, and its pages would count as ours.
        with region.file.open("rb", buffering=0) as file:
            self._check_unchanged(region.file, os.fstat(file.fileno()))
            file.seek(region.offset + start * itemsize)
            view, done = out.data, 0
            while done < out.nbytes:
                count = file.readinto(view[done:])
                if not count:
                    raise _ended(region.file, name)
                done += count

    def _check_unchanged(self, file: Path, now: os.stat_result) -> None:
        # A training that still writes would give another model's bytes under this one's header.
        if _stamp(now) != self.stamps[file]:
            raise UnreadableCheckpoint(
                f"{file} changed after it was opened; run this again when nothing writes to it"
            )

    def digest(self) -> str:
        for file in self.files:
            self._check_unchanged(file, file.stat())
        sums = [(_sha256(file), file.name) for file in self.files]
        if len(sums) == 1:
            return sums[0][0]
        lines = "".join(f"{digest}  {name}\n" for digest, name in sums)
        return hashlib.sha256(lines.encode()).hexdigest()


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _ended(file: Path, name: str) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(
        f"{file} ended in the middle of tensor {name!r}; it was cut or replaced while being read, "
        "so copy it again"
    )


def _gather(
    region: Region,
    strides: tuple[int, ...],
    shape: tuple[int, ...],
    itemsize: int,
    start: int,
    count: int,
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Elements `start..start+count`, in row-major order, of a tensor stored in another order."""
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    unsigned = np.dtype(f"<u{itemsize}")
    mapped = np.memmap(region.file, dtype=unsigned, mode="r", offset=region.offset, shape=(span,))
    strided = np.lib.stride_tricks.as_strided(
        mapped, shape, tuple(s * itemsize for s in strides), writeable=False
    )
    # `.flat` copies the slice alone, where reshape would copy the tensor.
    return np.ascontiguousarray(strided.flat[start : start + count]).view(np.uint8)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
