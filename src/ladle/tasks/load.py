"""From what a user writes after --task to a task: a built-in name, a TOML file, FILE.py:NAME."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ladle.errors import BadTask
from ladle.foreign import is_reference, load_attribute, offered, running
from ladle.predictions import Metric
from ladle.tasks.base import Task
from ladle.tasks.task_file import read_task_file
from ladle.wording import nearest


def _demo_text() -> Task:
    from ladle.tasks.demo_text import demo_text

    return demo_text()


def _demo_vision() -> Task:
    from ladle.tasks.demo_vision import demo_vision

    return demo_vision()


BUILT_IN: Mapping[str, Callable[[], Task]] = {"demo-text": _demo_text, "demo-vision": _demo_vision}


def load_task(reference: str | Path, *, skip_corrupt: bool = False) -> Task:
    """The task of this name, of this TOML file, or this object (or function) of a Python file.

    `skip_corrupt` leaves out images that cannot be read, as the key of that name in a file does;
    the task's `remarks` say which.

    Raises:
        BadTask: there is none, or it is described wrongly.
        MissingExtra: it needs a library that is not installed.
    """
    text = str(reference)
    if skip_corrupt and not text.endswith(".toml"):
        raise BadTask(
            f"--skip-corrupt is for tasks of images in a .toml file; {text} reads its own data"
        )
    if text in BUILT_IN:
        return BUILT_IN[text]()
    if is_reference(text):
        return _made(text, load_attribute(text))
    path = Path(text).expanduser()
    if path.suffix == ".toml":
        return read_task_file(path, {"skip_corrupt": True} if skip_corrupt else {})
    others = offered("ladle.tasks")
    if text in others:
        return _made(text, others[text].load())
    raise BadTask(
        f"--task {text!r} is no built-in task{nearest(text, BUILT_IN)}, no .toml file and no "
        "FILE.py:NAME"
    )


def loader(reference: str | Path, *, skip_corrupt: bool = False) -> Callable[[], Task]:
    """What loads the same task in any working directory and, once it was sent there, process."""
    text = str(reference)
    if is_reference(text) or text.endswith(".toml"):
        text = str(Path(text).expanduser().absolute())
    return partial(load_task, text, skip_corrupt=skip_corrupt)


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
