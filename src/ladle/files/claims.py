"""Unfinished outputs, each in the hands of one process of this machine."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ladle.errors import OutputExists, UploadFailed
from ladle.files.places import CLAIM, is_unfinished, part_of, shared_part_of
from ladle.files.uploads import check_writable, remove_uploaded
from ladle.location import is_local

_LOCK_SECONDS = 0.2
"""Between two looks at a lock that another holds."""


@contextmanager
def claimed(path: Path, *, patience: float = 0.0) -> Iterator[Path]:
    """`part_of(path)`, new or as an interrupted command left it, for this process alone.

    Where another has it, it may take so many seconds of `patience` until that one is gone.

    Raises:
        OutputExists: what is there is not ladle's unfinished work, or another ladle is at it.
        BadInput: `path` is a URL, and nothing can be written there.
    """
    part = part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(part) and not is_unfinished(part):
        raise OutputExists(
            f"{part} is in the way, and not unfinished work of ladle; move it away or name another "
            "--output"
        )
    if not is_local(path):
        check_writable(path)
    deadline = time.monotonic() + patience
    while True:
        part.mkdir(exist_ok=True)
        with (part / CLAIM).open("ab") as claim:
            if _lock(claim, part, is_last=time.monotonic() >= deadline) and _is_in(claim, part):
                yield part
                return
        time.sleep(_LOCK_SECONDS)


def clear_claimed(part: Path, *, keep: Collection[str] = ()) -> None:
    """Empty a claimed folder of what an interrupted command left, but for what has these names."""
    for entry in part.iterdir():
        if entry.name in (CLAIM, *keep):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def discard(path: Path) -> None:
    """Remove all work on `path`, which this process has claimed, as far as it can be removed."""
    shutil.rmtree(part_of(path), ignore_errors=True)
    if not is_local(path):
        with suppress(UploadFailed):
            remove_uploaded(shared_part_of(path))


def _lock(claim: BinaryIO, part: Path, *, is_last: bool) -> bool:
    """Whether the lock is ours now; if not, and this was the last look, that is an error."""
    if sys.platform == "win32":
        return True  # An open file cannot be renamed or removed there, which is lock enough.
    import fcntl

    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not is_last:
            return False
        raise OutputExists(
            f"another ladle is at work on {part}; wait for it or name another --output"
        ) from error
    return True


def _is_in(claim: BinaryIO, part: Path) -> bool:
    """Whether an open file is still the one in `part`, which whoever had it may have finished."""
    try:
        return os.path.samestat(os.fstat(claim.fileno()), (part / CLAIM).stat())
    except FileNotFoundError:
        return False
