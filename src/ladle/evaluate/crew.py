"""Slopes and tastings of learned soups, computed by several evaluators, wherever they are.

Everybody merges the soup from the checkpoints, computes the slopes of its pieces of a step, and
sends them; they are added up here, in the order of the pieces. So the numbers are those of one
process, whoever did what. Slopes and not their inner products with the ingredients, which would be
smaller to send: these would take a pass over the ingredients for every piece, and one over them for
the sum is less than one of several models more.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ladle.evaluate.examples import HeldOutExamples, Slope
from ladle.merge import Merge, mean
from ladle.predictions import Array, ExampleNumbers, Labels
from ladle.soup import Policy, Pool, Soup
from ladle.soup.elsewhere import reading_here

if TYPE_CHECKING:
    from ladle.evaluate.evaluator import Evaluator
    from ladle.evaluate.gradients import HeldOutGradients

T = TypeVar("T")
R = TypeVar("R")


class Crew(Protocol):
    """Evaluators of one task with the same settings, each with a model of its own."""

    def share(self, value: T) -> Callable[[], T]:
        """Something that goes with many items, sent once to each; it gives the same object there.

        It lasts as long as this.
        """
        ...

    def each(self, work: Callable[[Evaluator, T], R], items: Iterable[T], /) -> Iterator[R]:
        """What the work gives for each item, in order; done by whoever is free, perhaps again."""
        ...


@dataclass(frozen=True)
class _Dish:
    """A soup to be learned on: `first` is the pool that tells what has slopes."""

    first: Callable[[], Pool]
    pool: Callable[[], Pool]
    merge: Merge
    integers: Policy
    dtype: str | None

    def soup(self) -> Soup:
        return Soup(self.pool(), self.merge, integers=self.integers, dtype=self.dtype)


@dataclass(frozen=True)
class _Piece:
    """Examples of a step of `size`, with the factor on logits; or examples to be tasted."""

    dish: _Dish
    examples: ExampleNumbers
    size: int = 0
    factor: float = 1.0


@dataclass(frozen=True)
class _Tensors:
    """Those that have slopes, and those that differ, as `HeldOutGradients` tells them; and their
    dtypes in the model."""

    names: Mapping[str, str]
    differing: Sequence[str]
    dtypes: Mapping[str, torch.dtype]


class CrewGradients:
    """What `HeldOutGradients` is, with the models of a crew: see there."""

    def __init__(
        self, evaluator: Evaluator, crew: Crew, pool: Pool, *, integers: Policy = "equal"
    ) -> None:
        """
        Raises:
            BadInput, LayoutMismatch: see `HeldOutGradients`; or one of the crew cannot read the
                checkpoints.
        """
        self._crew = crew
        self._examples = HeldOutExamples.of(evaluator)
        self._watch = evaluator.watch
        self.workspace: Path | None = evaluator.workspace
        self._first = crew.share(pool)
        self._pool = pool, self._first
        start = _Dish(self._first, self._first, mean(len(pool)), integers, None)
        found = next(crew.each(_tensors, [start]))
        self.tensors: Mapping[str, str] = found.names
        self.differing: Sequence[str] = found.differing
        self._dtypes = found.dtypes

    @property
    def split(self) -> str:
        return self._examples.split.name

    @property
    def labels(self) -> Labels:
        return self._examples.split.labels

    @property
    def identity(self) -> str:
        return self._examples.identity

    def batches(
        self, steps: Sequence[ExampleNumbers]
    ) -> Generator[Sequence[ExampleNumbers], None, None]:
        """The pieces of each step; their examples are read by who computes their slopes."""
        total = sum(map(len, steps))
        with self._watch(f"learning on {self.split}", total) as advance:
            for step in steps:
                yield self._examples.pieces(step)
                advance(len(step))

    def __call__(self, soup: Soup, batch: Sequence[ExampleNumbers], factor: float) -> Slope:
        dish, size = self._dish(soup), sum(map(len, batch))
        pieces = [_Piece(dish, examples, size, factor) for examples in batch]
        slope = _summed(self._crew.each(_slope, pieces), self._dtypes)
        slope.check_finite(self.split)
        return slope

    def taste(self, soup: Soup, examples: ExampleNumbers, factor: float) -> tuple[float, float]:
        return self._examples.tasted(*self._predicted(soup, examples), factor)

    def best_factor(self, soup: Soup, examples: ExampleNumbers) -> float:
        return self._examples.best_factor(*self._predicted(soup, examples))

    def _predicted(self, soup: Soup, examples: ExampleNumbers) -> tuple[Tensor, Tensor]:
        dish = self._dish(soup)
        pieces = [_Piece(dish, portion) for portion in self._examples.portions(examples)]
        said = list(self._crew.each(_predicted, pieces))
        logits, labels = (np.concatenate(parts) for parts in zip(*said, strict=True))
        return torch.from_numpy(logits), torch.from_numpy(labels)

    def _dish(self, soup: Soup) -> _Dish:
        if soup.pool is not self._pool[0]:
            shared = self._first if soup.pool is self._first() else self._crew.share(soup.pool)
            self._pool = soup.pool, shared
        return _Dish(self._first, self._pool[1], soup.merge, soup.integers, soup.dtype)


_at: WeakKeyDictionary[Evaluator, tuple[Pool, HeldOutGradients]] = WeakKeyDictionary()
"""What each evaluator of this process last learned on: building a model takes seconds."""


def _gradients(evaluator: Evaluator, dish: _Dish) -> HeldOutGradients:
    from ladle.evaluate.gradients import HeldOutGradients

    pool = dish.first()
    known = _at.get(evaluator)
    if known is None or known[0] is not pool:
        with reading_here([one.checkpoint for one in pool]):
            known = pool, HeldOutGradients(evaluator, pool, integers=dish.integers)
        _at[evaluator] = known
    return known[1]


def _tensors(evaluator: Evaluator, dish: _Dish) -> _Tensors:
    gradients = _gradients(evaluator, dish)
    return _Tensors(gradients.tensors, gradients.differing, gradients.dtypes)


def _slope(evaluator: Evaluator, piece: _Piece) -> Slope:
    gradients = _gradients(evaluator, piece.dish)
    return gradients.of_piece(piece.dish.soup(), piece.examples, piece.size, piece.factor)


def _predicted(evaluator: Evaluator, piece: _Piece) -> tuple[Array, Array]:
    said, labels = _gradients(evaluator, piece.dish).predicted(piece.dish.soup(), piece.examples)
    return said.numpy(), labels.numpy()


def _summed(slopes: Iterable[Slope], dtypes: Mapping[str, torch.dtype]) -> Slope:
    """The sum, rounded after each as PyTorch does where it adds up gradients of a parameter."""
    loss, factor = 0.0, np.float32(0)
    sums: dict[str, Tensor] = {}
    for slope in slopes:
        loss += slope.loss
        factor += np.float32(slope.factor)
        for name, part in slope.weights.items():
            # A copy, for what came from elsewhere may not be written to, and what did not lasts
            # until the next slope.
            mine = torch.tensor(part).to(dtypes[name])
            sums[name] = sums[name].add_(mine) if name in sums else mine
    return Slope(loss, float(factor), {name: one.float().numpy() for name, one in sums.items()})
