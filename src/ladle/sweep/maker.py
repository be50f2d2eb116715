"""What fills the folders of a sweep: the base, and the runs that start from it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ladle.errors import BadTask, Diverged
from ladle.files import (
    claimed,
    clear_claimed,
    discard,
    fetch_folder,
    is_there,
    publish_folder,
    shared_part_of,
    upload_folder,
)
from ladle.location import is_local
from ladle.predictions import Predictions
from ladle.runs.records import BASE, STEPS, VERSION, Score, step_name, write_run
from ladle.soup import open_pool, uniform_soup
from ladle.sweep.finetune import FineTuning, Moment
from ladle.sweep.keeping import Head, Keeping
from ladle.sweep.pause import Pause, waiting_interrupts
from ladle.sweep.probe import linear_probe
from ladle.sweep.space import Run
from ladle.sweep.turn import TURN, Turn
from ladle.tasks.base import Trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

_STATE = "state.pt"
_BATCH_SIZE = 64
"""Of scoring: what a GPU of any size can do."""


OnMoment = Callable[[Moment, Sequence[Score]], None]
"""Called after each step, with the scores so far."""


@dataclass
class Log:
    """What a run has come to so far, in so many seconds of work."""

    scores: list[Score] = field(default_factory=list)
    seconds: float = 0.0


class Maker:
    """Fills folders for one sweep; each appears when it is complete.

    Where several processes share the work, each has a maker, and only that of the main one writes.
    """

    def __init__(
        self,
        task: Trainable,
        accelerator: Accelerator,
        keeping: Keeping,
        head: Head,
        base: Path,
        *,
        patience: float = 0.0,
    ) -> None:
        """`base` is the folder of what all runs start from.

        Where another process is at a folder, wait for it, so many seconds of `patience` at most.
        """
        self.task, self.accelerator, self.keeping, self.head = task, accelerator, keeping, head
        self._base_folder, self._patience = base, patience
        self._held_out = next(one for one in task.splits.values() if one.role == "held-out")

    def base(self) -> None:
        """Make the base, unless it is there."""
        folder = self._base_folder
        if self.accelerator.is_main_process and not is_there(folder):
            with self._claimed(folder) as part:
                if part is not None:
                    self._fill_base(part)
                    publish_folder(folder)
        self.accelerator.wait_for_everyone()

    def run(self, run: Run, folder: Path, on_moment: OnMoment) -> None:
        """Make a run, from where it was put down if it was; `on_moment` hears of each step."""
        if self.accelerator.is_main_process:
            with self._claimed(folder) as part:
                if part is not None:
                    turn = Turn(shared_part_of(folder))
                    if not is_local(folder):  # Another machine may have been at it.
                        clear_claimed(part)
                        fetch_folder(shared_part_of(folder) / STEPS, part / STEPS)
                    training, pause, log = self._taken_up(run, folder)
                    _Work(self, folder, part, training, pause, log, on_moment, turn).do()
                    publish_folder(folder)
        else:
            training, _, _ = self._taken_up(run, folder)
            with suppress(Diverged):  # There, too, and written down there.
                deque(training.train(), maxlen=0)
        self.accelerator.free_memory()

    @contextmanager
    def _claimed(self, folder: Path) -> Iterator[Path | None]:
        """Where to work on `folder`; None if another finished it while we waited for it."""
        with claimed(folder, patience=self._patience) as part:
            if is_there(folder):
                discard(folder)
                yield None
            else:
                yield part

    def _fill_base(self, part: Path) -> None:
        began = time.monotonic()
        model = self.task.build().to(self.accelerator.device)
        _check_head(self.task, model)
        losses = []
        # A head without parameters was made by other means, and fine-tunings keep it.
        if self.head == "probe" and list(model.get_submodule(self.task.head).parameters()):
            losses.append(linear_probe(self.task, model))
        scores = [self.score(model, 0)]
        clear_claimed(part)
        self.task.save(model, part)
        seconds = time.monotonic() - began
        self.record(part, BASE, training_loss=losses, scores=scores, seconds=seconds)

    def _taken_up(self, run: Run, folder: Path) -> tuple[FineTuning, Pause, Log]:
        """A run as it was put down, or at its start."""
        model = self.task.build(dropout=run.dropout)
        model.load_state_dict(self._start.weights)
        training = FineTuning(
            self.task, model, run, self.accelerator, ema=self.keeping.ema, swa=self.keeping.swa
        )
        pause = Pause(shared_part_of(folder) / _STATE, self._identity(run))
        log = Log()
        if kept := pause.read():
            training.load_state_dict(kept["training"])
            log = Log([Score(*score) for score in kept["scores"]], kept["seconds"])
        self.accelerator.wait_for_everyone()  # Until all have read what one will write.
        return training, pause, log

    @cached_property
    def _start(self) -> _Start:
        """What every run starts from: the same bits, whether the base was made just now or not."""
        pool = open_pool(self._base_folder)
        weights = dict(uniform_soup(pool).load_into(self.task.build()).state_dict())
        return _Start(weights, pool.digests[0])

    def score(self, model: nn.Module, step: int) -> Score:
        """What a model scores on the held-out examples."""
        split, metric = self._held_out, self.task.metric
        logits = self.task.predict(
            model, split.name, device=self.accelerator.device, batch_size=_BATCH_SIZE
        )
        if split.classes is not None:
            logits = split.classes.project(logits)
        # argmax would take NaN for a class.
        finite = np.isfinite(logits).all()
        value = metric(Predictions(split.name, logits, split.labels)) if finite else math.nan
        return Score(step, split.name, metric.name, value)

    def record(self, folder: Path, name: str, *, run: Run | None = None, **facts: Any) -> None:
        """Write the run.json of a folder; the base alone has no run, and started from no other."""
        base = None if run is None else self._start.digest
        settings = None if run is None else asdict(run)
        task = self.task
        facts |= {"task": task.name, "task_digest": task.digest}
        write_run(folder, name, base=base, run=settings, **facts)

    def _identity(self, run: Run) -> str:
        """What the bytes of a run follow from."""
        keeping, amp = asdict(self.keeping), self.accelerator.mixed_precision
        train = [one.digest for one in self.task.splits.values() if one.role == "train"]
        content = [VERSION, asdict(run), keeping, amp, self._start.digest, self.task.digest, train]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class _Start:
    """The base: its weights, as a model of the task has them, and the digest of its file."""

    weights: Mapping[str, torch.Tensor]
    digest: str


@dataclass
class _Work:
    """One run under way, to become `folder`, in the folder `part` of this machine."""

    maker: Maker
    folder: Path
    part: Path
    training: FineTuning
    pause: Pause
    log: Log
    on_moment: OnMoment
    turn: Turn
    _began: float = 0.0

    def do(self) -> None:
        """Train, and write all that is kept of it."""
        from accelerate.utils.memory import should_reduce_batch_size

        failed = None
        try:
            self._train()
        except Diverged as error:
            # A random search meets learning rates that are too high; the others are still wanted.
            failed = str(error)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            failed = "there was not enough memory; lower batch_size in the space"
        self.turn.check()
        clear_claimed(self.part, keep=(TURN, *((_STATE, STEPS) if failed is None else ())))
        training, log = self.training, self.log
        if failed is None:
            with self._timed():
                self._save_end()
        self.maker.record(
            self.part,
            self.folder.name,
            run=training.run,
            step=training.done,
            training_loss=training.losses,
            scores=log.scores,
            failed=failed,
            seconds=log.seconds,
        )
        self.turn.end()
        self.pause.remove()

    def _train(self) -> None:
        keeping, training, log = self.maker.keeping, self.training, self.log
        with self._timed(), waiting_interrupts() as interrupted:
            for moment in training.train():
                if _is_due(keeping.save_every, moment.step):
                    self._save(f"{STEPS}/{step_name(moment.step)}", moment.step)
                if _is_due(keeping.score_every, moment.step) and moment.step < moment.steps:
                    log.scores.append(self.maker.score(training.model, moment.step))
                self.on_moment(moment, log.scores)
                if interrupted():
                    self.pause.keep(self._state())
                    raise KeyboardInterrupt
                self.pause.keep_at_times(self._state)

    def _save_end(self) -> None:
        training = self.training
        self.log.scores.append(self.maker.score(training.model, training.done))
        self.turn.check()
        self.maker.task.save(training.model, self.part)
        for average in training.averages.names():
            with training.averages.in_place(average):
                self._save(average, training.done)

    def _save(self, name: str, step: int) -> None:
        """A further checkpoint of this run, with a record and a score of its own."""
        self.turn.check()
        folder, model = self.part / name, self.training.model
        folder.mkdir(parents=True, exist_ok=True)
        self.maker.task.save(model, folder)
        scores = [self.maker.score(model, step)]
        self.maker.record(
            folder, f"{self.folder.name}/{name}", run=self.training.run, step=step, scores=scores
        )
        if not is_local(self.folder):
            upload_folder(folder, shared_part_of(self.folder) / name)

    def _state(self) -> dict[str, Any]:
        self.turn.check()
        seconds = self.log.seconds + time.monotonic() - self._began
        scores = [astuple(score) for score in self.log.scores]
        return {"training": self.training.state_dict(), "scores": scores, "seconds": seconds}

    @contextmanager
    def _timed(self) -> Iterator[None]:
        self._began = time.monotonic()
        try:
            yield
        finally:
            self.log.seconds += time.monotonic() - self._began


def _check_head(task: Trainable, model: nn.Module) -> None:
    """Check that the labels of a task are classes of its head.

    Raises:
        BadTask: there are more.
    """
    outputs = getattr(model.get_submodule(task.head), "out_features", None)
    for split in task.splits.values():
        # A split with classes of its own counts them, and not those of the head.
        if outputs is None or split.labels.dtype.kind == "f" or split.classes is not None:
            continue
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= outputs:
            raise BadTask(
                f"labels of split {split.name} go from {low} to {high}, but the head {task.head!r} "
                f"of task {task.name} has {outputs} outputs; number classes from 0, and give the "
                "model as many outputs as there are"
            )


def _is_due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
