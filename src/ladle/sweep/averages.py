"""Averages over the steps of one run, which cost it nothing: EMA, and SWA's window at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

Update = Callable[[list[Tensor], list[Tensor], int], None]


@dataclass
class Average:
    """One average of the weights that are trained, in float32 on their device.

    From the step after `first` on it takes in every step; before, it is the weights themselves.
    """

    name: str
    update: Update
    first: int
    values: list[Tensor]
    taken: int = 0

    @torch.no_grad()
    def step(self, number: int, weights: Sequence[Tensor]) -> None:
        """Take in the weights after step `number`, counted from 1."""
        if number > self.first:
            self.update(self.values, [weight.detach() for weight in weights], self.taken)
            self.taken += 1


@dataclass
class Averages:
    """All averages of one run.

    `weights` are the parameters that are trained, alive; everything else of the model is shared.
    """

    weights: Sequence[Tensor]
    every: list[Average] = field(default_factory=list)

    @classmethod
    def of(
        cls, weights: Sequence[Tensor], *, ema: Sequence[float], swa: float, steps: int
    ) -> Averages:
        """An exponential moving average for each decay, and the mean of the last `swa` of steps.

        An EMA starts from the weights as they are now, as timm's and PyTorch's do from their first
        step; `swa` 0 keeps no mean (Izmailov et al., 2018).
        """
        made = cls(weights)
        for decay in ema:
            average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            made.every.append(Average(f"ema-{decay:g}", average, 0, made._copies()))
        if swa:
            average = get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
            first = steps - max(1, round(swa * steps))
            made.every.append(Average("swa", average, first, made._copies()))
        return made

    def step(self, number: int) -> None:
        """Take in what the weights are after step `number`, counted from 1."""
        for one in self.every:
            one.step(number, self.weights)

    def names(self) -> list[str]:
        return [one.name for one in self.every]

    @contextmanager
    def in_place(self, name: str) -> Iterator[None]:
        """The weights are this average for as long as the block lasts."""
        average = next(one for one in self.every if one.name == name)
        kept = self._copies()
        _copy(self.weights, average.values)
        try:
            yield
        finally:
            _copy(self.weights, kept)

    def state_dict(self) -> dict[str, Any]:
        return {one.name: {"values": one.values, "taken": one.taken} for one in self.every}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for one in self.every:
            _copy(one.values, state[one.name]["values"])
            one.taken = state[one.name]["taken"]

    def _copies(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self.weights]


@torch.no_grad()
def _copy(target: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    for to, one in zip(target, source, strict=True):
        to.copy_(one)
