"""Slopes of a loss on held-out examples in the weights of a soup, for recipes that learn.

A recipe never imports this: it is handed an evaluation, and asks it for `gradients`.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ladle.checkpoint.dtypes import AVERAGED
from ladle.checkpoint.numbers import Float32
from ladle.errors import BadInput
from ladle.evaluate.examples import HeldOutExamples, Slope
from ladle.evaluate.model import find_device
from ladle.foreign import running
from ladle.merge import Merge, differing
from ladle.predictions import ClassSubset, ExampleNumbers, Labels
from ladle.soup import Policy, Pool, Soup, uniform_soup
from ladle.tasks import Differentiable
from ladle.tasks.loss import loss_of

if TYPE_CHECKING:
    from ladle.evaluate.evaluator import Evaluator


@dataclass(frozen=True)
class Batch:
    """Held-out examples of one step, in parts that the model sees at a time."""

    size: int
    parts: Sequence[tuple[Any, Tensor]]


class HeldOutGradients:
    """Losses of soups of one pool on held-out examples, and their slopes in the weights.

    Among a soup's ingredients may be soups of the pool. There is one model, whose weights are
    merged in place; only the tensors that differ between the ingredients are ever merged again, and
    only those have slopes.
    """

    def __init__(self, evaluator: Evaluator, pool: Pool, *, integers: Policy = "equal") -> None:
        """
        Raises:
            BadInput: the task offers no gradients.
            LayoutMismatch: the pool does not fit into the task's model.
        """
        task = evaluator.task
        if not isinstance(task, Differentiable):
            raise BadInput(
                f"task {task.name!r} cannot be learned on: it lacks `labelled` or `logits`, which "
                "give a recipe gradients; add them, or choose another --recipe"
            )
        self._task: Differentiable = task
        self._split = evaluator.held_out
        self._examples = HeldOutExamples.of(evaluator)
        self._arithmetic = evaluator.arithmetic
        self._watch = evaluator.watch
        self._pool = pool
        self.workspace: Path | None = evaluator.workspace
        self._device = find_device(evaluator.device)
        with running(f"building the model of task {task.name!r}"):
            self._model = self._arithmetic.laid_out(task.build().to(self._device).eval())
        start = uniform_soup(pool, integers=integers)
        start.load_into(self._model)
        self._loaded: tuple[Pool, Merge] = (pool, start.merge)
        self.differing = differing([one.checkpoint for one in pool], list(pool.layout.tensors))
        self.tensors = self._learnable(start.names_in(self._model))
        self._settle()

    @property
    def split(self) -> str:
        """The name of the held-out split."""
        return self._split.name

    @property
    def labels(self) -> Labels:
        """(N,) of all held-out examples; classes, or numbers for regression."""
        return self._split.labels

    @property
    def identity(self) -> str:
        """What losses and slopes follow from beside the soup: task, examples, arithmetic."""
        return self._examples.identity

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Those of the model's parameters that slopes are of, by the tensors' names."""
        named = dict(self._model.named_parameters(remove_duplicate=False))
        return {name: named[own].dtype for name, own in self._parameters.items()}

    def batches(self, steps: Sequence[ExampleNumbers]) -> Generator[Batch, None, None]:
        """The examples of each step, read when it is asked for.

        What this gives depends on the model's tensors that never change, so it goes with it.
        """
        parts = [self._examples.pieces(step) for step in steps]
        total = sum(map(len, steps))
        with self._watch(f"learning on {self.split}", total) as advance:
            found = self._labelled([part for one in parts for part in one])
            for step, of_step in zip(steps, parts, strict=True):
                yield Batch(len(step), [next(found) for _ in of_step])
                advance(len(step))

    def __call__(self, soup: Soup, batch: Batch, factor: float) -> Slope:
        """The mean loss of a soup on a batch, its logits multiplied by `factor`.

        Raises:
            Diverged: the loss or a slope is not finite.
        """
        self._load(soup)
        scale = torch.tensor(factor, device=self._device, requires_grad=True)
        for parameter in self._model.parameters():
            parameter.grad = None
        total = 0.0
        with running(f"task {self._task.name!r} on {self.split}"), torch.enable_grad():
            for inputs, labels in batch.parts:
                said = self._said(inputs) * scale
                loss = loss_of(said, labels) * (len(labels) / batch.size)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
        named = dict(self._model.named_parameters(remove_duplicate=False))
        slopes = {name: _flat(named[own].grad) for name, own in self._parameters.items()}
        weights = {name: slope for name, slope in slopes.items() if slope is not None}
        change = float(scale.grad) if scale.grad is not None else 0.0
        slope = Slope(total, change, weights)
        slope.check_finite(self.split)
        return slope

    def of_piece(self, soup: Soup, examples: ExampleNumbers, size: int, factor: float) -> Slope:
        """What these examples, read now, bring to the slope of a step of `size`; see `pieces`."""
        return self(soup, Batch(size, list(self._labelled([examples]))), factor)

    def taste(self, soup: Soup, examples: ExampleNumbers, factor: float) -> tuple[float, float]:
        """The mean loss of a soup on these examples, and its score, which is higher-is-better."""
        return self._examples.tasted(*self.predicted(soup, examples), factor)

    def best_factor(self, soup: Soup, examples: ExampleNumbers) -> float:
        """The factor on a soup's logits that gives the lowest loss on these examples.

        1 where they are no logits but numbers that are predicted.
        """
        return self._examples.best_factor(*self.predicted(soup, examples))

    def predicted(self, soup: Soup, examples: ExampleNumbers) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and labels of some examples, on the CPU."""
        self._load(soup)
        said, labels = [], []
        parts = self._examples.portions(examples)
        with running(f"task {self._task.name!r} on {self.split}"), torch.no_grad():
            for inputs, truth in self._labelled(parts):
                said.append(self._said(inputs).cpu())
                labels.append(truth)
        return torch.cat(said), torch.cat(labels)

    def _load(self, soup: Soup) -> None:
        pool, merge = self._loaded
        if soup.pool is not pool or soup.merge != merge:
            soup.load_into(self._model, only=self.differing)
            self._loaded = (soup.pool, soup.merge)

    def _settle(self) -> None:
        """Let the task do to its model what it does when it first learns, such as lay it out anew.

        Otherwise the last bits of a tasting would tell whether there was a slope before it.
        """
        with running(f"task {self._task.name!r} on {self.split}"), torch.enable_grad():
            for inputs, _ in self._labelled([np.zeros(1, np.int64)]):
                self._said(inputs)

    def _labelled(self, parts: Sequence[ExampleNumbers]) -> Iterator[tuple[Any, Tensor]]:
        yield from self._task.labelled(self._model, self.split, parts)

    def _said(self, inputs: Any) -> Tensor:
        with self._arithmetic.computing(self._model, self._device):
            logits = self._task.logits(self._model, inputs).float()
        classes = self._split.classes
        return logits if classes is None else _projected(logits, classes)

    def _learnable(self, called: Mapping[str, str]) -> dict[str, str]:
        """Tensors of the pool that have slopes, each with the first that is the same parameter.

        From now on the model's other parameters ask for no gradient.
        """
        specs = self._pool.layout.tensors
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        first: dict[int, str] = {}
        found: dict[str, str] = {}
        for name in self.differing:
            parameter = parameters.get(called.get(name, ""))
            if parameter is not None and specs[name].dtype in AVERAGED:
                found[name] = first.setdefault(id(parameter), name)
        self._parameters = {name: called[name] for name in first.values()}
        _ask_for(self._model, {id(parameters[own]) for own in self._parameters.values()})
        return found


def _ask_for(model: nn.Module, wanted: Collection[int]) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)


def _flat(slope: Tensor | None) -> Float32 | None:
    """In row-major order, whatever the order in memory."""
    if slope is None:
        return None
    found: Float32 = slope.detach().to("cpu", torch.float32).contiguous().view(-1).numpy()
    return found


def _projected(logits: Tensor, classes: ClassSubset) -> Tensor:
    """What `ClassSubset.project` does, with slopes."""
    return torch.stack([logits[:, list(these)].amax(1) for these in classes.columns], dim=1)
