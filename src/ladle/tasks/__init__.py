"""Tasks: how to build the model, the data splits, and the metric."""

from ladle.tasks.base import Advance, Split, Task, Trainable, no_progress

__all__ = ["Advance", "Split", "Task", "Trainable", "no_progress"]
