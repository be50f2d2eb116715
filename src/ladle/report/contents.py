"""What there is to report on in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ladle.errors import BadInput
from ladle.report.analyses import (
    COMPARISON_RECORD,
    LANDSCAPE_RECORD,
    Comparison,
    Landscape,
    read_comparison,
    read_landscape,
)
from ladle.report.collect import SOUP_RECORD, collect
from ladle.report.record import Record
from ladle.report.sweep_record import SWEEP_RECORD, Sweep, read_sweep

_RECORDS = (SOUP_RECORD, SWEEP_RECORD, LANDSCAPE_RECORD, COMPARISON_RECORD)


@dataclass(frozen=True)
class Contents:
    """The results in a folder, and the landscapes and comparisons in the folders right below it.

    At least one of them is there.
    """

    soup: Record | None
    sweep: Sweep | None
    landscapes: tuple[Landscape, ...]
    comparisons: tuple[Comparison, ...]


def read_contents(folder: Path) -> Contents:
    """The results in a folder, checked.

    Raises:
        BadInput: there are none, or a record is damaged or of another version.
    """
    below = sorted(path for path in _folders_in(folder) if path.suffix != ".part")
    landscapes = _places(folder, below, LANDSCAPE_RECORD)
    comparisons = _places(folder, below, COMPARISON_RECORD)
    soup, sweep = ((folder / name).is_file() for name in (SOUP_RECORD, SWEEP_RECORD))
    if not (soup or sweep or landscapes or comparisons):
        raise BadInput(f"{folder} has no results ({', '.join(_RECORDS)}); {_hint(folder, below)}")
    return Contents(
        collect(folder) if soup else None,
        read_sweep(folder) if sweep else None,
        tuple(read_landscape(path, place) for path, place in landscapes),
        tuple(read_comparison(path, place) for path, place in comparisons),
    )


def _folders_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be read ({error.strerror}); give the output folder of a ladle command"
        ) from error


def _places(folder: Path, below: list[Path], record: str) -> list[tuple[Path, str]]:
    """Where this record is, each with its name on the page."""
    places = [(folder, ""), *((path, path.name) for path in below)]
    return [(path, place) for path, place in places if (path / record).is_file()]


def _hint(folder: Path, below: list[Path]) -> str:
    unfinished = folder.with_name(f"{folder.name}.part")
    if unfinished.exists():
        return f"{unfinished} is unfinished: run its command again, it continues there"
    inside = [str(path) for path in below if any((path / name).is_file() for name in _RECORDS)]
    if inside:
        return f"give {' or '.join(inside)}"
    return "give the output folder of `ladle cook`, `sweep`, `landscape` or `compare`"
