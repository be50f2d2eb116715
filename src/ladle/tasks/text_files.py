"""Labelled texts from the files people have: .csv, .tsv and .jsonl."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ladle.errors import BadInput

COLUMNS = ("text", "label")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_texts(path: str | Path, label_names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The texts and labels of a file with the columns (or JSON keys) `text` and `label`.

    The ending of the name decides the format; the first line of a .csv or .tsv file names its
    columns, others than these two are ignored. A label is one of `label_names`, or its number
    counted from 0; where a name looks like a number, the name counts.

    Raises:
        BadInput: with file and line, for anything that is not as described.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (*_DELIMITERS, ".jsonl"):
        raise BadInput(f"{path} is not a .csv, .tsv or .jsonl file; convert it to one of these")
    numbers = {name: number for number, name in enumerate(label_names)}
    texts: list[str] = []
    labels: list[int] = []
    rows = _json_lines(path) if ending == ".jsonl" else _table(path, _DELIMITERS[ending])
    try:
        for line, row in rows:
            text, label = (row.get(column) for column in COLUMNS)
            if not isinstance(text, str) or not text.strip():
                raise BadInput(f"{path}:{line} has no text; fill the column or delete the line")
            number = numbers.get(str(label), _as_number(label))
            if number is None or not 0 <= number < len(label_names):
                raise BadInput(
                    f"{path}:{line} has the label {label!r}; write one of {', '.join(label_names)}"
                    f" or a number from 0 to {len(label_names) - 1}"
                )
            texts.append(text)
            labels.append(number)
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8; convert it, for example with iconv") from None
    if not texts:
        raise BadInput(f"{path} holds no examples; add lines with a text and a label")
    return texts, labels


def _as_number(label: object) -> int | None:
    if isinstance(label, bool) or not isinstance(label, int | str):
        return None
    try:
        return int(label)
    except ValueError:
        return None


def _table(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise BadInput(
                f"{path}:1 names no column {' and no column '.join(missing)}; "
                f"the first line must hold {delimiter.join(COLUMNS)!r}"
            )
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise BadInput(
                f"{path}:{reader.line_num} is not valid {path.suffix}: {error}"
            ) from error


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, content in enumerate(file, start=1):
            if not content.strip():
                continue
            try:
                row = json.loads(content)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}:{line} is not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise BadInput(f"{path}:{line} is not a JSON object with the keys text and label")
            yield line, row
