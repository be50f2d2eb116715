"""What an evaluator remembers beside its store, and how that is undone for what was in vain."""

from __future__ import annotations

import threading
from collections import ChainMap
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from ladle.evaluate.course import Course
from ladle.evaluate.model import Dropped
from ladle.evaluate.store import Store
from ladle.predictions import Array

Key = tuple[str, str, str]
"""What the store knows predictions by: soup, task, split."""


class Memory:
    """How soups were measured, for that decides how they are compared: see `Evaluator`.

    Also what went into the store for it, so that what is dropped leaves the store as one worker
    would, who does nothing in vain.
    """

    def __init__(self, below: Memory | None = None) -> None:
        self._below = below
        self.courses: ChainMap[str, Course] = below.courses.new_child() if below else ChainMap({})
        """Of comparisons that a soup passed, by its digest."""
        self.whole: ChainMap[str, bool] = below.whole.new_child() if below else ChainMap({})
        """What was measured in the usual batches."""
        self.used: set[Key] = set()
        self._replaced: dict[Key, Array | None] = {}
        self._lock = threading.Lock()
        self._dropped = threading.Event()

    def apart(self) -> Memory:
        """One that knows all that this one does, and learns for itself until it is kept."""
        return Memory(self)

    def keep(self) -> None:
        """Let the one below know all of this."""
        if self._below is not None:
            self._below.courses.update(self.courses.maps[0])
            self._below.whole.update(self.whole.maps[0])
            self._below.used |= self.used

    def drop(self, store: Store) -> None:
        """End what is under way, and take back what went into the store for nothing else."""
        with self._lock:
            self._dropped.set()
            needed = self._below.used if self._below else set()
            for key, earlier in self._replaced.items():
                if key in needed:
                    continue
                if earlier is None:
                    store.forget_logits(*key)
                else:
                    store.keep_logits(*key, earlier)

    def is_dropped(self) -> bool:
        return self._dropped.is_set()

    def keep_logits(self, store: Store, key: Key, logits: Array, earlier: Array | None) -> None:
        """Put logits into the store, in the place of earlier ones; not once this is dropped."""
        with self._lock:
            if self.is_dropped():
                raise Dropped("nobody waits for this evaluation")
            store.keep_logits(*key, logits)
            if self._below is not None:
                self._replaced.setdefault(key, earlier)


class Turns:
    """Who does the same thing waits, and finds it done; who does another does not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, tuple[threading.Lock, int]] = {}

    @contextmanager
    def __call__(self, key: Hashable) -> Iterator[None]:
        with self._lock:
            turn, count = self._waiting.get(key, (threading.Lock(), 0))
            self._waiting[key] = (turn, count + 1)
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, count = self._waiting.pop(key)
                if count > 1:
                    self._waiting[key] = (turn, count - 1)
