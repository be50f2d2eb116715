"""Data sets that the datasets library saved on disk, with `save_to_disk`. Nothing is fetched."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ladle.errors import BadTask, MissingExtra
from ladle.predictions import Labels
from ladle.tasks.labels import class_number
from ladle.tasks.sources import Columns, Source
from ladle.wording import nearest

if TYPE_CHECKING:
    from types import ModuleType

_DATASET, _DICT = "dataset_info.json", "dataset_dict.json"
IMAGE_COLUMNS = Columns(("image",))


def is_saved(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` of a Dataset or DatasetDict leaves."""
    return (path / _DATASET).is_file() or (path / _DICT).is_file()


def open_saved(source: Source) -> Any:
    """The `datasets.Dataset` of a source, its rows still on disk.

    Raises:
        BadTask: the folder cannot be read, or has no such split.
        MissingExtra: without the datasets library.
    """
    library = _datasets()
    try:
        found = library.load_from_disk(str(source.path))
    except IndexError as error:  # what the library says of a data set of no rows
        raise BadTask(f"{source} holds no examples, or a split beside it; leave it out") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise BadTask(f"the datasets library cannot read {source.path}: {reason}") from error
    if isinstance(found, library.DatasetDict):
        if source.split is None:
            raise BadTask(
                f"{source.path} holds several splits ({', '.join(found)}); name one, as in "
                f"{{ path = {source.path.name!r}, split = {next(iter(found), 'train')!r} }}"
            )
        if source.split not in found:
            raise BadTask(
                f"{source.path} has no split {source.split!r}{nearest(source.split, found)}"
            )
        found = found[source.split]
    elif source.split is not None:
        raise BadTask(f"{source.path} is a single data set without splits; leave `split` out")
    if not len(found):
        raise BadTask(f"{source} holds no examples; add some or leave the split out")
    return found


def class_names(dataset: Any, column: str) -> tuple[str, ...] | None:
    """What a ClassLabel column calls its numbers; None for another column, or none."""
    feature = dataset.features.get(column)
    return tuple(feature.names) if isinstance(feature, _datasets().ClassLabel) else None


class SavedImages:
    """The images of a saved data set, read one at a time: `Encoded`."""

    def __init__(self, source: Source, dataset: Any, column: str) -> None:
        images = dataset.select_columns([column]).with_format(None)
        self._rows = images.cast_column(column, _datasets().Image(decode=False))
        self._column = column
        self._source = source
        self._numbers: Sequence[int] = range(len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, index: int) -> BinaryIO:
        """The bytes as they are stored, mostly a PNG or JPEG file."""
        stored = self._rows[index][self._column]
        if stored is None:
            raise BadTask(f"{self.name(index)} has no image; leave the row out")
        if stored["bytes"] is None:
            return Path(stored["path"]).open("rb")
        return io.BytesIO(stored["bytes"])

    def name(self, index: int) -> str:
        return f"{self._source} row {self._numbers[index]}"

    def subset(self, indices: Sequence[int]) -> SavedImages:
        part = copy.copy(self)
        part._rows = self._rows.select(indices)
        part._numbers = [self._numbers[index] for index in indices]
        return part


def read_saved_images(
    source: Source, classes: Sequence[str] | None = None, columns: Columns = IMAGE_COLUMNS
) -> tuple[SavedImages, Labels, tuple[str, ...]]:
    """The images of a saved data set, with their labels and the class names.

    Labels are numbers from 0, or names; `classes` may be left out where the column is a
    ClassLabel, which names them. No image is read yet.

    Raises:
        BadTask: for a missing column, one that holds no images, or a label that is no class.
        MissingExtra: without the datasets library.
    """
    dataset = open_saved(source)
    columns.check(source, dataset.column_names)
    image = columns.inputs[0]
    if not isinstance(dataset.features[image], _datasets().Image):
        raise BadTask(
            f"column {image!r} of {source} holds {dataset.features[image]}, no images; cast it to "
            "datasets.Image() before it is saved"
        )
    own = class_names(dataset, columns.label)
    names = classes or own
    if names is None:
        raise BadTask(
            f"column {columns.label!r} of {source} does not name its classes; give them in order, "
            "as in labels = ['cat', 'dog']"
        )
    labels = [
        class_number(value, names, f"{source} row {row}", own)
        for row, value in enumerate(column_of(dataset, columns.label))
    ]
    return SavedImages(source, dataset, image), np.array(labels, np.int64), tuple(names)


def column_of(dataset: Any, column: str) -> list[Any]:
    """The values of one column as plain Python values, ClassLabels as numbers."""
    table = dataset.select_columns([column]).with_format("arrow")[:]
    values: list[Any] = table.column(column).to_pylist()
    return values


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "datasets") from None
    return datasets  # type: ignore[no-any-return]
