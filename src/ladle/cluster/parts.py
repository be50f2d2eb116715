"""What a task computes once for all models, by all workers, kept in Ray's object store.

See `ladle.tasks.base.Precomputing`. A piece is a matter of seconds, so whoever is free computes the
next one. The pieces, and the part that one worker puts together of them, stay in the store: only
references come here, and the workers of a node read one copy of a part in its shared memory.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ladle.errors import LadleError
from ladle.predictions import Array
from ladle.tasks import Task
from ladle.tasks.base import Precomputing

_TIMES = 4
"""So often is a part computed that is lost with the node that it lies on."""

Ask = Callable[..., Any]
"""Has a worker call `computed` with these arguments after the task; waits until that is done, by
another one if it is lost at it, and gives the reference of the result."""


class Lacking(LadleError):
    """A task on a worker needs a part that is not there: its name, and how many pieces it has.

    Whoever asked the worker has to have the part computed, and asks again.
    """

    def __str__(self) -> str:
        return f"what the task computes once for {self.args[0]!r} is missing, and not in its parts"


class Parts:
    """Where in the store each part is that was computed, by name."""

    def __init__(self, ask: Ask, at_once: int) -> None:
        """At most `at_once` pieces are under way at a time."""
        self._ask, self._at_once = ask, at_once
        self.refs: Mapping[str, Any] = {}
        """References by name, for a worker's `StoreLender`; another mapping whenever one is new."""
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    def compute(self, parts: Mapping[str, int]) -> None:
        """Have parts of so many pieces computed, side by side.

        Raises:
            Lacking: pieces were lost, with the nodes that they lay on.
            LadleError: what else `Ask` raises.
        """
        executor = ThreadPoolExecutor(self._at_once, thread_name_prefix="ladle-parts")
        try:
            joined: dict[str, Future[Any]] = {}
            # In this order: whoever waits for pieces to put them together waits for such as others
            # have at hand already.
            for name, count in parts.items():
                pieces = [executor.submit(self._ask, name, number) for number in range(count)]
                joined[name] = executor.submit(self._joined, name, pieces)
            found = {name: one.result() for name, one in joined.items()}
        finally:
            executor.shutdown(cancel_futures=True)
        self.refs = {**self.refs, **found}

    def provide(self, lacking: Lacking, sent: Mapping[str, Any]) -> None:
        """Have a part computed that a worker lacked, which had been sent these references.

        Others that lack one meanwhile wait here: all workers are at this one.

        Raises:
            LadleError: what `Ask` raises; or it was lost time and again.
        """
        name, count = lacking.args
        with self._lock:
            # Whether it was not sent, or was lost since; or pieces were, before they were together.
            while self.refs.get(name) is sent.get(name):
                self._check_losses(name)
                with suppress(Lacking):
                    self.compute({name: count})

    def _joined(self, name: str, pieces: list[Future[Any]]) -> Any:
        return self._ask(name, None, *[one.result() for one in pieces])

    def _check_losses(self, name: str) -> None:
        if self._times[name] == _TIMES:
            raise LadleError(
                f"what the task computes once for {name!r} was lost {_TIMES} times, with the node "
                "that it was on; see the logs of Ray"
            )
        self._times[name] += 1


def computed(task: Task, name: str, number: int | None, *pieces: Array) -> Array:
    """A piece of a part; or, without a number, the part that these pieces make. For a worker."""
    if not isinstance(task, Precomputing):
        raise TypeError(f"task {task.name!r} has no parts")
    return task.joined(name, pieces) if number is None else task.piece(name, number)


class StoreLender:
    """A worker's: gives its task the parts that are in the store."""

    def __init__(self, refs: Mapping[str, Any]) -> None:
        self.refs = refs

    def __call__(self, name: str, count: int) -> Array:
        """See `Precomputing.lend`.

        Raises:
            Lacking: the part was not computed yet, or is lost.
        """
        import ray

        ref = self.refs.get(name)
        if ref is None:
            raise Lacking(name, count)
        try:
            found: Array = ray.get(ref)
        except ray.exceptions.ObjectLostError:  # And Ray cannot have it computed again.
            raise Lacking(name, count) from None
        return found
