"""Where the examples of a split are, and which columns of them count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ladle.errors import BadTask
from ladle.wording import nearest


class Source(NamedTuple):
    """A file or folder and, in a saved DatasetDict, the name of the split in there."""

    path: Path
    split: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.split is None else f"{self.path}[{self.split}]"


class Columns(NamedTuple):
    """What a model is shown, one column or more, and the label it is to give."""

    inputs: tuple[str, ...]
    label: str = "label"

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.inputs, self.label)

    def check(self, where: object, there: Sequence[str]) -> None:
        """Raise `BadTask`, with the nearest names, unless all are among those that are there."""
        missing = [name for name in self.names if name not in there]
        if not missing:
            return
        advice = "say with `columns` which ones count"
        if missing == [self.label]:
            advice = "take data with labels, which test sets may lack, or say where with `columns`"
        named = " and no column ".join(f"{name}{nearest(name, there)}" for name in missing)
        raise BadTask(f"{where} names no column {named}; {advice}")
