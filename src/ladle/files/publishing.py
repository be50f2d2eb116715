"""Finished outputs: what may be replaced, and how the new one takes its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ladle.errors import OutputExists
from ladle.files.disk import check_room, sync, sync_all, telling_full_disk
from ladle.files.places import CLAIM, MARKS, Mark, part_of
from ladle.files.uploads import (
    finish_upload,
    is_whole,
    publish_uploaded,
    remove_uploaded,
    upload_file,
)
from ladle.location import is_local


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
    if not _recover(path):
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
    part = part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    check_room(part.parent, nbytes)
    try:
        with telling_full_disk(path):
            yield part
            publish_file(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def publish_file(part: Path, path: Path) -> None:
    """Make a finished file become `path`."""
    if not is_local(path):
        upload_file(part, path)
        part.unlink()
        return
    sync(part)
    part.replace(path)
    sync(path.parent)


def publish_folder(path: Path, made_elsewhere: Mapping[str, Path] | None = None) -> None:
    """Make the finished `part_of(path)` become `path`, replacing an older folder.

    A kill at any moment leaves the old or the new folder whole; between the two renames the old
    one has another name, and the next command that writes here brings it back. Behind a URL, where
    nothing is renamed at once, a kill in the last moments leaves neither, and all the work.

    `made_elsewhere` are files that other machines wrote: what they will be called within the
    folder, and where they lie, in a folder of their own within `shared_part_of(path)`.
    """
    part, old = part_of(path), _old(path)
    if not is_local(path):
        publish_uploaded(part, path, made_elsewhere or {})
        shutil.rmtree(part)
        return
    for name, place in (made_elsewhere or {}).items():
        place.replace(part / name)
    for folder in {place.parent for place in (made_elsewhere or {}).values()}:
        shutil.rmtree(folder, ignore_errors=True)  # With what lost jobs had begun.
    sync_all(part)
    if os.path.lexists(path):
        path.rename(old)
    try:
        part.rename(path)
    except BaseException:
        if os.path.lexists(old):
            old.rename(path)
        raise
    (path / CLAIM).unlink(missing_ok=True)
    sync(path.parent)
    _remove(old)


def is_there(path: Path) -> bool:
    """Whether a finished output is there."""
    return os.path.lexists(path) if is_local(path) else is_whole(path)


def remove_folder(path: Path) -> None:
    """Remove a finished folder of ours."""
    if is_local(path):
        shutil.rmtree(path)
    else:
        remove_uploaded(path)


def publish_new_folder(part: Path, path: Path) -> bool:
    """Make a finished folder become `path`, unless something is there; tells whether it did."""
    sync_all(part)
    try:
        part.rename(path)
    except OSError:
        if not os.path.lexists(path):
            raise
        return False
    sync(path.parent)
    return True


def _old(path: Path) -> Path:
    # A name that nobody would give to a copy of their own: `soup.old` may be one.
    return path.with_name(f".{path.name}.replaced-by-ladle")


def _recover(path: Path) -> bool:
    """Finish what a kill between the last steps of `publish_folder` left undone.

    Returns whether there is anything then.
    """
    if not is_local(path):
        return finish_upload(path)
    if path.is_dir():
        (path / CLAIM).unlink(missing_ok=True)
    old = _old(path)
    if os.path.lexists(old):
        if os.path.lexists(path) or not any((old / mark).is_file() for mark in MARKS):
            _remove(old)
        else:
            old.rename(path)
    return os.path.lexists(path)


def _remove(old: Path) -> None:
    if old.is_symlink():
        old.unlink()
        return
    # The mark first: a folder without it was being removed, and is not brought back.
    for mark in MARKS:
        (old / mark).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
