"""Copies of remote files on this machine, for whoever reads them again and again."""

from __future__ import annotations

import atexit
import functools
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ladle.errors import OutputExists
from ladle.files import cache_folder, claimed, discard


class Near:
    """Knows which files were read once already, and has copies of those.

    An average reads a file once, by ranges. To choose among soups is to read the same files many
    times, each slice a request or two; from the second time on they are on a disk of this machine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: Counter[Path] = Counter()
        self._copies: dict[Path, Path | None] = {}

    def __reduce__(self) -> tuple[type[Near], tuple[()]]:
        return Near, ()  # Another machine has none of it.

    def copy_of(
        self, file: Path, nbytes: int, wanted: int, check: Callable[[], None]
    ) -> Path | None:
        """Where a copy of a file of `nbytes` is, of which so many are wanted now; None for none.

        Where this machine has no room for one there never is. `check` raises where the file is not
        what it was.
        """
        with self._lock:
            self._read[file] += wanted
            if self._read[file] > nbytes and file not in self._copies:
                copy = _copied(file, nbytes)
                check()
                self._copies[file] = copy
            return self._copies.get(file)


def _copied(file: Path, nbytes: int) -> Path | None:
    folder = _folder()
    if shutil.disk_usage(folder).free < nbytes:
        return None
    remote: Any = file
    copy = folder / uuid.uuid4().hex
    remote.fs.get_file(remote.path, str(copy))
    return copy


@functools.cache
def _folder() -> Path:
    """Of this process, until it ends; what is left of processes that were killed is removed."""
    near = cache_folder() / "near"
    for part in near.glob("*.part"):
        with suppress(OutputExists), claimed(part.with_suffix("")):
            discard(part.with_suffix(""))
    ours = near / uuid.uuid4().hex
    held = ExitStack()
    atexit.register(held.close)
    held.callback(discard, ours)
    return held.enter_context(claimed(ours))
