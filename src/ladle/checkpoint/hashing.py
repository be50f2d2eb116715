"""Sums of files that are read anyway: hashing must not cost a second look at the data."""

from __future__ import annotations

import hashlib
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ladle.checkpoint.base import Bytes
from ladle.checkpoint.reading import fetch_remote, fill, opened_raw
from ladle.location import is_local

_BLOCK = 1 << 20
"""Bytes, read at once where nobody else reads them; what is skipped up to here is read too."""


class RunningSha256:
    """The sha256 of a file, fed with what others read of it, from front to back.

    What they leave out or read in another order is read here, so the sum is right in any case.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sum = hashlib.sha256()
        self._at = 0
        self._digest: str | None = None
        self._lock = threading.Lock()

    @classmethod
    def known(cls, path: Path, digest: str) -> RunningSha256:
        """One that somebody else has computed."""
        found = cls(path)
        found._digest = digest
        return found

    def __reduce__(self) -> tuple[type[RunningSha256], tuple[Path]]:
        return RunningSha256, (self._path,)  # Another process begins anew.

    def feed(self, offset: int, chunk: Bytes) -> None:
        """Take the bytes of the file from `offset` on."""
        with self._lock:
            skipped = offset - self._at
            if self._digest is not None or not -chunk.nbytes < skipped <= _BLOCK:
                return
            self._read_on(offset)
            self._update(chunk[self._at - offset :])

    def finish(self) -> str:
        """The sum of the whole file, in hexadecimal digits."""
        with self._lock:
            if self._digest is None:
                self._read_on(self._path.stat().st_size)
                self._digest = self._sum.hexdigest()
            return self._digest

    def _read_on(self, stop: int) -> None:
        if self._at >= stop:
            return
        block = np.empty(min(_BLOCK, stop - self._at), np.uint8)
        with opened_raw(self._path) if is_local(self._path) else nullcontext() as descriptor:
            while self._at < stop:
                part = block[: stop - self._at]
                if descriptor is None:
                    fetch_remote(self._path, self._at, part)
                elif fill(descriptor, self._at, part) < part.nbytes:
                    raise EOFError(self._path)
                self._update(part)

    def _update(self, chunk: Bytes) -> None:
        self._sum.update(chunk.data)
        self._at += chunk.nbytes
