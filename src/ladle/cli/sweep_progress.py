"""How far a sweep is, on stderr: live on a terminal, otherwise a line for each run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ladle.cli import screen

if TYPE_CHECKING:
    from ladle.sweep import OnStep, Progress


@contextmanager
def watching() -> Iterator[OnStep]:
    """What to call as a sweep goes on."""
    if not sys.stderr.isatty():
        yield _say_lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        shown = bars.add_task("sweep", total=None)

        def on_step(progress: Progress) -> None:
            done, total = progress.done, progress.total
            bars.update(shown, description=_description(progress), completed=done, total=total)
            if line := _line(progress):
                bars.console.print(line, highlight=False)

        yield on_step


def _say_lines(progress: Progress) -> None:
    if line := _line(progress):
        screen.remark(line)


def _line(progress: Progress) -> str | None:
    """What is said once, when a run is over."""
    if progress.failed is not None:
        return f"{progress.name} failed: {progress.failed}"
    if progress.score is None or progress.moment is not None:
        return None
    return (
        f"{progress.name} ({progress.number} of {progress.runs}): {progress.score:.4f} on held-out"
    )


def _description(progress: Progress) -> str:
    parts = [progress.name]
    if progress.number:
        parts[0] += f" ({progress.number} of {progress.runs})"
    if moment := progress.moment:
        parts.append(f"epoch {moment.epoch}")
        parts.append(f"step {moment.step}/{moment.steps}")
        if moment.loss is not None:
            parts.append(f"loss {moment.loss:.3f}")
    if progress.score is not None:
        parts.append(f"held-out {progress.score:.4f}")
    return "  ".join(parts)
