"""A `map` whose work is done by Ray tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from ladle.ahead import R, T
from ladle.errors import LadleError

_RETRIES = 3
"""Of a task whose worker or node is lost."""

_AHEAD = 4
"""Tasks asked for, in units of those under way: a slow one lets others wait behind it."""


class LostWork(LadleError):
    """Workers died again and again at one piece of work."""


@dataclass(frozen=True)
class Tasks:
    """A lazy `Map` on the cluster that Ray is connected to: see `ladle.ahead.Map`.

    Each call of the work is a task with so many CPUs and GPUs of one node, and at most `at_once`
    are under way. They are spread over the nodes, each of which has a network card of its own. A
    task whose worker or node is lost is done again, so work has to bear that. What it raises on
    purpose is raised here as it is; then, and when nobody asks on, the tasks under way are stopped.
    """

    at_once: int
    cpus: float = 1
    gpus: float = 0

    def __call__(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """
        Raises:
            LostWork: a task's workers were lost time and again.
        """
        rest = iter(items)
        task = _task.options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_retries=_RETRIES,
            scheduling_strategy="SPREAD",
        )
        sent = ray.put(work)  # Once, however many tasks there are.
        asked: deque[Any] = deque()  # In order, finished or not.
        under_way: list[Any] = []
        try:
            while True:
                room = min(self.at_once - len(under_way), _AHEAD * self.at_once - len(asked))
                new = [task.remote(sent, item) for item in islice(rest, max(0, room))]
                asked.extend(new)
                under_way += new
                if not asked:
                    return
                if asked[0] not in under_way:
                    yield told(asked.popleft())
                    continue
                _, under_way = ray.wait(under_way, fetch_local=False)
        finally:
            for one in under_way:
                ray.cancel(one, force=True)
            if under_way:
                # What they were at is theirs until they are gone.
                ray.wait(under_way, num_returns=len(under_way), timeout=10, fetch_local=False)


def told(ref: Any) -> Any:
    """What a task or an actor's method gives, or raises.

    Raises:
        LostWork: its workers were lost.
    """
    try:
        return ray.get(ref)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, (LadleError, OSError)):
            raise cause from None
        raise
    except OutOfMemoryError as error:
        raise LostWork(
            "a worker had too little memory; give each more room with fewer --workers"
        ) from error
    except RayError as error:
        raise LostWork(
            f"Ray lost the workers of one piece of work again and again ({error}); see their logs"
        ) from error


def _done(work: Callable[[Any], Any], item: Any) -> Any:
    return work(item)


_task: Any = ray.remote(_done)
