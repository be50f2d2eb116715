"""A task out of a TOML file: what a user writes where no code of their own is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ladle.errors import BadTask
from ladle.foreign import is_reference, load_attribute
from ladle.predictions import METRICS, Metric
from ladle.predictions.metrics import CLASSIFICATION, REGRESSION
from ladle.tasks.base import Role, Task
from ladle.tasks.glue import GLUE
from ladle.tasks.held_out import Rule, cut_out, read_rule
from ladle.tasks.saved import is_saved
from ladle.tasks.sources import Columns, Source
from ladle.wording import nearest

if TYPE_CHECKING:
    from ladle.tasks.vision_splits import Examples

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SPLITS = ("train", "held-out", "test")
_MODES = ("max", "min")
_NUMBERS = "numbers"
"""What `labels` says in the place of names, where they are numbers: regression."""


class _Described(NamedTuple):
    """A file, read and checked: where its splits are, and what every kind of task takes."""

    path: Path
    table: Mapping[str, Any]
    sources: Mapping[str, tuple[Role, Source]]
    rule: Rule | None
    shared: Mapping[str, Any]

    def near(self, given: str) -> Path:
        """A path in the file, which is relative to it."""
        return self.path.parent / Path(given).expanduser()

    def some(self, *keys: str) -> dict[str, Any]:
        """Those of the keys that are there."""
        return {key: self.table[key] for key in keys if key in self.table}


def read_task_file(path: Path, flags: Mapping[str, Any]) -> Task:
    """The task that a TOML file describes; `flags` are keys given on the command line.

    Raises:
        BadTask: it is described wrongly, with file, key and what to do.
        MissingExtra: it needs a library that is not installed.
    """
    table = _read(path)
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise BadTask(f"{path}: kind is {kind!r}; it must be {' or '.join(map(repr, _KINDS))}")
    if "skip_corrupt" in flags and "skip_corrupt" not in _KINDS[kind].keys:
        raise BadTask(f"{path} is a task of kind {kind!r}; --skip-corrupt is for images")
    table |= flags
    _check_keys(path, table, _SHARED | _KINDS[kind].keys)
    _check_types(path, table)
    if "glue" in table and table["glue"] not in GLUE:
        raise BadTask(f"{path}: unknown glue {table['glue']!r}{nearest(table['glue'], GLUE)}")
    splits = table.get("splits", {})
    _check_keys(path, splits, _SPLITS, "splits.")
    if "model" not in table:
        raise BadTask(f"{path} has no key 'model'; add it")
    rule = read_rule(path, splits)
    sources: dict[str, tuple[Role, Source]] = {}
    for name in _SPLITS:
        if name in splits and not (rule and name == "held-out"):
            sources[name] = (name, _source(path, kind, f"splits.{name}", splits[name]))  # type: ignore[assignment]
    for name, given in table.get("shifts", {}).items():
        if name in splits:
            raise BadTask(f"{path}: the shift {name!r} has the name of a split; rename it")
        sources[name] = ("shift", _source(path, kind, f"shifts.{name}", given))
    shared = {
        "name": str(table.get("name", path.stem)),
        "metric": _metric(path, table),
        "space": table.get("space"),
    }
    return _KINDS[kind].make(_Described(path, table, sources, rule, shared))


# --- the kinds ----------------------------------------------------------------------------


def _text_task(described: _Described) -> Task:
    from ladle.tasks.text import TextClassification
    from ladle.tasks.text_files import TEXT_COLUMNS, names_in, read_texts
    from ladle.tasks.text_splits import Texts

    path, table, sources, rule, shared = described
    glue = GLUE[table["glue"]] if "glue" in table else None
    readings = {}
    for name, (_, source) in sources.items():
        columns, form = glue.reading(source.path) if glue else (TEXT_COLUMNS, None)
        readings[name] = (source, _columns(path, table, columns), form)
    labels = table.get("labels", glue and glue.labels)
    if labels is None and readings:
        labels = names_in(*next(iter(readings.values())))
    if labels is None:
        raise BadTask(
            f"{path}: give the label names in order, as in labels = ['no', 'yes'], or labels = "
            f"'{_NUMBERS}' for regression"
        )
    names = None if labels == _NUMBERS else labels
    splits = {
        name: Texts(sources[name][0], *read_texts(source, names, columns, form))
        for name, (source, columns, form) in readings.items()
    }
    if rule:
        splits = cut_out(splits, rule, _rows(splits["train"].texts), names or ())
    return TextClassification(
        model=described.near(table["model"]),
        splits=splits,
        label_names=names,
        **shared,
        **described.some("max_length", "freeze"),
    )


def _image_task(described: _Described) -> Task:
    from ladle.tasks.saved import IMAGE_COLUMNS, read_saved_images
    from ladle.tasks.vision_pictures import Images, read_image_folder
    from ladle.tasks.vision_splits import Examples

    path, table, sources, _, _ = described
    labels = table.get("labels")
    columns = _columns(path, table, IMAGE_COLUMNS)
    saved = {name for name, (_, s) in sources.items() if is_saved(s.path) or s.split is not None}
    if "columns" in table and not saved:
        raise BadTask(f"{path}: columns are of saved data sets, and there is none; leave them out")
    splits = {}
    images: Images
    for name, (role, source) in sources.items():
        if name in saved:
            images, numbers, classes = read_saved_images(source, labels, columns)
        else:
            images, numbers, classes = read_image_folder(source.path, labels)
        labels = list(classes) if labels is None else labels
        splits[name] = Examples(role, images, numbers)
    return _task_of_images(described, splits, labels or ())


def _imagenet_task(described: _Described) -> Task:
    from ladle.tasks.imagenet import Wanted, read_examples, synsets

    path, table, sources, _, _ = described
    if "labels" in table:
        raise BadTask(f"{path}: the labels of kind 'imagenet' are ImageNet's own; leave them out")
    given = {**table.get("splits", {}), **table.get("shifts", {})}
    wanted = {
        name: Wanted.read(path, name, role, source.path, given[name])
        for name, (role, source) in sources.items()
    }
    splits = {name: read_examples(one) for name, one in wanted.items()}
    return _task_of_images(described, splits, synsets())


def _task_of_images(
    described: _Described, splits: Mapping[str, Examples], label_names: Iterable[str]
) -> Task:
    from ladle.tasks.vision import ImageClassification
    from ladle.tasks.vision_clip import texts_named
    from ladle.tasks.vision_pictures import names_within

    path, table, sources, rule, shared = described
    names = tuple(label_names)
    if rule:
        train, folder = splits["train"].images, sources["train"][1].path
        called = names_within(folder, train) if isinstance(train, list) else _rows(train)
        splits = cut_out(splits, rule, called, names)
    model: Any = table["model"]
    library, _, name = model.partition(":")
    if is_reference(model):
        model = load_attribute(str(path.parent / model))
    elif library == "open_clip" and name.endswith(".json"):
        model = f"open_clip:{described.near(name)}"
    given = described.some(*_OF_IMAGES)
    if "weights" in given:
        given["weights"] = described.near(given["weights"])
    for key in ("class_names", "templates"):
        if isinstance(given.get(key), str):
            given[key] = texts_named(key, given[key], path.parent)
    return ImageClassification(model=model, splits=splits, label_names=names, **shared, **given)


def _rows(examples: Any) -> list[str]:
    """What examples without names are called in a list: the numbers of their rows."""
    return [str(row) for row in range(len(examples))]


_SHARED = {"kind", "name", "model", "metric", "mode", "splits", "shifts", "space", "labels"}
_OF_IMAGES = {
    "weights",
    "image_size",
    "crop",
    "frozen",
    "final_layer",
    "workers",
    "skip_corrupt",
    "head",
    "class_names",
    "templates",
}


class _Kind(NamedTuple):
    """What makes tasks of a kind, its own keys, and those of a split beside `path`."""

    make: Callable[[_Described], Task]
    keys: set[str]
    of_a_split: set[str]


_KINDS: Mapping[str, _Kind] = {
    "text": _Kind(_text_task, {"columns", "glue", "max_length", "freeze"}, {"split"}),
    "image": _Kind(_image_task, {"columns", *_OF_IMAGES}, {"split"}),
    "imagenet": _Kind(_imagenet_task, _OF_IMAGES, {"set", "crop_border"}),
}


# --- reading and checking -----------------------------------------------------------------

_LINES = "a list of texts, or a file with one on each line"
_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "name": (str, "a text"),
    "model": (str, "a text"),
    "metric": (str, "a text"),
    "mode": (str, "a text"),
    "weights": (str, "a text"),
    "final_layer": (str, "a text"),
    "glue": (str, "a text"),
    "head": (str, "a text"),
    "class_names": ((list, str), _LINES),
    "templates": ((list, str), _LINES),
    "labels": (list, "a list of texts"),
    "frozen": (list, "a list of texts"),
    "max_length": (int, "a whole number"),
    "freeze": (int, "a whole number"),
    "image_size": (int, "a whole number"),
    "workers": (int, "a whole number"),
    "skip_corrupt": (bool, "true or false"),
    "crop": (float, "a number with a point"),
    "columns": (dict, "a table"),
    "splits": (dict, "a table"),
    "shifts": (dict, "a table"),
    "space": (dict, "a table"),
}


def _read(path: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadTask(f"{path} does not exist; check the path after --task") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadTask(f"{path} is no TOML: {error}") from error
    return table


def _check_keys(
    path: Path, table: Mapping[str, Any], known: Iterable[str], prefix: str = ""
) -> None:
    for key in table:
        if key not in known:
            raise BadTask(f"{path}: unknown key {prefix + key!r}{nearest(key, known)}")


def _check_types(path: Path, table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if (key, value) == ("labels", _NUMBERS) and table["kind"] == "text":
            continue
        kind, words = _TYPES.get(key, (object, ""))
        # bool is an int to Python, and `true` is no number of layers.
        fits = isinstance(value, kind) and not (isinstance(value, bool) and kind is int)
        if fits and isinstance(value, list):
            fits = all(isinstance(item, str) for item in value)
        if not fits:
            raise BadTask(f"{path}: {key} is {value!r}; it has to be {words}")


def _source(path: Path, kind: str, key: str, given: object) -> Source:
    """What a split is read from: a path, or a table that says more of it."""
    table = given if isinstance(given, Mapping) else {"path": given}
    _check_keys(path, table, {"path", *_KINDS[kind].of_a_split}, f"{key}.")
    file, split = table.get("path"), table.get("split")
    if not isinstance(file, str):
        more = ", split = 'train'" if "split" in _KINDS[kind].of_a_split else ""
        raise BadTask(
            f"{path}: {key} has no path; write it as in {key} = 'PATH', or as {{ path = 'PATH'"
            f"{more} }}"
        )
    if not isinstance(split, str | None):
        raise BadTask(f"{path}: {key}.split is {split!r}; it has to be the name of a split")
    return Source(path.parent / Path(file).expanduser(), split)


def _columns(path: Path, table: Mapping[str, Any], own: Columns) -> Columns:
    """Columns by their own names, unless the table gives others."""
    kind, most = table["kind"], 2 if table["kind"] == "text" else 1
    given = table.get("columns", {})
    _check_keys(path, given, (kind, "label"), "columns.")
    inputs = given.get(kind, list(own.inputs))
    names = [inputs] if isinstance(inputs, str) else inputs
    label = given.get("label", own.label)
    fits = isinstance(names, list) and 1 <= len(names) <= most and isinstance(label, str)
    if not fits or not all(isinstance(name, str) for name in names):
        raise BadTask(
            f"{path}: columns is {given!r}; give the name of {kind} and of label"
            + (", or a list of two names for pairs of texts" if most == 2 else "")
        )
    return Columns(tuple(names), label)


def _metric(path: Path, table: Mapping[str, Any]) -> Metric:
    regression = table.get("labels") == _NUMBERS
    if "glue" in table and not regression:
        usual = GLUE[table["glue"]].metric.name
    else:
        usual = "mse" if regression else "accuracy"
    name, mode = table.get("metric", usual), table.get("mode")
    if is_reference(name):
        score = load_attribute(str(path.parent / name))
        if isinstance(score, Metric):
            return score
        if mode not in _MODES:
            raise BadTask(
                f"{path}: metric {name!r} has no direction; add mode = 'max' where higher is "
                "better, or mode = 'min'"
            )
        return Metric(name.rpartition(":")[2], score, higher_is_better=mode == "max")
    if name not in METRICS:
        raise BadTask(f"{path}: unknown metric {name!r}{nearest(name, METRICS)}")
    metric = METRICS[name]
    if metric in (CLASSIFICATION if regression else REGRESSION):
        of, has = ("classes", "numbers") if regression else ("numbers", "classes")
        fitting = ", ".join(one.name for one in (REGRESSION if regression else CLASSIFICATION))
        raise BadTask(
            f"{path}: metric {name!r} is of {of}, and this task has {has}; choose from {fitting}"
        )
    if mode not in (None, _MODES[not metric.higher_is_better]):
        raise BadTask(
            f"{path}: mode is {mode!r}, but {name} has a direction of its own; leave it out"
        )
    return metric
