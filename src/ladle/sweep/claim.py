"""A sweep's claim to its folder: `sweep.json` says of which sweep it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ladle.errors import BadInput
from ladle.files import as_json
from ladle.runs.records import SWEEP_RECORD, VERSION, read_record, write_record


def claim(output: Path, ours: Mapping[str, object], runs: int) -> None:
    """Write sweep.json, or check that the one there is of the same sweep.

    Raises:
        BadInput: it is of another, or the folder holds other things.
    """
    path = output / SWEEP_RECORD
    ours = {"version": VERSION, **ours}
    if path.exists():
        theirs = read_record(path)
        runs = max(runs, theirs.get("runs", 0))
        if differ := _first_difference(ours, theirs):
            raise BadInput(f"{output} holds another sweep: {differ}; use another folder")
    elif output.exists() and any(output.iterdir()):
        raise BadInput(f"{output} is not empty and not a sweep; use another folder")
    write_record(path, {**ours, "runs": runs})


def _first_difference(ours: object, theirs: object, where: str = "") -> str | None:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key, value in ours.items():
            inside = f"{where}.{key}" if where else str(key)
            if found := _first_difference(value, theirs.get(key), inside):
                return found
        return None
    # As JSON has it, where tuples are lists.
    if json.loads(as_json(ours)) == theirs:
        return None
    return f"{where} is {_short(theirs)} there and {_short(ours)} here"


def _short(value: object) -> str:
    text = as_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
