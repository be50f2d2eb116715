"""One self-contained page about an output folder, from its records alone."""

from __future__ import annotations

from pathlib import Path

from ladle.files import new_file, refuse_existing
from ladle.report.collect import collect
from ladle.report.page import page
from ladle.report.table import tabulate
from ladle.report.words import verdict as _verdict

__all__ = ["render", "verdict", "write_report"]


def verdict(folder: Path) -> list[str]:
    """What came out, in one to three plain sentences, from the records of an output folder.

    Raises `BadInput` when a record is missing, damaged or of another version.
    """
    record = collect(folder)
    return _verdict(record, tabulate(record))


def render(folder: Path) -> str:
    """The page about an output folder, as one HTML text.

    Raises `BadInput` when a record is missing, damaged or of another version.
    """
    return page(collect(folder))


def write_report(folder: Path, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """The path of the written page: `report.html` in the folder unless `output` says otherwise.

    The file appears whole or not at all. The folder's own page is replaced; another file only
    with `overwrite`, else `OutputExists`.
    """
    if output is not None:
        refuse_existing(output, overwrite=overwrite, is_file=True, is_ours=True)
    text = render(folder)
    output = folder / "report.html" if output is None else output
    with new_file(output) as part:
        part.write_text(text, encoding="utf-8")
    return output
