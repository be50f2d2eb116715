"""A sweep: many fine-tunings of one model from one start, each in a folder of its own."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladle.checkpoint import holds_weights
from ladle.errors import BadInput, BadTask, MissingExtra
from ladle.runs.records import BASE, RUN_RECORD, Score, read_record, run_name
from ladle.sweep.claim import claim
from ladle.sweep.keeping import Head, Keeping
from ladle.sweep.space import Space
from ladle.tasks.held_out import write_list

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ladle.sweep.finetune import Moment
    from ladle.sweep.study import Study
    from ladle.tasks.base import Trainable


@dataclass(frozen=True)
class Progress:
    """Where a sweep is: in run `name`, the `number`th of `runs`, counted from 1; 0 is the base.

    `done` of `total` steps of all runs together are over. `moment` tells of the last one, None
    where a run begins or ends; `score` is the last on held-out examples, None before there is one;
    `failed` says why a run that ended has no weights.
    """

    name: str
    number: int
    runs: int
    done: int
    total: int
    moment: Moment | None = None
    score: float | None = None
    failed: str | None = None


OnStep = Callable[[Progress], None]


def no_step(progress: Progress) -> None:
    """An `OnStep` that says nothing."""


def sweep(
    task: Trainable,
    output: str | Path,
    *,
    runs: int,
    space: Space | None = None,
    points: str = "random",
    seed: int = 0,
    device: torch.device | None = None,
    head: Head = "probe",
    keeping: Keeping | None = None,
    amp: bool = False,
    retry_failed: bool = False,
    on_step: OnStep = no_step,
) -> list[Path]:
    """Fine-tune `runs` ingredients from one base; the folders of the good ones, in order.

    `output` gets sweep.json, optuna.journal (an Optuna study, whose trial i is run i), base/ (from
    which every run starts) and run-0000/, run-0001/ ..., each with what `task.save` writes and a
    run.json; and held_out.txt, if the held-out examples were cut out of the training examples, with
    their names. A folder appears when it is complete. What an interrupted call had finished is
    kept and the run that it was in goes on from its last state, so calling again continues, with
    the same bytes; and calling with more runs extends. A run that diverges, or has not enough
    memory, leaves a run.json that says so, and no weights.

    Under `accelerate launch`, its processes share each run.

    Args:
        space: what runs are drawn from; None for the task's own attribute `space` (a mapping as in
            a TOML file), or else the defaults of `Space`.
        points: how: at `random`, along a `sobol` sequence, or all of a `grid`.
        device: where to train; the CPU by default.
        head: `probe` fits the task's final layer to the training examples first, so that no
            fine-tuning starts from a random one; `as-is` keeps what the model came with. A head
            that has no parameters, such as a zero-shot head, is always kept.
        keeping: what else a run leaves; nothing by default.
        amp: train in bfloat16 where PyTorch's autocast does.
        retry_failed: try again what failed in an earlier call.

    Raises:
        BadInput: if `output` holds another sweep, or the space does not suit the task.
        MissingExtra: without accelerate or Optuna.
    """
    # Before torch is loaded, which takes a second.
    if runs < 1:
        raise BadInput(f"a sweep of {runs} runs makes nothing; ask for at least 1")
    output = Path(output)
    space = space_of(task) if space is None else space
    drawn = space.runs(seed, runs, points=points)
    keeping = Keeping() if keeping is None else keeping
    from ladle.sweep.finetune import steps_of, training_split
    from ladle.sweep.maker import Maker
    from ladle.sweep.mixing import check_run
    from ladle.sweep.study import Study

    for run in drawn:
        check_run(task, run)
    about = {
        "task": task.name,
        "task_digest": task.digest,
        "training_digest": training_split(task).digest,
        "head": head,
        "space": space.to_table(),
        "points": points,
        "seed": seed,
        "amp": amp,
        **asdict(keeping),
    }
    accelerator = _accelerator(device, amp=amp)
    is_main = accelerator.is_main_process
    if is_main:
        claim(output, about, runs)
        for split in task.splits.values():
            if split.drawn is not None:
                write_list(split, output / "held_out.txt")
        if retry_failed:
            _forget_failed(output)
    maker = Maker(task, accelerator, keeping)
    story = _Story(
        [steps_of(task, run) for run in drawn],
        Study(output, f"{task.name}-{seed}", task.metric, space, drawn) if is_main else None,
        on_step if is_main else no_step,
    )
    story.begins(0, BASE)
    maker.base(output / BASE, head)
    folders = [output / run_name(number) for number in range(runs)]
    for number, folder in enumerate(folders, 1):
        if not folder.exists():
            story.begins(number, folder.name)
            maker.run(drawn[number - 1], folder, story.goes_on)
        accelerator.wait_for_everyone()  # What the main process writes is complete.
        story.ends(number, folder)
    return [folder for folder in folders if holds_weights(folder)]


def space_of(task: Trainable) -> Space:
    """What the task itself says to draw from, in its attribute `space`, or the defaults."""
    table = getattr(task, "space", None)
    if table is None:
        return Space()
    if not isinstance(table, Mapping):
        raise BadTask(
            f"the space of task {task.name} is a {type(table).__name__}; "
            f"make it a mapping, as a TOML file would hold"
        )
    return Space.from_table(table, f"the space of task {task.name}")


class _Story:
    """Tells the study, and who watches, how far a sweep is; `steps` are those of each run."""

    def __init__(self, steps: Sequence[int], study: Study | None, on_step: OnStep) -> None:
        self._steps, self._study, self._on_step = steps, study, on_step
        self._number, self._name = 0, BASE

    def begins(self, number: int, name: str) -> None:
        """A run, or the base, which is number 0."""
        self._number, self._name = number, name
        if number and self._study is not None:
            self._study.started(number - 1)
        self._tell(0)

    def goes_on(self, moment: Moment, scores: Sequence[Score]) -> None:
        """A step of the run that began last is over."""
        self._tell(moment.step, moment=moment, score=scores[-1].value if scores else None)
        if scores and scores[-1].step == moment.step and self._study is not None:
            self._study.report(self._number - 1, moment.step, scores[-1].value)

    def ends(self, number: int, folder: Path) -> None:
        """A run is there, made now or earlier."""
        self._number, self._name = number, folder.name
        record = read_record(folder / RUN_RECORD)
        failed, scores = record["failed"], record["scores"]
        score = scores[-1]["value"] if scores else None
        if self._study is not None and failed is None:
            # What is no number is null in a record.
            self._study.finished(number - 1, math.nan if score is None else score)
        elif self._study is not None:
            self._study.failed(number - 1, failed)
        self._tell(self._steps[number - 1], score=score, failed=failed)

    def _tell(self, done: int, **more: Any) -> None:
        before = sum(self._steps[: max(0, self._number - 1)])
        runs, total = len(self._steps), sum(self._steps)
        self._on_step(Progress(self._name, self._number, runs, before + done, total, **more))


def _accelerator(device: torch.device | None, *, amp: bool) -> Accelerator:
    """What trains on a device, or, of several processes, on the one that is this one's."""
    import torch

    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError:
        raise MissingExtra("accelerate", "sweep") from None
    if device is not None and device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    precision = "bf16" if amp else "no"
    # A model may have parts that a task does not use, such as a pooler.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        return Accelerator(
            cpu=device is None or device.type == "cpu",
            mixed_precision=precision,
            kwargs_handlers=[unused],
        )
    except ValueError as error:
        # accelerate has one state for all of a process.
        raise BadInput(
            f"this process has trained with another device or precision already ({error}); start "
            "a new one"
        ) from error


def _forget_failed(output: Path) -> None:
    """Remove runs that failed, and the journal, which is written anew from those that are there."""
    from ladle.sweep.study import JOURNAL

    for record in output.glob(f"run-*/{RUN_RECORD}"):
        if read_record(record).get("failed") is not None:
            shutil.rmtree(record.parent)
            (output / JOURNAL).unlink(missing_ok=True)
