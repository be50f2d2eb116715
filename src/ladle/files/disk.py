"""Room on disks, and what was written being on them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ladle.errors import NoSpace


def check_room(folder: Path, nbytes: int) -> None:
    """Check that `nbytes` fit on the disk of an existing `folder`.

    Raises:
        NoSpace: they do not.
    """
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise NoSpace(
            f"{folder} has {free / 1e9:.1f} GB free where {nbytes / 1e9:.1f} GB are needed; "
            "make room or name another --output"
        )


@contextmanager
def telling_full_disk(path: Path) -> Iterator[None]:
    """Say it in our words where the disk fills up, or allows no such file, after all.

    Raises:
        NoSpace: it does.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NoSpace(
            f"{path} cannot be written ({error.strerror}); make room or name another --output"
        ) from error


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder, and needs no sync of one.
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """The same for all that a folder has."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            sync(file)
    sync(folder)
