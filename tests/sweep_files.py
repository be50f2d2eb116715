"""What a sweep left, to be compared with what another left."""

from __future__ import annotations

import json
from pathlib import Path


def files(output: Path) -> dict[str, object]:
    """The bytes of everything, but how long it took (on the page, too), and Optuna's book."""
    found: dict[str, object] = {}
    for path in sorted(output.rglob("*")):
        name = str(path.relative_to(output))
        if path.name == "run.json":
            found[name] = {**json.loads(path.read_text()), "seconds": None}
        elif path.is_file() and path.name not in ("optuna.journal", "report.html"):
            found[name] = path.read_bytes()
    return found
