"""What a training leaves behind: checkpoints, and what is known about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What a training recorded about a checkpoint.

    `step` counts whatever the framework counts (optimizer steps, epochs), within one run.
    """

    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    def over(self, other: Facts) -> Facts:
        """These facts, and those of `other` where these say nothing."""
        return Facts(
            other.step if self.step is None else self.step,
            {**other.metrics, **self.metrics},
            {**other.hyperparameters, **self.hyperparameters},
        )


@dataclass(frozen=True)
class Member:
    """A checkpoint found in a folder: `path` is what `open_checkpoint` takes.

    `run` is the folder of the training that it is of; `name` is set where a list of members gives
    one.
    """

    path: Path
    run: Path
    facts: Facts = field(default_factory=Facts)
    name: str | None = None


@dataclass(frozen=True)
class Found:
    """Members in order, run by run and step by step, and remarks on what was left out, and why."""

    members: tuple[Member, ...] = ()
    remarks: tuple[str, ...] = ()
