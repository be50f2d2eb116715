"""What a sweep left, to be compared with what another left."""

from __future__ import annotations

import json
from pathlib import Path


def files(output: Path) -> dict[str, object]:
    """The bytes of everything, but how long it took, and Optuna's book of what happened when."""
    found: dict[str, object] = {}
    for path in sorted(output.rglob("*")):
        name = str(path.relative_to(output))
        if path.name == "run.json":
            found[name] = {**json.loads(path.read_text()), "seconds": None}
        elif path.is_file() and path.name != "optuna.journal":
            found[name] = path.read_bytes()
    return found
