"""From what a user writes after --task to a task: a built-in name, a TOML file, FILE.py:NAME."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ladle.errors import BadTask
from ladle.foreign import is_reference, load_attribute, offered, running
from ladle.predictions import METRICS, Metric
from ladle.predictions.metrics import CLASSIFICATION, REGRESSION
from ladle.tasks.base import Role, Task
from ladle.tasks.glue import GLUE
from ladle.tasks.nearest import nearest as _nearest
from ladle.tasks.saved import is_saved
from ladle.tasks.sources import Columns, Source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _demo_text() -> Task:
    from ladle.tasks.demo_text import demo_text

    return demo_text()


def _demo_vision() -> Task:
    from ladle.tasks.demo_vision import demo_vision

    return demo_vision()


BUILT_IN: Mapping[str, Callable[[], Task]] = {"demo-text": _demo_text, "demo-vision": _demo_vision}


def load_task(reference: str | Path) -> Task:
    """The task of this name, of this TOML file, or this object (or function) of a Python file.

    Raises:
        BadTask: there is none, or it is described wrongly.
        MissingExtra: it needs a library that is not installed.
    """
    text = str(reference)
    if text in BUILT_IN:
        return BUILT_IN[text]()
    if is_reference(text):
        return _made(text, load_attribute(text))
    path = Path(text).expanduser()
    if path.suffix == ".toml":
        return _task_of(path)
    others = offered("ladle.tasks")
    if text in others:
        return _made(text, others[text].load())
    raise BadTask(
        f"--task {text!r} is no built-in task{_nearest(text, BUILT_IN)}, no .toml file and no "
        "FILE.py:NAME"
    )


def _made(reference: str, found: Any) -> Task:
    if inspect.isclass(found) or (callable(found) and not isinstance(found, Task)):
        with running(reference):
            found = found()
    if not isinstance(found, Task):
        needed = ("name", "metric", "splits", "digest", "build", "predict")
        lacking = [name for name in needed if not hasattr(found, name)]
        raise BadTask(f"{reference} is no task: it lacks {', '.join(lacking)}")
    if not isinstance(found.metric, Metric):
        raise BadTask(f"{reference}: metric is {found.metric!r}; it has to be a ladle.Metric")
    return found


_MODES = ("max", "min")
# What `labels` says in the place of names, where they are numbers: regression.
_NUMBERS = "numbers"
_SHARED = {"kind", "name", "model", "metric", "mode", "splits", "shifts", "space", "labels"}
_DATA = {"text": {"columns", "glue"}, "image": {"columns"}}
_OWN = {
    "text": {"max_length", "freeze"},
    "image": {"weights", "image_size", "crop", "frozen", "final_layer", "workers"},
}
_TYPES: Mapping[str, tuple[type, str]] = {
    "glue": (str, "a text"),
    "columns": (dict, "a table"),
    "name": (str, "a text"),
    "model": (str, "a text"),
    "metric": (str, "a text"),
    "mode": (str, "a text"),
    "weights": (str, "a text"),
    "final_layer": (str, "a text"),
    "labels": (list, "a list of texts"),
    "frozen": (list, "a list of texts"),
    "max_length": (int, "a whole number"),
    "freeze": (int, "a whole number"),
    "image_size": (int, "a whole number"),
    "workers": (int, "a whole number"),
    "crop": (float, "a number with a point"),
    "splits": (dict, "a table"),
    "shifts": (dict, "a table"),
    "space": (dict, "a table"),
}
_SPLITS = ("train", "held-out", "test")


def _task_of(path: Path) -> Task:
    table = _read(path)
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in _OWN:
        raise BadTask(f"{path}: kind is {kind!r}; it must be 'text' or 'image'")
    _check_keys(path, table, _SHARED | _DATA[kind] | _OWN[kind])
    _check_types(path, table)
    if "glue" in table and table["glue"] not in GLUE:
        raise BadTask(f"{path}: unknown glue {table['glue']!r}{_nearest(table['glue'], GLUE)}")
    splits = table.get("splits", {})
    _check_keys(path, splits, _SPLITS, "splits.")
    if "model" not in table:
        raise BadTask(f"{path} has no key 'model'; add it")
    files: dict[str, tuple[Role, Source]] = {}
    for name in _SPLITS:
        if name in splits:
            files[name] = (name, _source(path, f"splits.{name}", splits[name]))  # type: ignore[assignment]
    for name, file in table.get("shifts", {}).items():
        if name in files:
            raise BadTask(f"{path}: the shift {name!r} has the name of a split; rename it")
        files[name] = ("shift", _source(path, f"shifts.{name}", file))
    shared = {
        "name": str(table.get("name", path.stem)),
        "metric": _metric(path, table),
        "space": table.get("space"),
    }
    own = {key: table[key] for key in _OWN[kind] if key in table}
    make = _text_task if kind == "text" else _image_task
    return make(path, table, files, {**shared, **own})


def _text_task(
    path: Path,
    table: Mapping[str, Any],
    files: Mapping[str, tuple[Role, Source]],
    arguments: Mapping[str, Any],
) -> Task:
    from ladle.tasks.text import TextClassification
    from ladle.tasks.text_files import TEXT_COLUMNS, names_in, read_texts

    glue = GLUE[table["glue"]] if "glue" in table else None
    readings = {}
    for name, (_, source) in files.items():
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
        name: (files[name][0], *read_texts(source, names, columns, form))
        for name, (source, columns, form) in readings.items()
    }
    folder = path.parent / Path(table["model"]).expanduser()
    return TextClassification(model=folder, splits=splits, label_names=names, **arguments)


def _image_task(
    path: Path,
    table: Mapping[str, Any],
    files: Mapping[str, tuple[Role, Source]],
    arguments: Mapping[str, Any],
) -> Task:
    from ladle.tasks.saved import IMAGE_COLUMNS, read_saved_images
    from ladle.tasks.vision import ImageClassification, Images
    from ladle.tasks.vision_pictures import read_image_folder

    labels = table.get("labels")
    columns = _columns(path, table, IMAGE_COLUMNS)
    splits = {}
    images: Images
    for name, (role, source) in files.items():
        if is_saved(source.path) or source.split is not None:
            images, numbers, classes = read_saved_images(source, labels, columns)
        else:
            images, numbers, classes = read_image_folder(source.path, labels)
        labels = list(classes) if labels is None else labels
        splits[name] = (role, images, numbers)
    model = str(table["model"])
    if is_reference(model):
        file, _, name = model.rpartition(":")
        builder: Any = load_attribute(f"{path.parent / file}:{name}")
    else:
        builder = model
    if "weights" in table:
        arguments = {**arguments, "weights": path.parent / Path(table["weights"]).expanduser()}
    return ImageClassification(
        model=builder,
        splits=splits,
        label_names=labels or (),
        **arguments,
    )


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
            raise BadTask(f"{path}: unknown key {prefix + key!r}{_nearest(key, known)}")


def _check_types(path: Path, table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if (key, value) == ("labels", _NUMBERS) and table["kind"] == "text":
            continue
        kind, words = _TYPES.get(key, (object, ""))
        # bool is an int to Python, and `true` is no number of layers.
        fits = isinstance(value, kind) and not (isinstance(value, bool) and kind is int)
        if fits and kind is list:
            fits = all(isinstance(item, str) for item in value)
        if not fits:
            raise BadTask(f"{path}: {key} is {value!r}; it has to be {words}")


def _source(path: Path, key: str, value: object) -> Source:
    """What a split is read from: a path, or { path, split } of several that were saved together."""
    table = value if isinstance(value, dict) else {"path": value}
    _check_keys(path, table, ("path", "split"), f"{key}.")
    file, split = table.get("path"), table.get("split")
    if not isinstance(file, str) or not isinstance(split, str | None):
        raise BadTask(
            f"{path}: {key} is {value!r}; it has to be a path, or {{ path = '...', split = '...' }}"
        )
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
        file, _, function = name.rpartition(":")
        score = load_attribute(f"{path.parent / file}:{function}")
        if isinstance(score, Metric):
            return score
        if mode not in _MODES:
            raise BadTask(
                f"{path}: metric {name!r} has no direction; add mode = 'max' where higher is "
                "better, or mode = 'min'"
            )
        return Metric(function, score, higher_is_better=mode == "max")
    if name not in METRICS:
        raise BadTask(f"{path}: unknown metric {name!r}{_nearest(name, METRICS)}")
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
