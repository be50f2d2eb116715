"""A sweep: many fine-tunings of one model from one start, each in a folder of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladle.checkpoint import holds_weights
from ladle.errors import BadInput, BadTask, Diverged
from ladle.soup import open_pool, uniform_soup
from ladle.sweep.space import Run, Space

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ladle.tasks.base import Trainable
from ladle.tasks.held_out import write_list

VERSION = 1
BASE = "base"
_RECORD = "run.json"

OnStep = Callable[[str, int, int], None]
"""Called with the name of a run, its steps done, and its steps in all."""


def no_step(name: str, done: int, total: int) -> None:
    """An `OnStep` that says nothing."""


def sweep(
    task: Trainable,
    output: str | Path,
    *,
    runs: int,
    space: Space | None = None,
    seed: int = 0,
    points: str = "random",
    device: torch.device | None = None,
    on_step: OnStep = no_step,
) -> list[Path]:
    """Fine-tune `runs` ingredients from one linear probe; the folders of the good ones, in order.

    `output` gets sweep.json, base/ (the probe, from which every run starts) and run-000/,
    run-001/ ..., each with what `task.save` writes and a run.json; and held_out.txt, if the
    held-out examples were cut out of the training examples, with their names. A folder appears when
    it is complete; what an interrupted call had finished is kept, so calling again continues, and
    calling with more runs extends. A run whose loss stops being finite leaves a run.json that says
    so, and no weights. Without `space`, the task's own attribute `space` counts (a
    mapping as in a TOML file), or else the defaults of `Space`;
    `points` are those of `Space.runs`. `device` is the CPU by default.

    Raises:
        BadInput: if `output` holds another sweep: of another task, seed, space or points.
    """
    import torch

    output = Path(output)
    if runs < 1:
        raise BadInput(f"a sweep of {runs} runs makes nothing; ask for at least 1")
    space = space_of(task) if space is None else space
    device = torch.device("cpu") if device is None else device
    drawn = space.runs(seed, runs, points)
    _claim(output, task, space, seed, points, runs)
    start = _base(task, output, device, on_step)
    folders = [output / f"run-{number:03d}" for number in range(runs)]
    for number, folder in enumerate(folders):
        if not folder.exists():
            _one_run(task, folder, drawn[number], start, device, on_step)
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


def _claim(output: Path, task: Trainable, space: Space, seed: int, points: str, runs: int) -> None:
    """Write sweep.json, or check that the one there is of the same sweep."""
    training = next((split for split in task.splits.values() if split.role == "train"), None)
    if training is None:
        raise BadTask(f"task {task.name} has no split with the role train; add one")
    ours = {
        "version": VERSION,
        "task": task.name,
        "task_digest": task.digest,
        "training_digest": training.digest,
        "space": space.to_table(),
        "seed": seed,
        "points": points,
        "runs": runs,
    }
    path = output / "sweep.json"
    if path.exists():
        theirs = _read_json(path)
        differ = [key for key in ours if key != "runs" and theirs.get(key) != ours[key]]
        if differ:
            raise BadInput(
                f"{output} holds a sweep with another {' and '.join(differ)}; use another folder"
            )
        ours["runs"] = max(runs, theirs.get("runs", 0))
    elif output.exists() and any(output.iterdir()):
        raise BadInput(f"{output} is not empty and not a sweep; use another folder")
    output.mkdir(parents=True, exist_ok=True)
    for split in task.splits.values():
        if split.drawn is not None:
            write_list(split, output / "held_out.txt")
    _write_json(path, ours)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise BadInput(f"{path} is damaged; use another folder, or delete this one")
    return content


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    part.replace(path)


def _base(
    task: Trainable, output: Path, device: torch.device, on_step: OnStep
) -> dict[str, torch.Tensor]:
    """The state dict every run starts from: the pre-trained model with a fitted head."""
    from ladle.sweep.probe import linear_probe

    folder = output / BASE
    if not folder.exists():
        on_step(BASE, 0, 1)
        began = time.monotonic()
        model = task.build().to(device)
        # A head without parameters was made by other means, and fine-tunings keep it.
        has_head = bool(list(model.get_submodule(task.head).parameters()))
        losses = [linear_probe(task, model)] if has_head else []
        part = _fresh(folder)
        task.save(model, part)
        _complete(task, part, folder, None, losses, time.monotonic() - began)
        on_step(BASE, 1, 1)
    # Read back also when it was just fitted, so that a continued sweep starts from the same bits.
    start = uniform_soup(open_pool(folder)).load_into(task.build())
    return dict(start.state_dict())


def _one_run(
    task: Trainable,
    folder: Path,
    run: Run,
    start: Mapping[str, torch.Tensor],
    device: torch.device,
    on_step: OnStep,
) -> None:
    from ladle.sweep.finetune import finetune

    began = time.monotonic()
    model: nn.Module = task.build(dropout=run.dropout)
    model.load_state_dict(start)
    model.to(device)
    losses: list[float] = []
    diverged = None
    try:
        losses = finetune(
            task, model, run, on_step=lambda done, total: on_step(folder.name, done, total)
        )
    except Diverged as error:
        # A random search meets learning rates that are too high; the others are still wanted.
        diverged = str(error)
    part = _fresh(folder)
    if diverged is None:
        task.save(model, part)
    _complete(task, part, folder, run, losses, time.monotonic() - began, diverged)


def _fresh(folder: Path) -> Path:
    """An empty folder beside `folder`, without what an interrupted call left."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    return part


def _complete(
    task: Trainable,
    part: Path,
    folder: Path,
    run: Run | None,
    losses: list[float],
    seconds: float,
    diverged: str | None = None,
) -> None:
    """Write the record, last of all, and give the folder its name."""
    record = {
        "version": VERSION,
        "name": folder.name,
        "run": None if run is None else asdict(run),
        "training_loss": losses,
        "diverged": diverged,
        "seconds": round(seconds, 3),
        "task": task.name,
        "task_digest": task.digest,
    }
    _write_json(part / _RECORD, record)
    part.replace(folder)
