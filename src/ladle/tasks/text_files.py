"""Labelled texts, or pairs of texts, from the files and saved data sets that people have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ladle.errors import BadTask
from ladle.tasks.labels import class_number, real_number
from ladle.tasks.sources import Columns, Source
from ladle.tasks.tables import Form, read_table

Text = str | tuple[str, str]
"""What a model is shown: one text, or two of which it says something together."""


TEXT_COLUMNS = Columns(("text",))


def read_texts(
    source: str | Path | Source,
    label_names: Sequence[str] | None,
    columns: Columns = TEXT_COLUMNS,
    form: Form | None = None,
) -> tuple[list[Text], list[int] | list[float]]:
    """The texts and labels of a file or saved data set.

    The first line of a .csv or .tsv file names its columns, others than `columns` are ignored;
    `form` is how a file is written whose ending does not say it. A label is one of
    `label_names`, or its number counted from 0; where a name looks like a number, the name
    counts. A ClassLabel column has names of its own for its numbers, and these are looked up.
    With `label_names` None, labels are numbers for regression.

    Raises:
        BadTask: with file and line or row, for anything that is not as described.
        MissingExtra: without the library that reads the format.
    """
    source = source if isinstance(source, Source) else Source(Path(source))
    table = read_table(source, columns, form)
    own = table.names.get(columns.label)
    texts: list[Text] = []
    classes: list[int] = []
    numbers: list[float] = []
    for place, row in table.rows:
        given = [_text(row[column], column, place) for column in columns.inputs]
        texts.append(given[0] if len(given) == 1 else (given[0], given[1]))
        if label_names is None:
            numbers.append(real_number(row[columns.label], place))
        else:
            classes.append(class_number(row[columns.label], label_names, place, own))
    if not texts:
        raise BadTask(f"{source} holds no examples; add some with a text and a label")
    return texts, numbers if label_names is None else classes


def names_in(
    source: Source, columns: Columns = TEXT_COLUMNS, form: Form | None = None
) -> tuple[str, ...] | None:
    """What the source itself calls the numbers of its labels, if it does."""
    return read_table(source, columns, form).names.get(columns.label)


def _text(value: object, column: str, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadTask(f"{place} has no text in {column!r}; fill it in or delete the example")
    return value
