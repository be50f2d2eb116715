"""Held-out examples to learn from: how they are cut into pieces, and what is said about them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ladle.checkpoint.numbers import Float32
from ladle.errors import Diverged
from ladle.predictions import ExampleNumbers, Metric, Predictions, fit_temperature
from ladle.tasks import Split
from ladle.tasks.loss import loss_of

if TYPE_CHECKING:
    from ladle.evaluate.evaluator import Evaluator

_PIECE = 32
"""Examples, at most, that a model computes a slope of at a time. Slopes of pieces are added up in
order, so that it is the same whoever computed them; more workers than pieces find nothing to do."""


@dataclass(frozen=True)
class Slope:
    """A loss, and how it changes with the weights of a soup and with a factor on its logits.

    `weights` has a flat float32 array on the CPU for each tensor that the loss depends on; it
    lasts until the next one is asked for.
    """

    loss: float
    factor: float
    weights: Mapping[str, Float32]

    def check_finite(self, split: str) -> None:
        """
        Raises:
            Diverged: the loss or a slope is not finite.
        """
        sums = (float(one.sum()) for one in self.weights.values())
        if not all(map(math.isfinite, (self.loss, self.factor, *sums))):
            raise Diverged(
                f"the loss on {split} or its gradient stopped being finite; lower --lr, or "
                "leave out checkpoints that are ruined (`ladle check` finds them)"
            )


@dataclass(frozen=True)
class HeldOutExamples:
    """The held-out split as a recipe that learns sees it; `batch_size` is that of tastings."""

    split: Split
    metric: Metric
    batch_size: int
    identity: str
    """What losses and slopes follow from beside the soup: task, examples, arithmetic."""

    @classmethod
    def of(cls, evaluator: Evaluator) -> HeldOutExamples:
        task, split, arithmetic = evaluator.task, evaluator.held_out, evaluator.arithmetic
        known = [arithmetic.identity(task.digest), split.key, evaluator.batch_size, _PIECE]
        identity = sha256(json.dumps(known).encode()).hexdigest()
        return cls(split, task.metric, evaluator.batch_size, identity)

    def pieces(self, step: ExampleNumbers) -> list[ExampleNumbers]:
        """The examples of a step, cut for the slope."""
        return _cut(step, min(_PIECE, self.batch_size))

    def portions(self, examples: ExampleNumbers) -> list[ExampleNumbers]:
        """Examples cut for a tasting."""
        return _cut(examples, self.batch_size)

    def tasted(self, logits: Tensor, labels: Tensor, factor: float) -> tuple[float, float]:
        """The mean loss of logits multiplied by `factor`, and their score, higher-is-better."""
        if not torch.isfinite(logits).all():
            return math.nan, math.nan
        found = Predictions(self.split.name, logits.numpy(), labels.numpy())
        loss = float(loss_of(logits.double() * factor, labels))
        return loss, self.metric.sign * self.metric(found)

    def best_factor(self, logits: Tensor, labels: Tensor) -> float:
        """The factor that gives the lowest loss; 1 for numbers that are predicted."""
        if labels.is_floating_point():
            return 1.0
        return 1.0 / fit_temperature(Predictions(self.split.name, logits.numpy(), labels.numpy()))


def _cut(examples: ExampleNumbers, size: int) -> list[ExampleNumbers]:
    found: Sequence[ExampleNumbers] = np.array_split(examples, math.ceil(len(examples) / size))
    return list(found)
