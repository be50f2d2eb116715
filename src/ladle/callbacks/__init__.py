"""Callbacks that have other training libraries write the folder of a sweep.

`TrainerIngredients` is for transformers' Trainer, `LightningIngredients` for Lightning's. Each is
imported when it is first used, and so is its library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ladle.callbacks.lightning import LightningIngredients as LightningIngredients
    from ladle.callbacks.trainer import TrainerIngredients as TrainerIngredients

_HOMES = {"LightningIngredients": "lightning", "TrainerIngredients": "trainer"}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ladle.callbacks' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ladle.callbacks.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
