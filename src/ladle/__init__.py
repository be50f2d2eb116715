"""Model soups: average fine-tuned checkpoints, choose them on held-out data, judge them honestly.

Names are imported when they are first used, so that `import ladle` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ladle.checkpoint import Checkpoint as Checkpoint
    from ladle.checkpoint import open_checkpoint as open_checkpoint
    from ladle.checks import check as check
    from ladle.errors import LadleError as LadleError
    from ladle.evaluate import Evaluator as Evaluator
    from ladle.merge import Linear as Linear
    from ladle.predictions import Metric as Metric
    from ladle.predictions import Predictions as Predictions
    from ladle.predictions import accuracy as accuracy
    from ladle.recipes import best as best
    from ladle.recipes import greedy as greedy
    from ladle.recipes import learned as learned
    from ladle.recipes import screened as screened
    from ladle.recipes import uniform as uniform
    from ladle.report import write_report as write_report
    from ladle.runs import Choice as Choice
    from ladle.soup import Pool as Pool
    from ladle.soup import RunningSoup as RunningSoup
    from ladle.soup import Soup as Soup
    from ladle.soup import Tasting as Tasting
    from ladle.soup import open_pool as open  # noqa: F401
    from ladle.tasks import ImageClassification as ImageClassification
    from ladle.tasks import Task as Task
    from ladle.tasks import TextClassification as TextClassification
    from ladle.tasks import load_task as load_task

_HOMES = {
    "Checkpoint": "checkpoint",
    "Choice": "runs",
    "Evaluator": "evaluate",
    "ImageClassification": "tasks",
    "LadleError": "errors",
    "Linear": "merge",
    "Metric": "predictions",
    "Pool": "soup",
    "Predictions": "predictions",
    "RunningSoup": "soup",
    "Soup": "soup",
    "Task": "tasks",
    "Tasting": "soup",
    "TextClassification": "tasks",
    "accuracy": "predictions",
    "best": "recipes",
    "check": "checks",
    "greedy": "recipes",
    "learned": "recipes",
    "load_task": "tasks",
    "mean_of": "predictions",
    "open": "soup",
    "open_checkpoint": "checkpoint",
    "screened": "recipes",
    "uniform": "recipes",
    "write_report": "report",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ladle' has no attribute {name!r}")
    home = importlib.import_module(f"ladle.{_HOMES[name]}")
    return getattr(home, "open_pool" if name == "open" else name)


def __dir__() -> list[str]:
    return __all__
