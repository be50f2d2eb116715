"""Where outputs are worked on, and how they are told from what is finished."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal, get_args

from ladle.location import is_local

Mark = Literal["soup.json", "landscape.json", "comparison.json"]
"""Lies in every finished output and tells what it is, so that no command replaces another's."""

MARKS: tuple[Mark, ...] = get_args(Mark)

CLAIM = ".ladle-at-work"
"""Lies in every unfinished output; on a disk, the command that works on it holds a lock on it."""


def cache_folder() -> Path:
    """Where ladle keeps what it fetched, or computed for long, for other commands too.

    $LADLE_CACHE, $XDG_CACHE_HOME/ladle or ~/.cache/ladle.
    """
    if own := os.environ.get("LADLE_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "ladle"
    return Path.home() / ".cache" / "ladle"


def part_of(path: Path) -> Path:
    """Where this machine keeps the work on `path` until it is complete; always on its disks."""
    if is_local(path):
        return shared_part_of(path)
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return cache_folder() / "outputs" / f"{path.name}-{digest}.part"


def shared_part_of(path: Path) -> Path:
    """Where other machines may find what they need to go on with the work on `path`."""
    return path.with_name(path.name + ".part")


def is_unfinished(folder: Path) -> bool:
    """Whether this is an output that a ladle command is, or was, at work on."""
    if not is_local(folder):
        return (folder / CLAIM).exists()
    if not folder.is_dir() or folder.suffix != ".part":
        return False
    return (folder / CLAIM).is_file() or not any(folder.iterdir())
