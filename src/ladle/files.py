"""Output that appears complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ladle.errors import NoSpace, OutputExists

_MARKS = ("soup.json", "sweep.json", "demo.json")
"""A folder with one of these was written by ladle, so ladle may replace it."""


def part_of(path: Path) -> Path:
    """Where the work on `path` is kept until it is complete."""
    return path.with_name(path.name + ".part")


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Check that `path` may be written, before any work is done.

    Raises:
        OutputExists: something is there that may not, or must not, be replaced.
    """
    _recover(path)
    if not path.exists():
        return
    if not overwrite:
        raise OutputExists(f"{path} exists; name another --output or add --overwrite")
    if path.is_dir() and not any((path / mark).is_file() for mark in _MARKS):
        raise OutputExists(
            f"{path} was not written by ladle, so --overwrite does not replace it; remove it "
            "yourself or name another --output"
        )


@contextmanager
def new_file(path: Path, *, nbytes: int = 0) -> Iterator[Path]:
    """A name to write to; the file becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    check_room(path.parent, nbytes)
    part = part_of(path)
    try:
        yield part
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def publish_folder(path: Path) -> None:
    """Make the finished `part_of(path)` become `path`, replacing an older folder.

    A kill at any moment leaves the old or the new folder whole; between the two renames the old
    one is called `path.old`, and the next command that writes here brings it back.
    """
    part, old = part_of(path), _old(path)
    for file in sorted(part.rglob("*")):
        if file.is_file():
            _sync(file)
    _sync(part)
    if path.exists():
        path.rename(old)
    part.rename(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


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


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")


def _recover(path: Path) -> None:
    old = _old(path)
    if old.is_dir() and any((old / mark).is_file() for mark in _MARKS):
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder, and needs no sync of one.
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
