"""Output that appears complete or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from ladle.errors import NoSpace, OutputExists

Mark = Literal["soup.json", "landscape.json", "comparison.json"]
"""Lies in every finished output and tells what it is, so that no command replaces another's."""

_CLAIM = ".ladle-at-work"
"""Lies in every unfinished output; the command that works on it holds a lock on it."""

_LOCK_SECONDS = 0.2
"""Between two looks at a lock that another holds."""


def as_json(content: object, *, indent: int | None = None) -> str:
    """JSON text; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def part_of(path: Path) -> Path:
    """Where the work on `path` is kept until it is complete."""
    return path.with_name(path.name + ".part")


def refuse_existing(
    path: Path,
    *,
    overwrite: bool,
    is_file: bool = False,
    is_ours: bool = False,
    mark: Mark = "soup.json",
) -> None:
    """Check that `path` may be written, as a file or a folder, before any work is done.

    What is there is replaced only if ladle wrote it: a folder tells by its `mark`, of a file
    `is_ours` tells.

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
    if not (is_ours if is_file else (path / mark).is_file()):
        raise OutputExists(
            f"{path} is no {mark.removesuffix('.json')} that ladle wrote, so --overwrite does not "
            "replace it; remove it yourself or name another --output"
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
            publish_file(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def claimed(path: Path, *, patience: float = 0.0) -> Iterator[Path]:
    """`part_of(path)`, new or as an interrupted command left it, for this process alone.

    Where another has it, it may take so many seconds of `patience` until that one is gone.

    Raises:
        OutputExists: what is there is not ladle's unfinished work, or another ladle is at it.
    """
    part = part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(part) and not is_unfinished(part):
        raise OutputExists(
            f"{part} is in the way, and not unfinished work of ladle; move it away or name another "
            "--output"
        )
    deadline = time.monotonic() + patience
    while True:
        part.mkdir(exist_ok=True)
        with (part / _CLAIM).open("ab") as claim:
            if _lock(claim, part, is_last=time.monotonic() >= deadline) and _is_in(claim, part):
                yield part
                return
        time.sleep(_LOCK_SECONDS)


def is_unfinished(folder: Path) -> bool:
    """Whether this is an output that a ladle command is, or was, at work on."""
    if not folder.is_dir() or folder.suffix != ".part":
        return False
    return (folder / _CLAIM).is_file() or not any(folder.iterdir())


def clear_claimed(part: Path, *, keep: Collection[str] = ()) -> None:
    """Empty a claimed folder of what an interrupted command left, but for what has these names."""
    for entry in part.iterdir():
        if entry.name in (_CLAIM, *keep):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def cache_folder() -> Path:
    """Where ladle keeps what it fetched, or computed for long, for other commands too.

    $LADLE_CACHE, $XDG_CACHE_HOME/ladle or ~/.cache/ladle.
    """
    if own := os.environ.get("LADLE_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "ladle"
    return Path.home() / ".cache" / "ladle"


def publish_file(part: Path, path: Path) -> None:
    """Make a finished file become `path`."""
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def publish_folder(path: Path) -> None:
    """Make the finished `part_of(path)` become `path`, replacing an older folder.

    A kill at any moment leaves the old or the new folder whole; between the two renames the old
    one has another name, and the next command that writes here brings it back.
    """
    part, old = part_of(path), _old(path)
    _sync_all(part)
    if os.path.lexists(path):
        path.rename(old)
    try:
        part.rename(path)
    except BaseException:
        if os.path.lexists(old):
            old.rename(path)
        raise
    (path / _CLAIM).unlink(missing_ok=True)
    _sync(path.parent)
    _remove(old)


def publish_new_folder(part: Path, path: Path) -> bool:
    """Make a finished folder become `path`, unless something is there; tells whether it did."""
    _sync_all(part)
    try:
        part.rename(path)
    except OSError:
        if not os.path.lexists(path):
            raise
        return False
    _sync(path.parent)
    return True


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
        return os.path.samestat(os.fstat(claim.fileno()), (part / _CLAIM).stat())
    except FileNotFoundError:
        return False


def _old(path: Path) -> Path:
    # A name that nobody would give to a copy of their own: `soup.old` may be one.
    return path.with_name(f".{path.name}.replaced-by-ladle")


def _recover(path: Path) -> None:
    """Finish what a kill between the last steps of `publish_folder` left undone."""
    if path.is_dir():
        (path / _CLAIM).unlink(missing_ok=True)
    old = _old(path)
    if not os.path.lexists(old):
        return
    if os.path.lexists(path) or not any((old / mark).is_file() for mark in get_args(Mark)):
        _remove(old)
    else:
        old.rename(path)


def _remove(old: Path) -> None:
    if old.is_symlink():
        old.unlink()
        return
    # The mark first: a folder without it was being removed, and is not brought back.
    for mark in get_args(Mark):
        (old / mark).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)


def _sync_all(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder, and needs no sync of one.
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
