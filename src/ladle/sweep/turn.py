"""Whose turn it is to write a run, where many machines write to one folder."""

from __future__ import annotations

import uuid
from pathlib import Path

from ladle.errors import Overtaken
from ladle.files import new_file

TURN = "turn"


class Turn:
    """The turn of the process that began on a run last; nobody else may write it any more.

    The lock on a claimed folder keeps two apart wherever locks reach: on a disk of one machine, and
    on NFS. On storage whose locks are known to one machine only, and where a machine that was given
    up for lost works on, both would write. The first then finds here, before it writes, that it
    was overtaken.
    """

    def __init__(self, part: Path) -> None:
        """Take it."""
        self._file, self._ours = part / TURN, uuid.uuid4().hex
        with new_file(self._file) as new:
            new.write_text(self._ours, "ascii")

    def check(self) -> None:
        """Check that it is still ours.

        Raises:
            Overtaken: it is not.
        """
        try:
            theirs = self._file.read_text("ascii")
        except FileNotFoundError:
            theirs = ""
        if theirs != self._ours:
            raise Overtaken(
                f"another process has taken over {self._file.parent.stem}, and goes on with it"
            )

    def end(self) -> None:
        """Nobody's turn any more: the run is complete."""
        self.check()
        self._file.unlink()
