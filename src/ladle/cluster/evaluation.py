"""Evaluation on many machines: actors that hold the built model and the data.

Only what has to be looked at travels: a soup, which is paths and weights of the mean, to a worker,
and logits back. Workers read checkpoints and data themselves. Everything that decides or remembers
stays with the evaluator, which asks workers what it else would ask its own model.
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import numpy as np

from ladle.ahead import Map, R, T, working_ahead
from ladle.cluster.connect import Cluster
from ladle.cluster.parts import Lacking, Parts, StoreLender, computed
from ladle.cluster.sharing import Shared, offer
from ladle.errors import BadInput, BadTask, LadleError
from ladle.evaluate import Bar, Dropped, Evaluator, HereForward, Progress
from ladle.evaluate.arithmetic import Arithmetic
from ladle.predictions import Array, ExampleNumbers
from ladle.soup import Pool, Soup
from ladle.tasks import PredictsInBatches, Task
from ladle.tasks.base import Precomputing

if TYPE_CHECKING:
    from torch import Tensor

_LIVES = 4
"""Workers that one evaluation may cost, before it is to blame."""

_SECONDS_BETWEEN_LOOKS = 0.1

_PIECE = 4096
"""Examples of a split, about so many, that a worker is given at a time where others may help."""


@dataclass(frozen=True)
class Settings:
    """How every worker runs the model; the same as the evaluator's own."""

    device: str = "auto"
    batch_size: int = 64
    amp: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class Size:
    """What a worker takes of its node."""

    cpus: float = 1
    gpus: float = 0


@dataclass(frozen=True)
class _Piece:
    """Some batches of a split, counted from 0, and their examples in order."""

    begin: int
    end: int
    examples: ExampleNumbers


class Workers:
    """A `Forward` and a `Crew` (see `ladle.evaluate`): many models, each held by an actor.

    An actor that is lost is replaced, and what it had under way is asked again. So long as one is
    left, the work goes on. What the task computes once for all models, they compute together when
    one of them first needs it.

    Example:
        >>> with connected("auto") as cluster, Workers(cluster, load, task) as workers:
        ...     evaluate = ladle.Evaluator(task, forward=workers)
        ...     soup = ladle.greedy(pool, evaluate, map=workers.map)
    """

    def __init__(
        self,
        cluster: Cluster,
        load: Callable[[], Task],
        task: Task,
        *,
        settings: Settings | None = None,
        size: Size | None = None,
        count: int | None = None,
        piece: int = _PIECE,
        tell: Callable[[str], None] = print,
    ) -> None:
        """`load` makes the task on a worker, where it has to be what `task` is here.

        `count` is as many as there is room for, unless given. Splits of more examples than about
        `piece` are shared with workers that are idle, if the task is one that `PredictsInBatches`.
        `tell` hears, in a sentence, that they have to wait for room.

        Raises:
            BadInput: there is no room for so many; or a worker cannot load the task, or its data
                are other than here.
        """
        size, settings = size or Size(), settings or Settings()
        room = cluster.room(cpus=size.cpus, gpus=size.gpus)
        if count is not None and count > room:
            raise BadInput(
                f"--workers {count}: the Ray cluster at {cluster.address} has room for {room} of "
                f"{size.cpus:g} CPUs and {size.gpus:g} GPUs; give {room}, or leave it out"
            )
        self.count = room if count is None else count
        cluster.tell_if_full(tell, cpus=size.cpus, gpus=size.gpus)
        self._ray = cluster.ray
        self._task = task
        self._piece = piece
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._actors: set[Any] = set()
        self._shared: WeakSet[Shared] = WeakSet()
        self._parts = Parts(self._compute, self.count)
        self._lock = threading.Lock()
        self._used = False
        self._lost_loading = 0
        self._closed = False
        # Those of one group answer while an evaluation is under way.
        self._kind = self._ray.remote(
            num_cpus=size.cpus, num_gpus=size.gpus, concurrency_groups={"control": 1}
        )(_Worker)
        self._load = self._ray.put(load)
        self._settings = settings
        for _ in range(self.count):
            self._hire()
        self._idle.put(self._leased(lambda: False))  # The first tells what is wrong, if all are.

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all actors, and with them what is under way."""
        with self._lock:
            self._closed = True
            actors, self._actors = self._actors, set()
        for actor in actors:
            self._ray.kill(actor)

    @property
    def map(self) -> Map:
        """Has as much under way as there are workers."""
        return working_ahead(self.count)

    def predict(
        self, soup: Soup, split: str, *, progress: Progress, is_dropped: Callable[[], bool]
    ) -> Array:
        pieces = self._pieces(split)
        with progress as advance:
            if len(pieces) > 1:
                return self._shared_out(soup, split, pieces, advance, is_dropped)
            logits: Array = self._ask("predict", soup, split, is_dropped=is_dropped)
            advance(len(logits))
        return logits

    def _pieces(self, split: str) -> list[_Piece]:
        """A split in runs of the batches that it is predicted in; none where nobody could help."""
        if not isinstance(self._task, PredictsInBatches) or self.count == 1:
            return []
        batches = self._task.in_batches(split, batch_size=self._settings.batch_size)
        found: list[_Piece] = []
        begun, size = 0, 0
        for number, batch in enumerate(batches, 1):
            size += len(batch)
            if size >= self._piece or number == len(batches):
                found.append(_Piece(begun, number, np.concatenate(batches[begun:number])))
                begun, size = number, 0
        return found

    def _shared_out(
        self,
        soup: Soup,
        split: str,
        pieces: Sequence[_Piece],
        advance: Callable[[int], None],
        is_dropped: Callable[[], bool],
    ) -> Array:
        """What one worker says piece by piece, and others with it as long as they are idle.

        Each of them merges the soup anew, so none does that is wanted elsewhere.
        """
        waiting = deque(pieces)

        def take(*, only_idle: bool) -> list[tuple[_Piece, Array]]:
            taken: list[tuple[_Piece, Array]] = []
            while waiting:
                piece = waiting.popleft()
                asked = ("piece", soup, split, piece.begin, piece.end)
                try:
                    rows: Array = self._ask(*asked, is_dropped=is_dropped, only_idle=only_idle)
                except queue.Empty:
                    waiting.append(piece)
                    return taken
                advance(len(rows))
                taken.append((piece, rows))
                if not only_idle:
                    help_if_idle()
            return taken

        helping: list[Future[list[tuple[_Piece, Array]]]] = []
        with ThreadPoolExecutor(self.count, thread_name_prefix="ladle-pieces") as helpers:

            def help_if_idle() -> None:
                wanted = min(self._idle.qsize(), len(waiting))
                helping.extend(helpers.submit(take, only_idle=True) for _ in range(wanted))

            help_if_idle()
            said = take(only_idle=False)
            for helper in helping:
                said += helper.result()
            # Who found nobody idle has put back what it was to ask.
            said += take(only_idle=False)
        logits = np.empty((len(self._task.splits[split]), said[0][1].shape[1]), np.float32)
        for piece, rows in said:
            logits[piece.examples] = rows
        return logits

    def along(
        self,
        soup: Soup,
        split: str,
        batches: Sequence[ExampleNumbers],
        bar: Bar | None,
        *,
        progress: Progress,
        is_dropped: Callable[[], bool],
    ) -> Array:
        with progress as advance:
            asked = ("along", soup, split, list(batches), bar)
            logits: Array = self._ask(*asked, is_dropped=is_dropped)
            advance(len(logits))
        return logits

    def statistics(self, soup: Soup, names: Collection[str], *, seed: int) -> dict[str, Tensor]:
        found = self._ask("statistics", soup, list(names), seed, is_dropped=lambda: False)
        return cast("dict[str, Tensor]", found)

    def sharing(self, pool: Pool) -> None:
        """Nothing: each worker loads all of a soup."""

    def share(self, value: T) -> Callable[[], T]:
        """See `Crew`."""
        shared = Shared(self._ray.put(value), value)
        self._shared.add(shared)
        return shared

    def each(self, work: Callable[[Evaluator, T], R], items: Iterable[T], /) -> Iterator[R]:
        """See `Crew`: what the work gives with a worker's evaluator, for each item."""
        return self._each("each", work, items)

    def do(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """A `Map` for work that needs no model, and would find no room beside those who have one.

        As workers may be lost, it may be done again.
        """
        return self._each("do", work, items)

    def _each(self, method: str, work: Callable[..., R], items: Iterable[T]) -> Iterator[R]:
        def ask(item: T) -> R:
            found: R = self._ask(method, work, item, is_dropped=lambda: False)
            return found

        return iter(self.map(ask, items))

    def is_exact_for(self, soup: Soup) -> bool:
        return self._used and bool(self._ask("is_exact_for", soup, is_dropped=lambda: False))

    # --- workers ----------------------------------------------------------------------------

    def _hire(self) -> None:
        """Have one more worker, which is idle once it has loaded the task."""
        with self._lock:
            if self._closed:
                return
            actor = self._kind.remote(self._load, self._settings)
            self._actors.add(actor)
        threading.Thread(target=self._greet, args=(actor,), daemon=True).start()

    def _greet(self, actor: Any) -> None:
        try:
            answer = self._ray.get(actor.identity.remote())
            self._check(_opened(answer))
        except LadleError as error:
            self._idle.put(error)
        except self._ray.exceptions.RayActorError as error:
            # Its node may have left; where each one dies at it, the task is to blame.
            if self._lose(actor, while_loading=True) < _LIVES:
                self._hire()
            else:
                self._idle.put(
                    LadleError(
                        f"{_LIVES} workers died while they loaded the task: {_last_line(error)}"
                    )
                )
        except Exception as error:  # noqa: BLE001 -- raised where somebody waits
            if not self._closed:
                self._idle.put(LadleError(f"a worker cannot be started: {_last_line(error)}"))
        else:
            self._lost_loading = 0
            self._idle.put(actor)

    def _lose(self, actor: Any, *, while_loading: bool = False) -> int:
        """Forget a worker; how many were lost while they loaded, since one was not."""
        with self._lock:
            self._actors.discard(actor)
            self._lost_loading += while_loading
            return self._lost_loading

    def _check(self, theirs: dict[str, str]) -> None:
        """Check that a worker has the task that is evaluated here."""
        ours = _identity(self._task)
        if theirs != ours:
            name = next((name for name in ours if theirs.get(name) != ours[name]), "a split")
            raise BadTask(
                f"task {self._task.name!r} is not the same on a worker ({name} differs); give "
                "every node the same files under the same paths"
            )

    def _leased(self, is_dropped: Callable[[], bool], *, only_idle: bool = False) -> Any:
        """A worker, for whoever asks, as soon as one is idle.

        Raises:
            queue.Empty: none is, and it is wanted `only_idle`.
        """
        while True:
            try:
                found = self._idle.get(not only_idle, _SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                if only_idle:
                    raise
                if is_dropped() or self._closed:
                    raise Dropped("nobody waits for this evaluation") from None
                continue
            if isinstance(found, LadleError):
                self._idle.put(found)  # For all others who wait.
                raise found
            return found

    def _ask(
        self,
        method: str,
        *asked: object,
        is_dropped: Callable[[], bool],
        only_idle: bool = False,
    ) -> Any:
        # Before there is a worker: to estimate statistics that the soup has takes one, too.
        content = self._ray.cloudpickle.dumps(asked)
        while True:
            parts = self._parts.refs
            serve = partial(self._waited_for, method, content, parts, is_dropped)
            answer = self._served(serve, is_dropped, only_idle=only_idle)
            if not isinstance(answer, Lacking):
                return _opened(answer)
            self._parts.provide(answer, parts)

    def _served(
        self,
        serve: Callable[[Any], T],
        is_dropped: Callable[[], bool],
        *,
        only_idle: bool = False,
    ) -> T:
        """What `serve` gives with an idle worker; with another one if that is lost."""
        for _ in range(_LIVES):
            actor = self._leased(is_dropped, only_idle=only_idle)
            self._used = True
            try:
                found = serve(actor)
            except self._ray.exceptions.RayActorError:
                self._lose(actor)
                self._hire()
                continue
            self._idle.put(actor)
            return found
        raise LadleError(
            f"{_LIVES} workers were lost one after the other at the same evaluation; see whether "
            "their nodes have memory enough for the model, and the logs of Ray"
        )

    def _compute(self, *asked: Any) -> Any:
        """See `ladle.cluster.parts.Ask`."""

        def serve(actor: Any) -> tuple[Any, Any]:
            word, found = actor.compute.options(num_returns=2).remote(*asked)
            try:
                return self._ray.get(word), found
            except self._ray.exceptions.ObjectLostError:
                return Lacking(asked[0], 0), None

        word, found = self._served(serve, lambda: False)
        _opened(word)
        return found

    def _waited_for(
        self,
        method: str,
        content: bytes,
        parts: Mapping[str, Any],
        is_dropped: Callable[[], bool],
        actor: Any,
    ) -> Any:
        ticket = uuid.uuid4().hex
        shared = [one.ref for one in tuple(self._shared)]
        answer = actor.answer.remote(ticket, method, content, shared, parts)
        told = False
        while not self._ray.wait([answer], timeout=_SECONDS_BETWEEN_LOOKS)[0]:
            if is_dropped() and not told:
                actor.drop.remote(ticket)
                told = True
        return self._ray.get(answer)


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _opened(answer: Any) -> Any:
    """What a worker found, or the error that it met."""
    if isinstance(answer, LadleError):
        raise answer
    return answer


def _identity(task: Task) -> dict[str, str]:
    """What has to be the same here and there."""
    return {"the model or its inputs": task.digest} | {
        f"split {split.name!r}": split.key for split in task.splits.values()
    }


class _Worker:
    """Holds a task and its model on a node. Answers are values, or errors that a user is told."""

    def __init__(self, load: Callable[[], Task], settings: Settings) -> None:
        # An actor that fails while it is made cannot say why.
        self._load, self._settings = load, settings
        self._dropped: set[str] = set()
        self._lender = StoreLender({})
        self._forward: HereForward | None = None
        self._evaluator: Evaluator | None = None

    def identity(self) -> Any:
        return _told(lambda: _identity(self._loaded()))

    def answer(
        self,
        ticket: str,
        method: str,
        content: bytes,
        shared: Sequence[Any],
        parts: Mapping[str, Any],
    ) -> Any:
        import ray.cloudpickle

        offer(shared)
        self._lender.refs = parts

        def found() -> Any:
            asked = ray.cloudpickle.loads(content)
            return getattr(self, f"_{method}")(ticket, *asked)

        try:
            return _told(found)
        finally:
            self._dropped.discard(ticket)

    def compute(self, *asked: Any) -> tuple[Any, Array | None]:
        """See `computed`; first an error that a user is told, or None."""
        _ = self._here
        task = cast(Evaluator, self._evaluator).task
        found = _told(lambda: computed(task, *asked))
        return (found, None) if isinstance(found, LadleError) else (None, found)

    def drop(self, ticket: str) -> None:
        self._dropped.add(ticket)

    drop.__ray_concurrency_group__ = "control"  # type: ignore[attr-defined]

    def _loaded(self) -> Task:
        task = self._load()
        if isinstance(task, Precomputing):
            task.lend(self._lender)
        one = self._settings
        self._forward = HereForward(
            task,
            device=one.device,
            batch_size=one.batch_size,
            arithmetic=Arithmetic(one.amp, one.channels_last),
        )
        self._evaluator = Evaluator(
            task,
            device=one.device,
            batch_size=one.batch_size,
            amp=one.amp,
            channels_last=one.channels_last,
            forward=self._forward,
        )
        return task

    @property
    def _here(self) -> HereForward:
        if self._forward is None:
            self._loaded()
        return cast(HereForward, self._forward)

    def _each(self, ticket: str, work: Callable[[Evaluator, Any], Any], item: Any) -> Any:
        _ = self._here
        return work(cast(Evaluator, self._evaluator), item)

    def _do(self, ticket: str, work: Callable[[Any], Any], item: Any) -> Any:
        return work(item)

    def _predict(self, ticket: str, soup: Soup, split: str) -> Array:
        return self._here.predict(soup, split, **self._watched(ticket))

    def _piece(self, ticket: str, soup: Soup, split: str, begin: int, end: int) -> Array:
        here = self._here
        task = cast(PredictsInBatches, cast(Evaluator, self._evaluator).task)
        batches = task.in_batches(split, batch_size=self._settings.batch_size)
        # Of all batches, for what is said may depend on which examples there are.
        ordered = [*batches[begin:end], *batches[:begin], *batches[end:]]
        return here.along(soup, split, ordered, None, first=end - begin, **self._watched(ticket))

    def _along(
        self,
        ticket: str,
        soup: Soup,
        split: str,
        batches: Sequence[ExampleNumbers],
        bar: Bar | None,
    ) -> Array:
        return self._here.along(soup, split, batches, bar, **self._watched(ticket))

    def _statistics(
        self, ticket: str, soup: Soup, names: Sequence[str], seed: int
    ) -> dict[str, Tensor]:
        return self._here.statistics(soup, names, seed=seed)

    def _is_exact_for(self, ticket: str, soup: Soup) -> bool:
        self._here.build()
        return self._here.is_exact_for(soup)

    def _watched(self, ticket: str) -> dict[str, Any]:
        from ladle.evaluate import unwatched

        return {"progress": unwatched("", 0), "is_dropped": lambda: ticket in self._dropped}


def _told(work: Callable[[], Any]) -> Any:
    """What `work` gives, or the error that it raised, if it is one that says what to do."""
    try:
        return work()
    except LadleError as error:
        # Some are made of other arguments than their text, and could not travel.
        kind = type(error)
        return error if kind.__init__ is Exception.__init__ else BadInput(str(error))
    except OSError as error:
        import ray.util

        where = f"node {ray.util.get_node_ip_address()} of the Ray cluster"
        path = Path(str(error.filename)) if error.filename else "a file"
        return BadInput(
            f"{where} cannot read {path} ({error.strerror or error}); put it where every node "
            "finds it under this path"
        )
