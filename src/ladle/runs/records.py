"""The folder of a sweep, whoever wrote it: its names, and the records in it.

DIR/sweep.json                  says what the folder is
DIR/base/                       what every run starts from
DIR/run-0000/                   a finished run: weights, side files and run.json
DIR/run-0000/steps/step-000500/ its weights at an earlier step, with a run.json too
DIR/run-0001.part/              a run that is under way, or was killed
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ladle.errors import BadInput
from ladle.files import as_json, new_file

VERSION = 2
BASE, STEPS = "base", "steps"
SWEEP_RECORD, RUN_RECORD = "sweep.json", "run.json"


@dataclass(frozen=True)
class Score:
    """What a training measured at a step, by the name of the metric; higher is better or not."""

    step: int
    split: str
    metric: str
    value: float


def run_name(number: int) -> str:
    """What run `number` of a sweep and its folder are called, counted from 0."""
    return f"run-{number:04d}"


def step_name(step: int) -> str:
    """The folder of a checkpoint on the way."""
    return f"step-{step:06d}"


def write_run(
    folder: Path,
    name: str,
    *,
    base: str | None,
    run: Mapping[str, Any] | None = None,
    step: int = 0,
    scores: Sequence[Score] = (),
    failed: str | None = None,
    seconds: float | None = None,
    libraries: Sequence[str] = (),
    **more: Any,
) -> None:
    """Write the run.json of a checkpoint.

    `base` is the digest of what it started from, `run` has its hyper-parameters, and `failed` says
    why it has no weights. The versions of Python, ladle, PyTorch and `libraries` are added.
    """
    content = {
        "version": VERSION,
        "name": name,
        "run": run,
        "step": step,
        "scores": [asdict(score) for score in scores],
        "failed": failed,
        "seconds": None if seconds is None else round(seconds, 3),
        **more,
        "versions": {
            "python": platform.python_version(),
            **{library: version(library) for library in ("ladle", "torch", *libraries)},
        },
        "base": base,
    }
    write_record(folder / RUN_RECORD, content)


def write_record(path: Path, content: Mapping[str, object]) -> None:
    """Write a record whole or not at all."""
    with new_file(path) as part:
        part.write_text(as_json(content, indent=2) + "\n", "utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """The content of a record.

    Raises:
        BadInput: the file is damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise BadInput(f"{path} is damaged; use another folder, or delete this file")
    return content
