"""Where files lie: paths of this machine, and URLs of any store that fsspec knows.

A URL becomes a `UPath`, which has the methods of `pathlib.Path` and is typed as one here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ladle.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from typing_extensions import TypeIs


def located(given: str | Path) -> Path:
    """The path, or the path-like object of a URL such as `s3://bucket/runs`.

    Raises:
        BadInput: the URL is of no store that fsspec knows, or needs a library that is missing.
    """
    if not isinstance(given, str):
        return given
    if "://" not in given:
        return Path(given).expanduser()
    try:
        from upath import UPath
    except ImportError:
        raise MissingExtra("universal-pathlib (for URLs)", "remote") from None
    try:
        found = UPath(given)
        found.fs  # noqa: B018 -- made here, so that a missing library is told now
    except (ImportError, ValueError, OSError) as error:
        raise BadInput(f"{given} cannot be opened: {error}") from error
    return cast(Path, found)


def is_place(value: object) -> TypeIs[str | Path]:
    """Whether this says where something lies."""
    # Before anybody made a place of a URL, its library need not be there.
    upath = sys.modules.get("upath")
    return isinstance(value, (str, Path)) or (upath is not None and isinstance(value, upath.UPath))


def is_local(path: Path) -> bool:
    """Whether the file system of this machine has it."""
    return isinstance(path, Path)


def readable(path: Path) -> bool:
    """Whether this machine can read a file or folder, whatever there may be in it."""
    if is_local(path):
        return os.access(path, os.R_OK)
    try:
        return path.exists()
    except Exception:  # noqa: BLE001 -- each store of fsspec has errors of its own
        return False
