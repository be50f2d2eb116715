"""An order for threads that read the same files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets pieces of work pass several gates, each gate in the order of the pieces' numbers.

    While one piece is behind the first gate, the next may pass it, as on an assembly line. Every
    piece has to `leave`, whatever happens to it, or those behind it wait for ever.
    """

    def __init__(self, gates: int) -> None:
        self._next = [0] * gates
        self._moved = threading.Condition()

    @contextmanager
    def turn(self, gate: int, number: int) -> Iterator[None]:
        """Between all pieces before `number` and the next one at this gate."""
        with self._moved:
            self._moved.wait_for(lambda: self._next[gate] >= number)
        try:
            yield
        finally:
            with self._moved:
                self._next[gate] = max(self._next[gate], number + 1)
                self._moved.notify_all()

    def leave(self, number: int) -> None:
        """Pass all gates that the piece has not passed."""
        for gate in range(len(self._next)):
            with self.turn(gate, number):
                pass
