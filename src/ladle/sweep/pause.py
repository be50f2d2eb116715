"""A run that is put down and taken up again: its last state in a file, and Ctrl-C between steps."""

from __future__ import annotations

import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ladle.files import new_file

_SHARE = 0.02
"""Of the time, what goes into writing states: this bounds what a kill can lose."""

_BYTES_PER_SECOND = 5e8
"""Of a disk, before anything was written to it."""


class Pause:
    """The last state of a run, in a file that is replaced whole.

    What was kept for other work than `identity` tells is not taken up.
    """

    def __init__(self, file: Path, identity: str) -> None:
        self._file, self._identity = file, identity
        self._began = time.monotonic()
        self._due: float | None = None

    def read(self) -> Mapping[str, Any] | None:
        """The state that was kept, its tensors on the CPU."""
        if not self._file.is_file():
            return None
        try:
            with self._file.open("rb") as file:
                kept = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError):
            return None  # A disk has damaged it; the run begins again.
        if kept["identity"] != self._identity:
            return None
        state: Mapping[str, Any] = kept["state"]
        return state

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep a state now."""
        began = time.monotonic()
        with new_file(self._file) as part:
            torch.save({"identity": self._identity, "state": state}, part)
        now = time.monotonic()
        self._due = now + (now - began) / _SHARE

    def keep_at_times(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Keep a state unless that would take too much of the time."""
        if self._due is None:
            self._due = self._began + _nbytes(make()) / _BYTES_PER_SECOND / _SHARE
        if time.monotonic() >= self._due:
            self.keep(make())

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


def _nbytes(state: object) -> int:
    """Of all tensors in it."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, Mapping):
        return sum(_nbytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(_nbytes(value) for value in state)
    return 0


@contextmanager
def waiting_interrupts() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back; what this gives tells whether it came. A second one is not held.

    So that no step is left half done. Where signals are not ours (in a thread), nothing is held.
    """
    came = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    try:
        before = signal.signal(signal.SIGINT, hold)
    except ValueError:
        yield lambda: False
        return
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)
