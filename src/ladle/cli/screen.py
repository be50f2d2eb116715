"""What a person sees: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from ladle.files import as_json

if TYPE_CHECKING:
    from rich.text import Text

Advance = Callable[[int], None]

_GAP = 2
"""Blanks between the columns of a table."""

_LEAST_NAME = 10
"""Names are not folded to less than this, however narrow the terminal."""


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


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Aligned columns on stdout; the first is text, the others are numbers.

    Nothing is cut: where a terminal is too narrow, the last columns follow below, beside the first
    column again, and names that would take more than half of it go on in the next line. A pipe is
    as wide as need be, unless COLUMNS says otherwise.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = [
        [cell if isinstance(cell, Text) else Text(cell) for cell in line]
        for line in (columns, *rows)
    ]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(columns))]
    console = Console(highlight=False)
    in_one_line = sum(widths) + _GAP * len(widths)
    is_bounded = console.is_terminal or "COLUMNS" in os.environ
    room = console.width if is_bounded else in_one_line
    widths[0] = min(widths[0], max(room - (in_one_line - widths[0]), room // 2, _LEAST_NAME))
    # Rich cuts what is wider; a terminal does not.
    console.width = in_one_line
    for number, block in enumerate(_blocks(widths, room)):
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=False)
        table.add_column(width=widths[0], overflow="fold")
        for i in block:
            table.add_column(width=widths[i], no_wrap=True)
        for line in lines:
            table.add_row(line[0], *(_to_the_right(line[i], widths[i]) for i in block))
        with console.capture() as shown:
            console.print(table)
        if number:
            say("")
        for text in shown.get().splitlines():
            say(text.rstrip())


def _width(cell: Text) -> int:
    return max(line.cell_len for line in cell.split("\n", allow_blank=True))


def _to_the_right(cell: Text, width: int) -> Text:
    # Not by `justify`, which takes away the blank that stands for a mark.
    lines = cell.split("\n", allow_blank=True)
    for line in lines:
        line.align("right", width)
    return type(cell)("\n").join(lines)


def _blocks(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Which columns fit beside the first; one too wide for itself has a block of its own."""
    block: list[int] = []
    used = widths[0]
    for i in range(1, len(widths)):
        if block and used + _GAP + widths[i] > room:
            yield block
            block, used = [], widths[0]
        block.append(i)
        used += _GAP + widths[i]
    yield block


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


_IN_USE = threading.Lock()


@contextmanager
def watching_one(text: str, total: int) -> Iterator[Advance]:
    """A bar where much is under way at a time: one thing's, for there is room for one."""
    if not _IN_USE.acquire(blocking=False):
        yield no_advance
        return
    try:
        with watching(text, total) as advance:
            yield advance
    finally:
        _IN_USE.release()


def watching_bytes(text: str, nbytes: int) -> AbstractContextManager[Advance]:
    """The same for bytes."""
    return watching(text, nbytes, unit="bytes")


def no_advance(count: int) -> None:
    """Where there is no bar."""


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
