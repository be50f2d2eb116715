"""Rows with named columns: .csv, .tsv, .jsonl, .parquet, and saved Hugging Face data sets."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ladle.errors import BadTask, MissingExtra
from ladle.tasks.saved import class_names, column_of, is_saved, open_saved
from ladle.tasks.sources import Columns, Source

Row = tuple[str, Mapping[str, object]]
"""Where the row stands, for an error, and its values by column."""


@dataclass(frozen=True)
class Form:
    """How a delimited file is written. `header` names the columns where the first line does not."""

    delimiter: str
    quoted: bool = True
    header: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Table:
    """Rows, read as they are asked for, and what ClassLabel columns call their numbers.

    Lines count from 1, as editors count; rows of Parquet and saved data sets from 0, as pandas.
    """

    rows: Iterator[Row]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_FORMS = {".csv": Form(","), ".tsv": Form("\t")}


def read_table(source: Source, columns: Columns, form: Form | None = None) -> Table:
    """The rows of a source with at least these `columns`.

    A saved data set is known by its content, a file's format by the ending of its name; `form`
    takes the place of what the ending says.

    Raises:
        BadTask: at once or with a row, for a source that is not as described: names the line.
        MissingExtra: without the library that reads the format.
    """
    path = source.path
    if not path.exists():
        raise BadTask(f"{path} does not exist; check the path")
    if is_saved(path):
        return _saved(source, columns)
    if source.split is not None:
        raise BadTask(f"{path} is no saved data set; give the file alone, without `split`")
    ending = path.suffix.lower()
    form = form or _FORMS.get(ending)
    if path.is_file() and form is not None:
        return Table(_readable(path, _delimited(path, columns, form)))
    if path.is_file() and ending == ".jsonl":
        return Table(_readable(path, _json_rows(path, columns)))
    if path.is_file() and ending == ".parquet":
        return _parquet(path, columns)
    raise BadTask(
        f"{path} is not a .csv, .tsv, .jsonl or .parquet file, nor a folder that "
        "Dataset.save_to_disk of datasets wrote; convert it to one of these"
    )


def _parquet(path: Path, columns: Columns) -> Table:
    arrow, parquet = _pyarrow()
    try:
        schema = parquet.read_schema(path)
        columns.check(path, schema.names)
        table = parquet.read_table(path, columns=list(columns.names))
    except (OSError, arrow.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise BadTask(f"{path} cannot be read as Parquet: {reason}") from error
    values = {column: table.column(column).to_pylist() for column in columns.names}
    return Table(_numbered(path, values), _names_in(schema.metadata or {}))


def _saved(source: Source, columns: Columns) -> Table:
    dataset = open_saved(source)
    columns.check(source, dataset.column_names)
    values = {column: column_of(dataset, column) for column in columns.names}
    own = {column: class_names(dataset, column) for column in columns.names}
    return Table(_numbered(source, values), {key: names for key, names in own.items() if names})


def _numbered(where: object, columns: Mapping[str, list[Any]]) -> Iterator[Row]:
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        yield f"{where} row {number}", dict(zip(columns, values, strict=True))


def _names_in(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """The ClassLabel names that the datasets library leaves in a Parquet file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {
            column: tuple(feature["names"])
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _readable(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    try:
        yield from rows
    except OSError as error:
        raise BadTask(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadTask(f"{path} is not UTF-8; convert it, for example with iconv") from None


def _delimited(path: Path, columns: Columns, form: Form) -> Iterator[Row]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=form.delimiter, quoting=quoting)
        try:
            header = form.header or next(reader, [])
            columns.check(f"{path}:1", header)
            for values in reader:
                if not values:
                    continue
                if len(values) != len(header):
                    raise BadTask(
                        f"{path}:{reader.line_num} has {len(values)} fields, but the columns are "
                        f"{', '.join(header)}; mend the line"
                        + (f" (quote a {form.delimiter!r} in a text)" if form.quoted else "")
                        + (", or take a file with labels" if len(values) < len(header) else "")
                    )
                yield f"{path}:{reader.line_num}", dict(zip(header, values, strict=True))
        except csv.Error as error:
            raise BadTask(f"{path}:{reader.line_num} is no valid table: {error}") from error


def _json_rows(path: Path, columns: Columns) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for line, content in enumerate(file, start=1):
            if not content.strip():
                continue
            try:
                row = json.loads(content)
            except json.JSONDecodeError as error:
                raise BadTask(f"{path}:{line} is not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise BadTask(
                    f"{path}:{line} is not a JSON object with the keys "
                    + " and ".join(columns.names)
                )
            columns.check(f"{path}:{line}", list(row))
            yield f"{path}:{line}", row


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "datasets") from None
    return pyarrow, pyarrow.parquet
