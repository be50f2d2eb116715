"""Tasks: how to build the model, the data splits, and the metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ladle.tasks.base import (
    Advance,
    Augmenting,
    Differentiable,
    Drawn,
    Mixable,
    PredictsInBatches,
    PredictsSome,
    Split,
    Task,
    Trainable,
    no_progress,
)
from ladle.tasks.load import BUILT_IN, load_task

if TYPE_CHECKING:
    from ladle.tasks.text import TextClassification
    from ladle.tasks.vision import ImageClassification

__all__ = [
    "BUILT_IN",
    "Advance",
    "Augmenting",
    "Differentiable",
    "Drawn",
    "ImageClassification",
    "Mixable",
    "PredictsInBatches",
    "PredictsSome",
    "Split",
    "Task",
    "TextClassification",
    "Trainable",
    "load_task",
    "no_progress",
]


def __getattr__(name: str) -> Any:
    # The built-in tasks import torch, which loading a name must not.
    if name == "TextClassification":
        from ladle.tasks.text import TextClassification

        return TextClassification
    if name == "ImageClassification":
        from ladle.tasks.vision import ImageClassification

        return ImageClassification
    raise AttributeError(f"module 'ladle.tasks' has no attribute {name!r}")
