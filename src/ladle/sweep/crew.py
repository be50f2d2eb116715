"""Who makes the runs of a sweep: this process, or others that are handed the same jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ladle.errors import BadInput, MissingExtra
from ladle.runs.records import BASE, run_name
from ladle.sweep.keeping import Head, Keeping
from ladle.sweep.space import Run
from ladle.sweep.story import Story

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ladle.sweep.maker import Maker
    from ladle.tasks.base import Trainable


@dataclass(frozen=True)
class Job:
    """One folder to be filled: a run, or with number 0 the base that runs start from."""

    number: int
    run: Run | None = None

    @property
    def name(self) -> str:
        return run_name(self.number - 1) if self.number else BASE


@dataclass(frozen=True)
class Plan:
    """What all jobs of a sweep have in common. As small, and as easily sent, as its task is."""

    task: Trainable
    output: Path
    head: Head
    keeping: Keeping
    amp: bool

    def folder(self, job: Job) -> Path:
        """Where it appears when it is complete."""
        return self.output / job.name

    def maker(self, accelerator: Accelerator, *, patience: float = 0.0) -> Maker:
        """What makes them, on this machine."""
        from ladle.sweep.maker import Maker

        return Maker(
            self.task, accelerator, self.keeping, self.head, self.output / BASE, patience=patience
        )


class Crew(Protocol):
    """Makes the folders of a sweep, which continue what a kill had cut off."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes what is common to all runs, and tells."""
        ...

    def make(self, plan: Plan, jobs: Sequence[Job], story: Story) -> None:
        """Fill the folder of each job, in any order; the base is never among others.

        The story hears when a run begins, goes on, and ends; of the base only when it begins.
        """
        ...


class Here:
    """This process, or those that `accelerate launch` started: one run after the other."""

    def __init__(self, device: torch.device | None = None, *, amp: bool = False) -> None:
        self._accelerator = accelerator(device, amp=amp)
        self._maker: Maker | None = None

    @property
    def is_main(self) -> bool:
        return bool(self._accelerator.is_main_process)

    def make(self, plan: Plan, jobs: Sequence[Job], story: Story) -> None:
        maker = self._maker = self._maker or plan.maker(self._accelerator)
        for job in jobs:
            story.begins(job.number)
            if job.run is None:
                maker.base()
                continue
            folder = plan.folder(job)
            maker.run(job.run, folder, partial(story.goes_on, job.number))
            self._accelerator.wait_for_everyone()  # What the main process writes is complete.
            story.ends(job.number, folder)


def accelerator(device: torch.device | None, *, amp: bool) -> Accelerator:
    """What trains on a device, or, of several processes, on the one that is this one's.

    Raises:
        MissingExtra: without accelerate.
        BadInput: if this process has trained with another device or precision.
    """
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
