"""A crew of Ray actors, each with an evaluator of its own: see `ladle.evaluate.crew.Crew`."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError

from ladle.cluster.tasks import LostWork, told
from ladle.evaluate import Evaluator

T = TypeVar("T")
R = TypeVar("R")

_DEATHS = 3
"""Of workers at one item, after which it is the item that kills them."""

_KEPT = 2
"""Shared values that a worker keeps; what is learned on is one, the soup so far may be another."""


@contextmanager
def crew(
    make: Callable[[], Evaluator], workers: int, *, cpus: float = 1, gpus: float = 0
) -> Iterator[RayCrew]:
    """So many workers, for as long as the block takes.

    `make` is sent to each, and makes its evaluator there. A worker that is lost is replaced, for
    which its node, or another one, has to have room; until then the others do its work.
    """
    found = RayCrew(make, workers, cpus, gpus)
    try:
        yield found
    finally:
        found.close()


@dataclass
class _Worker:
    actor: Any
    ready: Any
    """Told once its evaluator is made."""


@dataclass
class _Item:
    number: int
    item: Any
    deaths: int = 0


class RayCrew:
    """See `crew`."""

    def __init__(
        self, make: Callable[[], Evaluator], workers: int, cpus: float, gpus: float
    ) -> None:
        self._make = ray.put(make)
        # A restart would begin without telling; who is lost is replaced here.
        self._actor = _actor.options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._workers = [self._new() for _ in range(workers)]
        self._lost_early = 0

    def share(self, value: T) -> Callable[[], T]:
        return Shared(ray.put(value), value)

    def each(self, work: Callable[[Evaluator, T], R], items: Iterable[T], /) -> Iterator[R]:
        """
        Raises:
            LostWork: workers died again and again at one item.
        """
        waiting = deque(_Item(i, item) for i, item in enumerate(items))
        count = len(waiting)
        sent = ray.put(work)
        asked: dict[Any, tuple[_Worker, _Item]] = {}
        found: dict[int, Any] = {}
        given = 0
        while given < count:
            self._hand_out(waiting, sent, asked)
            if given in found:
                yield told(found.pop(given))
                given += 1
                continue
            starting = [one.ready for one in self._workers if one.ready is not None]
            done, _ = ray.wait([*asked, *starting], fetch_local=False)
            for ref in done:
                if ref not in asked:
                    self._started(ref)
                    continue
                worker, item = asked.pop(ref)
                if self._is_lost(ref):
                    self._replace(worker)
                    item.deaths += 1
                    if item.deaths == _DEATHS:
                        raise LostWork(
                            f"{_DEATHS} workers died at one piece of work; see their logs, or give "
                            "each more memory with fewer --workers"
                        )
                    waiting.appendleft(item)
                else:
                    found[item.number] = ref

    def close(self) -> None:
        for one in self._workers:
            ray.kill(one.actor)

    def _new(self) -> _Worker:
        actor = self._actor.remote(self._make)
        return _Worker(actor, actor.ready.remote())

    def _started(self, ref: Any) -> None:
        worker = next(one for one in self._workers if one.ready == ref)
        if self._is_lost(ref):
            self._lost_early += 1
            if self._lost_early == _DEATHS:
                raise LostWork(
                    f"{_DEATHS} workers died while they loaded the task; see their logs, or give "
                    "each more memory with fewer --workers"
                )
            self._replace(worker)
        else:
            told(ref)  # Or what it raised in making its evaluator.
            worker.ready = None
            self._lost_early = 0

    def _replace(self, lost: _Worker) -> None:
        self._workers[self._workers.index(lost)] = self._new()

    def _hand_out(
        self, waiting: deque[_Item], sent: Any, asked: dict[Any, tuple[_Worker, _Item]]
    ) -> None:
        busy = {id(worker) for worker, _ in asked.values()}
        for worker in self._workers:
            if waiting and worker.ready is None and id(worker) not in busy:
                item = waiting.popleft()
                asked[worker.actor.do.remote(sent, item.item)] = worker, item

    def _is_lost(self, ref: Any) -> bool:
        try:
            ray.get(ref)
        except RayActorError:
            return True
        except Exception:  # noqa: BLE001 -- whoever wants the result is told
            return False
        return False


@dataclass(frozen=True)
class Shared:
    """A value in Ray's store; on each worker it is read once."""

    ref: Any
    value: Any = field(default=None, compare=False)

    def __reduce__(self) -> tuple[type[Shared], tuple[Any]]:
        return Shared, (self.ref,)

    def __call__(self) -> Any:
        if self.value is not None:
            return self.value
        key = self.ref.hex()
        if key not in _shared:
            _shared[key] = ray.get(self.ref)
        _shared.move_to_end(key)
        while len(_shared) > _KEPT:
            _shared.popitem(last=False)
        return _shared[key]


_shared: OrderedDict[str, Any] = OrderedDict()


class _Hand:
    """What an actor is."""

    def __init__(self, make: Callable[[], Evaluator]) -> None:
        self._make = make  # Not called yet: an actor that fails while it begins cannot say why.

    def ready(self) -> None:
        """Comes back when there is an evaluator."""
        self._evaluator = self._make()

    def do(self, work: Callable[[Evaluator, Any], Any], item: Any) -> Any:
        return work(self._evaluator, item)


_actor: Any = ray.remote(_Hand)
