"""Pieces of work on checkpoints, done by a few threads that read the same files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from ladle.checkpoint.reading import keeping_open
from ladle.merge.slices import Scratch

_MOST_THREADS = 8
"""By default. Memory is what threads compete for, and a few of them use all there is of it."""

Job = TypeVar("Job")


def in_threads(
    jobs: Iterator[Job], do: Callable[[Job, Scratch], None], threads: int | None = None
) -> None:
    """Do every job, each begun in its turn; what one raises stops all threads.

    Each thread has a `Scratch` of its own, and keeps open what it has opened.
    """
    handed_out = _Jobs(jobs)

    def work_off() -> None:
        scratch = Scratch()
        try:
            with keeping_open():
                for job in handed_out:
                    do(job, scratch)
        except BaseException:
            handed_out.stop()
            raise

    threads = threads or min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as executor:
        at_work = [executor.submit(work_off) for _ in range(threads)]
        try:
            for one in at_work:
                one.result()
        except BaseException:
            handed_out.stop()
            raise


class _Jobs(Generic[Job]):
    """Handed out in order to the threads that ask for one, which wait for nothing else.

    A queue that another thread fills would make it a rival for the interpreter.
    """

    def __init__(self, jobs: Iterator[Job]) -> None:
        self._jobs = jobs
        self._stopped = False
        self._lock = threading.Lock()

    def __iter__(self) -> _Jobs[Job]:
        return self

    def __next__(self) -> Job:
        with self._lock:
            if self._stopped:
                raise StopIteration
            return next(self._jobs)

    def stop(self) -> None:
        """There is no further job."""
        self._stopped = True
