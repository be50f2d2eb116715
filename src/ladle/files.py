"""Output that appears complete or not at all."""

from __future__ import annotations

import errno
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


def refuse_existing(path: Path, *, overwrite: bool, is_file: bool = False) -> None:
    """Check that `path` may be written, as a file or a folder, before any work is done.

    Raises:
        OutputExists: something is there that may not, or must not, be replaced.
    """
    if path.name in ("", ".."):
        raise OutputExists(f"{path} is a folder of yours; name a new one as --output")
    _recover(path)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputExists(f"{path} exists; name another --output or add --overwrite")
    if path.is_dir() == is_file:
        raise OutputExists(
            f"{path} is a {'folder' if path.is_dir() else 'file'}, which --overwrite does not "
            f"replace by a {'file' if is_file else 'folder'}; name another --output"
        )
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
        with telling_full_disk(path):
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
    one has another name, and the next command that writes here brings it back.
    """
    part, old = part_of(path), _old(path)
    for file in sorted(part.rglob("*")):
        if file.is_file():
            _sync(file)
    _sync(part)
    if os.path.lexists(path):
        path.rename(old)
    try:
        part.rename(path)
    except BaseException:
        if os.path.lexists(old):
            old.rename(path)
        raise
    _sync(path.parent)
    _remove(old)


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


def _old(path: Path) -> Path:
    # A name that nobody would give to a copy of their own: `soup.old` may be one.
    return path.with_name(f".{path.name}.replaced-by-ladle")


def _recover(path: Path) -> None:
    old = _old(path)
    if os.path.lexists(path) or not any((old / mark).is_file() for mark in _MARKS):
        _remove(old)
    else:
        old.rename(path)


def _remove(old: Path) -> None:
    if old.is_symlink():
        old.unlink()
        return
    # The marks first: a folder without any was being removed, and is not brought back.
    for mark in _MARKS:
        (old / mark).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder, and needs no sync of one.
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
