"""Runs of a sweep as Ray tasks.

Each is a task of its own, with the CPUs and GPUs that it asks for. A task whose worker or node is
lost is started again, wherever there is room, and goes on from the last state of the run, which
lies in the sweep's folder, on storage that all nodes share.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.cloudpickle
from ray import exceptions

from ladle.cluster.connect import Cluster
from ladle.cluster.parts import Parts, StoreLender, computed
from ladle.errors import BadInput, BadTask, LadleError
from ladle.files import is_there, new_file, shared_part_of
from ladle.location import is_local
from ladle.predictions import Array
from ladle.runs.records import SWEEP_RECORD, Score
from ladle.sweep.crew import Job, Plan, accelerator
from ladle.sweep.story import Story
from ladle.tasks import Task, Trainable
from ladle.tasks.base import Precomputing

if TYPE_CHECKING:
    from ladle.sweep.finetune import Moment
    from ladle.sweep.maker import Maker

_PROGRESS = "progress.json"
_TELL_SECONDS = 1.0
"""Between two words of a run on how far it is, and between two looks of who watches."""

_TELL_SHARE = 0.02
"""Of the time, what goes into such words at most; a store far away takes them slowly."""

_PATIENCE = 150.0
"""For which a run waits for a worker that had it: NFS takes 90 seconds to give up a dead one."""

_SEEN_SECONDS = 90.0
"""After which, at the latest, one machine sees what another wrote to NFS."""

_CANCEL_SECONDS = 60.0
"""What runs have to put their states down when the sweep is interrupted."""

_ATTEMPTS = 3
"""So often may a run lose its worker without having come any further."""

_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.LocalRayletDiedError,
)


@dataclass(frozen=True)
class Seat:
    """What a run is given of a node: CPUs, and as many threads; and up to one GPU to train on."""

    cpus: int = 1
    gpus: float = 0


@dataclass
class _Attempt:
    """A job in the hands of a worker."""

    job: Job
    before: int
    """Steps that were done when it began."""
    step: int = 0
    fruitless: int = 0
    """Attempts before it that lost their workers and had come no further."""


@dataclass(frozen=True)
class RayCrew:
    """A `Crew` of a cluster's workers, each of which loads the task itself.

    Args:
        load: makes the task on a worker, where it has to be what it is here.
        at_once: at most so many runs are under way; None for as many as there is room for.
        tell: hears, in a sentence, of workers that were lost.
    """

    cluster: Cluster
    load: Callable[[], Task]
    seat: Seat
    at_once: int | None = None
    tell: Callable[[str], None] = print
    _parts: dict[str, Any] = field(default_factory=dict)
    """Where in Ray's store is what runs have in common, by name."""

    @property
    def is_main(self) -> bool:
        return True

    def make(self, plan: Plan, jobs: Sequence[Job], story: Story) -> None:
        """
        Raises:
            BadInput: a node cannot read the output folder, or none has room for a run.
            BadTask: the task is not the same there.
            LadleError: a run lost its workers time and again.
        """
        room = self.cluster.room(cpus=self.seat.cpus, gpus=self.seat.gpus)
        plan = replace(plan, output=plan.output.resolve())
        if all(is_there(plan.folder(job)) for job in jobs):
            return
        self.cluster.check_paths([plan.output / SWEEP_RECORD])
        at_once = min(room, self.at_once or room)
        self.cluster.tell_if_full(self.tell, cpus=self.seat.cpus, gpus=self.seat.gpus)
        self._compute_parts(plan, at_once)
        _Shift(self, plan, story, at_once).work(jobs)

    def _compute_parts(self, plan: Plan, at_once: int) -> None:
        """Have what all runs need computed once, side by side, and not by each worker again.

        Of what is lost with a node later, Ray makes another copy in the same way.
        """
        if self._parts or not isinstance(plan.task, Precomputing):
            return
        order = ray.put(_Order.of(plan, self.load, self.seat))
        task = ray.remote(_computed).options(
            num_cpus=self.seat.cpus, max_retries=_ATTEMPTS, num_returns=2
        )
        what = f"what task {plan.task.name} computes once"

        def ask(*asked: Any) -> Any:
            word, found = task.remote(order, *asked)
            _told(word, what)
            return found

        parts = Parts(ask, at_once)
        try:
            parts.compute(plan.task.parts())
        except _LOST as error:
            raise LadleError(
                f"{what} has lost its workers time and again; see the logs of Ray, and give each "
                "run more room"
            ) from error
        self._parts.update(parts.refs)


def ray_crew(
    cluster: Cluster,
    load: Callable[[], Task],
    *,
    cpus: int | None = None,
    gpus: float | None = None,
    at_once: int | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = print,
) -> RayCrew:
    """A crew whose runs get one CPU, and one GPU if the cluster has any and `device` allows.

    Raises:
        BadInput: `device` is one that no Ray worker has, or does not go with so many GPUs.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise BadInput(f"--device {device} is nothing that Ray gives to runs; leave it out")
    if device == "cpu" and gpus:
        raise BadInput("--device cpu needs no --gpus-per-run; leave one of them out")
    if device == "cuda" and gpus == 0:
        raise BadInput("--device cuda needs --gpus-per-run above 0")
    if gpus is None:
        has_any = any(node.gpus for node in cluster.nodes)
        gpus = 1 if device == "cuda" or (device == "auto" and has_any) else 0
    return RayCrew(cluster, load, Seat(cpus or 1, gpus), at_once, tell)


class _Shift:
    """Some jobs, from the first to the last."""

    def __init__(self, crew: RayCrew, plan: Plan, story: Story, at_once: int) -> None:
        self._crew, self._plan, self._story, self._at_once = crew, plan, story, at_once
        self._sent = ray.put(_Order.of(plan, crew.load, crew.seat))
        self._parts = ray.put(crew._parts)
        self._task = ray.remote(_make).options(
            num_cpus=crew.seat.cpus, num_gpus=crew.seat.gpus, max_retries=0
        )
        self._under_way: dict[Any, _Attempt] = {}
        self._begun: set[int] = set()

    def work(self, jobs: Sequence[Job]) -> None:
        waiting = deque(_Attempt(job, before=0) for job in jobs)
        try:
            while waiting or self._under_way:
                while waiting and len(self._under_way) < self._at_once:
                    attempt = waiting.popleft()
                    self._under_way[self._task.remote(self._sent, self._parts, attempt.job)] = (
                        attempt
                    )
                    if attempt.job.run is None:
                        self._begin(attempt.job)  # It tells nothing on the way.
                over, _ = ray.wait(list(self._under_way), timeout=_TELL_SECONDS)
                for attempt in self._under_way.values():
                    self._look(attempt)
                for ref in over:
                    attempt = self._under_way.pop(ref)
                    if again := self._end(ref, attempt):
                        waiting.appendleft(again)
        except BaseException:
            self._stop()
            raise

    def _look(self, attempt: _Attempt) -> None:
        """Tell how far a run is, if it has gone on."""
        found = _read_progress(shared_part_of(self._plan.folder(attempt.job)))
        if found is None:
            return
        moment, scores = found
        if moment.step != attempt.step:
            attempt.step = moment.step
            self._begin(attempt.job)
            self._story.goes_on(attempt.job.number, moment, scores)

    def _begin(self, job: Job) -> None:
        if job.number not in self._begun:
            self._begun.add(job.number)
            self._story.begins(job.number)

    def _end(self, ref: Any, attempt: _Attempt) -> _Attempt | None:
        """Tell that a job is done; if its worker was lost, the next attempt at it."""
        job = attempt.job
        try:
            node = _told(ref, job.name)
        except _LOST as error:
            return self._lost(attempt, error)
        folder = self._plan.folder(job)
        _wait_until_seen(folder, node)
        self._begin(job)
        if job.run is not None:
            self._story.ends(job.number, folder)
        return None

    def _lost(self, attempt: _Attempt, error: Exception) -> _Attempt:
        self._look(attempt)
        name, came_further = attempt.job.name, attempt.step > attempt.before
        fruitless = 0 if came_further else attempt.fruitless + 1
        why = "has run out of memory" if isinstance(error, exceptions.OutOfMemoryError) else "died"
        if fruitless == _ATTEMPTS:
            raise LadleError(
                f"{name} has lost its worker {_ATTEMPTS} times at step {attempt.step}, for it "
                f"{why}; see the logs of Ray, and give each run more room"
            ) from error
        self._crew.tell(f"the worker of {name} {why} after step {attempt.step}; another goes on")
        return _Attempt(attempt.job, attempt.step, attempt.step, fruitless)

    def _stop(self) -> None:
        """Have the runs under way put their states down."""
        refs = list(self._under_way)
        with suppress(exceptions.RayError):
            for ref in refs:
                ray.cancel(ref, force=False)
            if refs:
                ray.wait(refs, num_returns=len(refs), timeout=_CANCEL_SECONDS)


def _told(ref: Any, what: str) -> Any:
    """What a task gives; what it raised becomes an error of ours."""
    try:
        return ray.get(ref)
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, LadleError):
            kind = BadInput if isinstance(cause, BadInput) else LadleError
            raise kind(f"on node {error.ip}: {cause}") from error
        raise LadleError(f"{what} failed on node {error.ip}: {cause!r}") from error


def _wait_until_seen(folder: Path, node: str) -> None:
    deadline = time.monotonic() + _SEEN_SECONDS
    while not is_there(folder):
        if time.monotonic() > deadline:
            raise BadInput(
                f"node {node} of the Ray cluster has made {folder}, and this machine does not find "
                "it; name an --output on storage that all machines share"
            )
        time.sleep(0.1)
        if is_local(folder):
            os.listdir(folder.parent)  # noqa: PTH208 -- so that NFS looks again


@dataclass(frozen=True)
class _Order:
    """A plan as it is sent: with what makes its task, not the task."""

    load: Callable[[], Task]
    identity: Sequence[str]
    settings: Mapping[str, Any]
    seat: Seat

    @classmethod
    def of(cls, plan: Plan, load: Callable[[], Task], seat: Seat) -> _Order:
        settings = {"output": plan.output, "head": plan.head, "keeping": plan.keeping}
        return cls(load, _identity(plan.task), {**settings, "amp": plan.amp}, seat)

    def plan(self) -> Plan:
        """
        Raises:
            BadTask: the task is not what it is where the order is from.
        """
        task = self.load()
        if not isinstance(task, Trainable) or _identity(task) != self.identity:
            raise BadTask(
                f"task {task.name} is not the same here: its files or data differ; give every node "
                "the same under the same paths"
            )
        return Plan(task=task, **self.settings)


def _identity(task: Task) -> Sequence[str]:
    return [task.name, task.digest, *(split.digest for split in task.splits.values())]


def _computed(order: _Order, *asked: Any) -> tuple[None, Array]:
    """See `computed`; first a word that it is done."""
    return None, computed(_workshop(order).plan.task, *asked)


def _make(order: _Order, parts: Mapping[str, Any], job: Job) -> str:
    """Do a job, on a worker; the address of its node."""
    workshop = _workshop(order)
    folder = workshop.plan.folder(job)
    if not is_there(folder):
        workshop.lender.refs = parts
        if job.run is None:
            workshop.maker.base()
        else:
            workshop.maker.run(job.run, folder, _Telling(shared_part_of(folder)))
    return str(ray.util.get_node_ip_address())


@dataclass
class _Workshop:
    """What a worker opens once for all runs that it makes of a sweep: the data, and the base."""

    key: bytes
    plan: Plan
    maker: Maker
    lender: StoreLender


_workshops: list[_Workshop] = []
"""That of the last sweep, if there was one in this process."""


def _workshop(order: _Order) -> _Workshop:
    key = ray.cloudpickle.dumps(order)
    if not _workshops or _workshops[0].key != key:
        import torch

        torch.set_num_threads(order.seat.cpus)
        plan, lender = order.plan(), StoreLender({})
        if isinstance(plan.task, Precomputing):
            plan.task.lend(lender)
        device = torch.device("cuda" if order.seat.gpus else "cpu")
        maker = plan.maker(accelerator(device, amp=plan.amp), patience=_PATIENCE)
        _workshops[:] = [_Workshop(key, plan, maker, lender)]
    return _workshops[0]


class _Telling:
    """Writes down how far a run is, beside its state, for who watches; not more than need be."""

    def __init__(self, part: Path) -> None:
        self._file, self._due = part / _PROGRESS, 0.0

    def __call__(self, moment: Moment, scores: Sequence[Score]) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        content = {"moment": asdict(moment), "scores": [asdict(score) for score in scores]}
        # A word on the way, no more; it may get lost.
        with suppress(OSError, LadleError), new_file(self._file) as new:
            new.write_text(json.dumps(content), "utf-8")
        self._due = time.monotonic() + max(_TELL_SECONDS, (time.monotonic() - now) / _TELL_SHARE)


def _read_progress(part: Path) -> tuple[Moment, list[Score]] | None:
    from ladle.sweep.finetune import Moment

    try:
        content: Mapping[str, Any] = json.loads((part / _PROGRESS).read_text("utf-8"))
        return Moment(**content["moment"]), [Score(**score) for score in content["scores"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
