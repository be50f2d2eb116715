"""What a sweep writes down: `sweep.json`, and a `run.json` in each folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle.errors import BadInput
from ladle.files import as_json, new_file

VERSION = 2
BASE = "base"
SWEEP_RECORD, RUN_RECORD = "sweep.json", "run.json"


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
    output.mkdir(parents=True, exist_ok=True)
    write_record(path, {**ours, "runs": runs})


def read_record(path: Path) -> dict[str, Any]:
    """The content of a record.

    Raises:
        BadInput: the file is damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise BadInput(f"{path} is damaged; use another folder, or delete this one")
    return content


def write_record(path: Path, content: Mapping[str, object]) -> None:
    """Write it whole or not at all."""
    with new_file(path) as part:
        part.write_text(as_json(content, indent=2) + "\n", "utf-8")


def versions() -> dict[str, str]:
    """Of what the bytes of a run may depend on."""
    import torch

    from ladle import __version__

    return {"ladle": __version__, "torch": torch.__version__, "python": platform.python_version()}


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
