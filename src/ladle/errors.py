"""Every error that ladle raises on purpose.

Each is one sentence that names the file, tensor or flag and says what to do. The command line
prints it without a traceback and exits with the class's `exit_code`.
"""

from __future__ import annotations

from typing import ClassVar


class LadleError(Exception):
    """Something went wrong while working; what was asked for was right."""

    exit_code: ClassVar[int] = 1


class BadInput(LadleError):
    """What was given cannot be used: a file, a flag, a task, a value."""

    exit_code: ClassVar[int] = 2


class UnreadableCheckpoint(BadInput):
    """A file or folder is not a checkpoint that ladle can read."""


class LayoutMismatch(BadInput):
    """Checkpoints differ in their tensors, so they cannot be averaged."""


class NotSoupable(LadleError):
    """Checkpoints that can be read, and that a check says no soup can be made of."""

    exit_code: ClassVar[int] = 3


class NonFiniteTensor(BadInput):
    """A checkpoint holds NaN or infinity, or a soup overflows the dtype it is written in."""


class BadTask(BadInput):
    """A task is described or built wrongly."""


class CorruptImage(BadInput):
    """An image file that cannot be decoded."""


class MissingExtra(BadInput):
    """A library that only some users need is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed; run: pip install 'ladle[{extra}]'")

    def __reduce__(self) -> tuple[type[BadInput], tuple[object, ...]]:
        """How another process hears of it: its sentence is complete."""
        return BadInput, self.args


class OutputExists(BadInput):
    """The output is already there and `--overwrite` was not given."""


class Diverged(LadleError):
    """A fine-tuning's loss stopped being finite."""


class Overtaken(LadleError):
    """Another process has taken over what this one was at, and goes on with it."""


class NoSpace(LadleError):
    """The disk has too little room for the output."""


class UploadFailed(LadleError):
    """A store behind a URL does not take what is sent to it, or give what it has."""


class ScoringFailed(LadleError):
    """The user's scoring command or function failed, or gave no number."""


class BadScore(LadleError):
    """No candidate has a finite score, so nothing can be chosen."""
