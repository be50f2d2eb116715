"""A sweep: many fine-tunings of one model from one start, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ladle.checkpoint import holds_weights
from ladle.errors import BadInput, BadTask
from ladle.files import is_there, part_of, remove_folder, upload_folder
from ladle.location import is_local, located
from ladle.runs.records import RUN_RECORD, read_record
from ladle.sweep.claim import claim
from ladle.sweep.crew import Crew, Here, Job, Plan
from ladle.sweep.keeping import Head, Keeping
from ladle.sweep.space import Space
from ladle.sweep.story import OnStep, Story, no_step
from ladle.tasks.held_out import write_list

if TYPE_CHECKING:
    import torch

    from ladle.tasks.base import Trainable


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
    crew: Crew | None = None,
) -> list[Path]:
    """Fine-tune `runs` ingredients from one base; the folders of the good ones, in order.

    `output`, a path or a URL that fsspec can write to, gets sweep.json, optuna.journal (an Optuna
    study, whose trial i is run i), base/ (from which every run starts) and run-0000/, run-0001/
    ..., each with what `task.save` writes and a run.json; and held_out.txt, if the held-out
    examples were cut out of the training examples, with their names. A folder appears when it is
    complete. What an interrupted call had finished is kept and the run that it was in goes on from
    its last state, so calling again continues, with the same bytes; and calling with more runs
    extends. A run that diverges, or has not enough memory, leaves a run.json that says so, and no
    weights.

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
        crew: who makes the runs; by default this process, on `device`. Others, such as those of
            `ladle.cluster`, have their own devices.

    Raises:
        BadInput: if `output` holds another sweep, or the space does not suit the task.
        MissingExtra: without accelerate or Optuna.
    """
    # Before torch is loaded, which takes a second.
    if runs < 1:
        raise BadInput(f"a sweep of {runs} runs makes nothing; ask for at least 1")
    output = located(output)
    space = space_of(task) if space is None else space
    drawn = space.runs(seed, runs, points=points)
    keeping = Keeping() if keeping is None else keeping
    from ladle.sweep.finetune import steps_of, training_split
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
    crew = Here(device, amp=amp) if crew is None else crew
    if crew.is_main:
        claim(output, about, runs)
        for split in task.splits.values():
            if split.drawn is not None:
                write_list(split, output / "held_out.txt")
        if retry_failed:
            _forget_failed(output)
    plan = Plan(task, output, head, keeping, amp)
    steps = [steps_of(task, run) for run in drawn]
    jobs = [Job(number, run) for number, run in enumerate(drawn, 1)]
    folders = [plan.folder(job) for job in jobs]
    is_made = [is_there(folder) for folder in folders]
    with ExitStack() as stack:
        study = None
        if crew.is_main:
            books = stack.enter_context(_books(output))
            study = Study(books, f"{task.name}-{seed}", task.metric, space, drawn)
        story = Story(steps, study, on_step if crew.is_main else no_step)
        crew.make(plan, [Job(0)], story)
        for job, folder, made in zip(jobs, folders, is_made, strict=True):
            if made:
                story.ends(job.number, folder)
        left = [job for job, made in zip(jobs, is_made, strict=True) if not made]
        crew.make(plan, left, story)
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


@contextmanager
def _books(output: Path) -> Iterator[Path]:
    """Where Optuna writes its journal: in the sweep's folder, or, as it needs the locks of a disk,
    on this machine, from where it is put behind a URL in the end."""
    if is_local(output):
        yield output
        return
    from ladle.sweep.study import JOURNAL

    here = part_of(output)
    here.mkdir(parents=True, exist_ok=True)
    try:
        yield here
    finally:
        upload_folder(here, output)
    (here / JOURNAL).unlink()
    here.rmdir()


def _forget_failed(output: Path) -> None:
    """Remove runs that failed, and the journal, which is written anew from those that are there."""
    from ladle.sweep.study import JOURNAL

    for record in output.glob(f"run-*/{RUN_RECORD}"):
        if read_record(record).get("failed") is not None:
            remove_folder(record.parent)
            for folder in (output, part_of(output)):
                (folder / JOURNAL).unlink(missing_ok=True)
