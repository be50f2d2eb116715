"""Checkpoints whose tensors lie as plain bytes somewhere in files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ladle.checkpoint.base import Bytes, Envelope, Layout
from ladle.checkpoint.hashing import RunningSha256
from ladle.checkpoint.near import Near
from ladle.checkpoint.reading import fetch_remote, fill, opened_raw
from ladle.checkpoint.regions import Region
from ladle.errors import UnreadableCheckpoint
from ladle.location import is_local


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in one or more files, whatever their format: see `Checkpoint`."""

    path: Path
    format: str
    files: tuple[Path, ...]
    layout: Layout
    regions: Mapping[str, Region]
    metadata: Mapping[str, str] = field(default_factory=dict)
    envelope: Envelope = field(default_factory=Envelope)
    unhashed: frozenset[Path] = frozenset()
    """Files that differ between two saves of the same weights: they are not in the digest."""
    stamps: Mapping[Path, tuple[int, int]] = field(default_factory=dict, compare=False)
    """Size and time of change (ns) of each file when it was opened."""

    sums: dict[Path, RunningSha256] = field(default_factory=dict, compare=False, repr=False)
    near: Near = field(default_factory=Near, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.stamps:
            stamps = {file: _stamp(file.stat()) for file in self.files}
            object.__setattr__(self, "stamps", stamps)

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        try:
            self.regions[name].read_into(self.layout.tensors[name], start, out, self._fetch)
        except EOFError as error:
            raise UnreadableCheckpoint(
                f"{error} ended in the middle of tensor {name!r}; it was cut or replaced while "
                "being read, so copy it again"
            ) from error

    def hash_while_reading(self) -> None:
        for file in self.files:
            if file not in self.unhashed:
                self.sums.setdefault(file, RunningSha256(file))

    def one_by_one(self) -> dict[Path, StoredCheckpoint]:
        """Each file that is in the digest, as a checkpoint whose digest is the file's sha256."""
        hashed = [file for file in self.files if file not in self.unhashed]
        return {
            file: replace(
                self,
                files=(file,),
                layout=Layout({}),
                regions={},
                metadata={},
                envelope=Envelope(),
                stamps={file: self.stamps[file]},
                sums={},
            )
            for file in hashed
        }

    def know(self, sums: Mapping[Path, str]) -> None:
        """Take the sha256 of files from who has computed them."""
        self.sums.update({file: RunningSha256.known(file, one) for file, one in sums.items()})

    def _fetch(self, file: Path, offset: int, out: Bytes) -> None:
        self._read(file, offset, out)
        if file in self.sums:
            self.sums[file].feed(offset, out)

    def _read(self, file: Path, offset: int, out: Bytes) -> None:
        if not is_local(file):
            self._read_remote(file, offset, out)
            return
        # No mapping of the file: it may be replaced or cut while we read, which would be a
        # crash, and its pages would count as ours.
        with opened_raw(file) as descriptor:
            self._check_unchanged(file, os.fstat(descriptor))
            if fill(descriptor, offset, out) < out.nbytes:
                raise EOFError(file)

    def _read_remote(self, file: Path, offset: int, out: Bytes) -> None:
        def check() -> None:
            self._check_unchanged(file, file.stat())

        copy = self.near.copy_of(file, self.stamps[file][0], out.nbytes, check)
        if copy is None:
            check()
            fetch_remote(file, offset, out)
            return
        with opened_raw(copy) as descriptor:
            if fill(descriptor, offset, out) < out.nbytes:
                raise EOFError(file)

    def _check_unchanged(self, file: Path, now: os.stat_result) -> None:
        # A training that still writes would give another model's bytes under this one's header.
        if _stamp(now) != self.stamps[file]:
            raise UnreadableCheckpoint(
                f"{file} changed after it was opened; run this again when nothing writes to it"
            )

    def digest(self) -> str:
        for file in self.files:
            self._check_unchanged(file, file.stat())
        self.hash_while_reading()
        try:
            sums = [(self.sums[f].finish(), f.name) for f in self.files if f in self.sums]
        except EOFError as error:
            raise UnreadableCheckpoint(
                f"{error} was cut while being read; copy it again"
            ) from error
        if len(sums) == 1:
            return sums[0][0]
        lines = "".join(f"{digest}  {name}\n" for digest, name in sums)
        return hashlib.sha256(lines.encode()).hexdigest()


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns
