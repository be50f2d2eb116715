"""Checkpoints opened on one machine and read on another."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ladle.checkpoint import Checkpoint
from ladle.errors import BadInput, UnreadableCheckpoint


@contextmanager
def reading_here(checkpoints: Iterable[Checkpoint]) -> Iterator[None]:
    """Work on checkpoints that may have been opened elsewhere; what cannot be read here is named.

    Raises:
        BadInput: a file is not on this machine, or not to be read by it.
        UnreadableCheckpoint: it is, and is another one, or something else is wrong with it.
    """
    for file in dict.fromkeys(file for one in checkpoints for file in one.files):
        _check_read(file)
    try:
        yield
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"on {platform.node()}: {error}") from error


def digest_here(checkpoint: Checkpoint) -> str:
    """The digest of a checkpoint that may have been opened elsewhere."""
    with reading_here([checkpoint]):
        return checkpoint.digest()


def _check_read(file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except Exception as error:
        # Each store of fsspec has errors of its own.
        reason = getattr(error, "strerror", None) or error
        raise BadInput(
            f"{platform.node()} cannot read {file} ({reason}); put it on storage that all machines "
            "share, or give a URL that all reach"
        ) from error
