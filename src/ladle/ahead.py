"""A `map` that works ahead: lazy and in order like the builtin, with the next few under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_UNCLAIMED = 4
"""Results that wait for one before them, as a multiple of the workers: each is kept in memory."""


class Map(Protocol):
    """The builtin `map`, or anything that gives the same results in the same order.

    One that is lazy, as the builtin is, is asked for no more than is needed; whoever has enough
    closes what it gave, if that has a method `close`.
    """

    def __call__(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterable[R]: ...


def one_by_one(work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
    """The builtin `map`."""
    return map(work, items)


def working_ahead(workers: int) -> Map:
    """A `Map` that has as many items under way as there are workers, each in a thread.

    An item is asked for when a worker is free for it, by whoever asks for results. Closed, it
    begins nothing more; what is under way ends by itself, and what comes of it is lost.

    Raises:
        ValueError: there are no workers.
    """
    if workers < 1:
        raise ValueError("without workers nothing is done")

    def work_ahead(work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        offered = iter(items)
        begun: deque[Future[R]] = deque()
        executor = ThreadPoolExecutor(workers, thread_name_prefix="ladle-ahead")

        def running() -> list[Future[R]]:
            return [one for one in begun if not one.done()]

        def fill() -> None:
            free = min(workers - len(running()), _UNCLAIMED * workers - len(begun))
            begun.extend(executor.submit(work, item) for item in islice(offered, max(free, 0)))

        try:
            fill()
            while begun:
                while not begun[0].done():
                    fill()
                    wait(running(), return_when=FIRST_COMPLETED)
                yield begun.popleft().result()
                # Not before: what is next may depend on what was made of this one.
                fill()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    return work_ahead


def close(results: Iterable[Any]) -> None:
    """Say to what a `Map` gave that no more is needed."""
    done = getattr(results, "close", None)
    if done is not None:
        done()
