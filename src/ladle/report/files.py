"""Records on disk: found, parsed, and of a version that can be read."""

from __future__ import annotations

import json
from pathlib import Path

from ladle.errors import BadInput
from ladle.report.fields import Fields


def read_object(path: Path) -> Fields:
    """The JSON object in a file.

    Raises:
        BadInput: it is missing, cannot be read, or holds something else.
    """
    return _parsed(_text(path), str(path))


def lines_of(path: Path) -> list[Fields]:
    """The JSON objects in a file, one per line.

    Raises:
        BadInput: see `read_object`; the message names the line.
    """
    lines = enumerate(_text(path).splitlines(), start=1)
    return [_parsed(line, f"{path}, line {i}") for i, line in lines if line.strip()]


def check_version(record: Fields, *known: int) -> None:
    """Check that a record is of a version that is known here.

    Raises:
        BadInput: it is of another.
    """
    found = record.values.get("version")
    if found not in known or isinstance(found, bool):
        raise BadInput(
            f"{record.where} has version {json.dumps(found)}, this ladle reads version "
            f"{' or '.join(map(str, known))}; make the report with the ladle that wrote it, or "
            "upgrade ladle"
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); make it again") from error


def _parsed(text: str, where: str) -> Fields:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where} is not JSON ({error}); make it again") from None
    if not isinstance(value, dict):
        raise BadInput(f"{where} does not hold a JSON object; make it again")
    return Fields(value, where)
