"""What a person sees: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from ladle.files import as_json

Advance = Callable[[int], None]


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(as_json(document, indent=2) + "\n")


def say(text: str) -> None:
    """A line of the result."""
    # A terminal's narrow no-break spaces are plain ones, which every encoding has.
    sys.stdout.write(text.replace("\N{NARROW NO-BREAK SPACE}", " ") + "\n")


def remark(text: str) -> None:
    """A line beside the result."""
    sys.stderr.write(text + "\n")


def remark_all(sentences: Iterable[str]) -> None:
    """Warnings, each in a line beside the result."""
    for sentence in sentences:
        remark(f"warning: {sentence}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
    """Aligned columns on stdout; the first `left` of them are text, the others numbers."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        say("  ".join(cells).rstrip())


@contextmanager
def watching(text: str, total: int, *, unit: str = "examples") -> Iterator[Advance]:
    """A progress bar on stderr for as long as the work takes; none when not a terminal."""
    if not sys.stderr.isatty():
        yield no_advance
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    counts = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        shown = progress.add_task(_short(text), total=total)
        yield lambda count: progress.advance(shown, count)


def watching_bytes(text: str, nbytes: int) -> AbstractContextManager[Advance]:
    """The same for bytes."""
    return watching(text, nbytes, unit="bytes")


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Progress of several pieces of work in turn: called with a name, steps done, steps in all.

    A bar per piece on a terminal, otherwise a line when one begins.
    """
    current: list[str] = []
    with ExitStack() as stack:
        done_so_far = 0
        advance: Advance = no_advance

        def on_step(name: str, done: int, total: int) -> None:
            nonlocal advance, done_so_far
            if current != [name]:
                stack.close()
                current[:] = [name]
                done_so_far = 0
                if sys.stderr.isatty():
                    advance = stack.enter_context(watching(name, total, unit="steps"))
                else:
                    remark(f"{name}: {total} steps")
            advance(done - done_so_far)
            done_so_far = done

        yield on_step


def no_advance(count: int) -> None:
    """Where there is no bar."""


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
