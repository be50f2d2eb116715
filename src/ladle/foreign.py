"""The user's own Python, named as FILE:NAME. The only place where ladle runs code it is given."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladle.errors import BadInput, LadleError, ScoringFailed

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@contextmanager
def running(what: str) -> Iterator[None]:
    """Around every call of the user's code: its errors become ours, its prints go to stderr.

    Raises:
        ScoringFailed: the code raised something, or called exit.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except LadleError:
        raise
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise ScoringFailed(f"{what} failed: {kind}: {error} (--debug shows where)") from error


def is_reference(text: str) -> bool:
    """Whether `text` looks like FILE.py:NAME."""
    file, _, name = text.rpartition(":")
    return file.endswith(".py") and name.isidentifier()


def load_attribute(reference: str) -> Any:
    """The object NAME of FILE.py, which may import its neighbours.

    Raises:
        BadInput: the file is missing, does not run, or has no such name.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not is_reference(reference):
        raise BadInput(f"{reference!r} is not of the form FILE.py:NAME")
    if not path.is_file():
        raise BadInput(f"{path} does not exist; {reference!r} should name a Python file")
    # One module per file, so that two references to it share their state.
    module_name = f"ladle_foreign_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise BadInput(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        # Last, so that a file of the user's does not hide a library of ours.
        sys.path.append(str(path.resolve().parent))
        try:
            with redirect_stdout(sys.stderr):
                spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            raise BadInput(f"{path} does not run: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise BadInput(f"{path} has no {name!r}; name a function or object that it defines")
    return getattr(module, name)


def load_function(reference: str) -> Callable[..., Any]:
    """The function NAME of FILE.py.

    Raises:
        BadInput: as `load_attribute`, or it cannot be called.
    """
    found = load_attribute(reference)
    if not callable(found):
        raise BadInput(f"{reference} is {type(found).__name__}, which cannot be called")
    function: Callable[..., Any] = found
    return function


def offered(group: str) -> dict[str, EntryPoint]:
    """What installed packages offer: entry points of `ladle.recipes`, `.readers` or `.tasks`."""
    from importlib.metadata import entry_points  # Slow, and seldom needed.

    return {entry.name: entry for entry in entry_points(group=group)}


def fingerprint(reference: str) -> str:
    """Changes when the file does."""
    file, _, name = reference.rpartition(":")
    return f"{name} {hashlib.sha256(Path(file).read_bytes()).hexdigest()}"
