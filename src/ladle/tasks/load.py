"""From what a user writes after --task to a task: a built-in name, a TOML file, FILE.py:NAME."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ladle.errors import BadTask
from ladle.foreign import is_reference, load_attribute, offered, running
from ladle.predictions import METRICS, Metric
from ladle.predictions.metrics import REGRESSION
from ladle.tasks.base import Role, Task

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
_SHARED = {"kind", "name", "model", "metric", "mode", "splits", "shifts", "space", "labels"}
_OWN = {
    "text": {"max_length", "freeze"},
    "image": {
        "weights",
        "image_size",
        "crop",
        "frozen",
        "final_layer",
        "workers",
        "head",
        "class_names",
        "templates",
    },
}
_LINES = "a list of texts, or a file with one on each line"
_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "name": (str, "a text"),
    "model": (str, "a text"),
    "metric": (str, "a text"),
    "mode": (str, "a text"),
    "weights": (str, "a text"),
    "final_layer": (str, "a text"),
    "labels": (list, "a list of texts"),
    "frozen": (list, "a list of texts"),
    "head": (str, "a text"),
    "class_names": ((list, str), _LINES),
    "templates": ((list, str), _LINES),
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
    _check_keys(path, table, _SHARED | _OWN[kind])
    _check_types(path, table)
    splits = table.get("splits", {})
    _check_keys(path, splits, _SPLITS, "splits.")
    if "model" not in table:
        raise BadTask(f"{path} has no key 'model'; add it")
    files: dict[str, tuple[Role, Path]] = {}
    for name in _SPLITS:
        if name in splits:
            files[name] = (name, path.parent / Path(str(splits[name])).expanduser())  # type: ignore[assignment]
    for name, file in table.get("shifts", {}).items():
        if name in files:
            raise BadTask(f"{path}: the shift {name!r} has the name of a split; rename it")
        files[name] = ("shift", path.parent / Path(str(file)).expanduser())
    shared = {
        "name": str(table.get("name", path.stem)),
        "metric": _metric(path, str(table.get("metric", "accuracy")), table.get("mode")),
        "space": table.get("space"),
    }
    own = {key: table[key] for key in _OWN[kind] if key in table}
    make = _text_task if kind == "text" else _image_task
    return make(path, table, files, {**shared, **own})


def _text_task(
    path: Path,
    table: Mapping[str, Any],
    files: Mapping[str, tuple[Role, Path]],
    arguments: Mapping[str, Any],
) -> Task:
    from ladle.tasks.text import TextClassification
    from ladle.tasks.text_files import read_texts

    labels = table.get("labels")
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise BadTask(f"{path}: give the label names in order, as in labels = ['no', 'yes']")
    splits = {name: (role, *read_texts(file, labels)) for name, (role, file) in files.items()}
    folder = path.parent / Path(table["model"]).expanduser()
    return TextClassification(model=folder, splits=splits, label_names=labels, **arguments)


def _image_task(
    path: Path,
    table: Mapping[str, Any],
    files: Mapping[str, tuple[Role, Path]],
    arguments: Mapping[str, Any],
) -> Task:
    from ladle.tasks.vision import ImageClassification
    from ladle.tasks.vision_clip import texts_named
    from ladle.tasks.vision_pictures import read_image_folder

    labels = table.get("labels")
    splits = {}
    for name, (role, folder) in files.items():
        images, numbers, classes = read_image_folder(folder, labels)
        labels = list(classes) if labels is None else labels
        splits[name] = (role, images, numbers)
    model = str(table["model"])
    if is_reference(model):
        file, _, name = model.rpartition(":")
        builder: Any = load_attribute(f"{path.parent / file}:{name}")
    elif model.startswith("open_clip:") and model.endswith(".json"):
        file = model.partition(":")[2]
        builder = f"open_clip:{path.parent / Path(file).expanduser()}"
    else:
        builder = model
    for key in ("class_names", "templates"):
        if isinstance(table.get(key), str):
            arguments = {**arguments, key: texts_named(key, table[key], path.parent)}
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
        kind, words = _TYPES.get(key, (object, ""))
        # bool is an int to Python, and `true` is no number of layers.
        fits = isinstance(value, kind) and not (isinstance(value, bool) and kind is int)
        if fits and isinstance(value, list):
            fits = all(isinstance(item, str) for item in value)
        if not fits:
            raise BadTask(f"{path}: {key} is {value!r}; it has to be {words}")


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(sorted(known))})"


def _metric(path: Path, name: str, mode: object) -> Metric:
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
    if metric in REGRESSION:
        raise BadTask(f"{path}: metric {name!r} is of numbers, and this task has classes")
    if mode not in (None, _MODES[not metric.higher_is_better]):
        raise BadTask(
            f"{path}: mode is {mode!r}, but {name} has a direction of its own; leave it out"
        )
    return metric
