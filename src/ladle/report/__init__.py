"""One self-contained page about an output folder, from its records alone, and its figures."""

from __future__ import annotations

from pathlib import Path

from ladle.files import new_file, refuse_existing
from ladle.report.collect import collect
from ladle.report.contents import Contents, read_contents
from ladle.report.table import tabulate
from ladle.report.words import verdict as _verdict

__all__ = ["render", "verdict", "write_report"]

FIGURES = "figures"
"""The folder of a page's figures, as files."""


def verdict(folder: Path) -> list[str]:
    """What came out, in one to three plain sentences, from the records of a soup's folder.

    Raises `BadInput` when a record is missing, damaged or of another version.
    """
    record = collect(folder)
    return _verdict(record, tabulate(record))


def render(folder: Path) -> str:
    """The page about an output folder, as one HTML text.

    Raises `BadInput` when there are no records, or one is damaged or of another version.
    """
    return _drawn(read_contents(folder), None)


def write_report(folder: Path, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """The path of the written page: `report.html` in the folder unless `output` says otherwise.

    The file appears whole or not at all. The folder's own page is replaced, and with it go its
    figures, as files in `figures/`; another file is replaced only with `overwrite`, else
    `OutputExists`, and has the figures and their data only in itself.
    """
    if output is not None:
        refuse_existing(output, overwrite=overwrite, is_file=True, is_ours=True)
    contents = read_contents(folder)
    text = _drawn(contents, folder / FIGURES if output is None else None)
    output = folder / "report.html" if output is None else output
    with new_file(output) as part:
        part.write_text(text, encoding="utf-8")
    return output


def _drawn(contents: Contents, files: Path | None) -> str:
    """The page, and its figures as files in a folder if one is given."""
    # Here, for they take a while to load: whoever imports `ladle` may want no page.
    from ladle.report.compose import compose
    from ladle.report.drawing import draw, write_files
    from ladle.report.page import render as rendered

    head, sections = compose(contents)
    figures = [one for section in sections for group in section.figures for one in group]
    drawings = {figure.name: draw(figure) for figure in figures}
    text = rendered(head, sections, drawings)
    if files is not None:
        for drawn in drawings.values():
            write_files(drawn, files)
    return text
