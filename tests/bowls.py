"""Tasks whose landscapes can be worked out by hand, with tests and shifts, that count passes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ladle.checkpoint import MemoryCheckpoint
from ladle.predictions import METRICS, Array, ExampleNumbers, Metric
from ladle.soup import Ingredient
from ladle.tasks import Split
from ladle.tasks.base import Advance, no_progress

ROLES = {"train": "train", "dev": "held-out", "test": "test", "near": "shift", "far": "shift"}


class Bowl:
    """A `PredictsSome`: numbers to predict from `inputs` with any model, by default a linear one.

    A linear model's squared error is a quadratic bowl in its weights. With `classes` the labels are
    classes.
    """

    name = "bowl"

    def __init__(
        self,
        build: Callable[[], nn.Module] | None = None,
        *,
        n: int = 24,
        dims: int = 5,
        classes: int = 0,
        metric: Metric | None = None,
        without: Sequence[str] = (),
        digest: str = "bowl",
    ) -> None:
        generator = np.random.default_rng(0)
        self.digest = digest
        self.metric = metric or METRICS["accuracy" if classes else "mse"]
        self.build = build or (lambda: nn.Linear(dims, max(classes, 1), bias=False).eval())
        self.inputs: dict[str, np.ndarray[Any, Any]] = {}
        self.splits: Mapping[str, Split] = {}
        self.passes: list[tuple[str, int]] = []
        for number, (name, role) in enumerate(ROLES.items()):
            inputs = generator.normal(size=(n + number, dims)).astype(np.float32)
            numbers = generator.normal(size=n + number)
            if name in without:
                continue
            labels = (numbers > 0).astype(np.int64) + (numbers > 1) if classes else numbers
            self.inputs[name] = inputs
            self.splits[name] = Split(name, role, labels, f"{name}-{n}")  # type: ignore[index, arg-type]

    def predict(
        self,
        model: nn.Module,
        split: str,
        *,
        device: torch.device,
        batch_size: int,
        advance: Advance = no_progress,
    ) -> Array:
        every = np.arange(len(self.splits[split]))
        said = self.predict_some(model, split, [every], device=device)
        return next(said)

    def arranged(
        self, split: str, order: ExampleNumbers, *, batch_size: int
    ) -> list[ExampleNumbers]:
        """Not in the order given, as a task may that has its reasons."""
        order = np.roll(order, 1)
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def predict_some(
        self,
        model: nn.Module,
        split: str,
        batches: Sequence[ExampleNumbers],
        *,
        device: torch.device,
    ) -> Generator[Array, None, None]:
        self.passes.append((split, sum(map(len, batches))))
        for batch in batches:
            inputs = torch.from_numpy(self.inputs[split][batch])
            yield model(inputs).detach().numpy()


class Whole:
    """The same task without `PredictsSome`."""

    def __init__(self, bowl: Bowl) -> None:
        self.name, self.digest, self.metric = bowl.name, bowl.digest, bowl.metric
        self.splits, self.build, self.predict = bowl.splits, bowl.build, bowl.predict


def ingredient(name: str, dtype: Any = torch.float32, **tensors: Any) -> Ingredient:
    """A model in memory; tensors are given as arrays."""
    state = {key: torch.as_tensor(np.asarray(value)).to(dtype) for key, value in tensors.items()}
    return Ingredient(name, MemoryCheckpoint(Path(name), state))
