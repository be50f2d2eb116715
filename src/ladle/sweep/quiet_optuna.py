"""Optuna, which draws the runs of a sweep and keeps its books."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ladle.errors import MissingExtra


@contextmanager
def quiet_optuna() -> Iterator[Any]:
    """The module, without log lines and warnings.

    It is imported here, late, for it takes a second; and what a program that uses ladle has set
    up for its own studies stays as it is.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtra("optuna", "sweep") from None
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", module=r"optuna\.")
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)
