"""Soups and ensembles of growing size: how good they are, and how well they know how good."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ladle.analysis.measures import Group
from ladle.analysis.plan import Plan
from ladle.analysis.theory import losses
from ladle.predictions import (
    METRICS,
    Metric,
    Predictions,
    fit_temperature,
    nested_ensembles,
    scaled,
)
from ladle.soup import Soup
from ladle.tasks import Advance, no_progress

Kind = Literal["single", "soup", "ensemble"]
Predict = Callable[[Soup, str], Predictions]

_ECE = METRICS["ece"]


@dataclass(frozen=True)
class Grown:
    """One model, soup or ensemble on a split, or in the mean over several.

    `order` is the number of the random order that it grew in; None for single models, and for what
    has all ingredients, which is the same in every order. `ece` and `ece_scaled` are the expected
    calibration error before and after dividing the logits by the `temperature` that fits held-out
    data best; NaN for regression.
    """

    kind: Kind
    order: int | None
    members: tuple[int, ...]
    split: str
    temperature: float
    score: float
    loss: float
    ece: float
    ece_scaled: float

    @property
    def size(self) -> int:
        return len(self.members)


@dataclass(frozen=True)
class Size:
    """Soups or ensembles of one size on a split: mean, lowest and highest over `orders` of them.

    Of size one, over all single models.
    """

    kind: Literal["soup", "ensemble"]
    size: int
    split: str
    mean: float
    low: float
    high: float
    loss: float
    orders: int


def grow(
    plan: Plan,
    predict: Predict,
    metric: Metric,
    groups: Sequence[Group],
    *,
    held_out: str,
    calibrate: bool,
    advance: Advance = no_progress,
) -> list[Grown]:
    """Every single model, and the soups and ensembles of a plan, on every group of splits.

    `advance` hears of splits.
    """
    splits = dict.fromkeys([held_out, *(name for group in groups for name in group.splits)])
    temperatures: dict[_Made, float] = {}
    found: dict[_Made, dict[str, tuple[float, ...]]] = {}
    for split in splits:  # Held-out data first: they fit the temperatures.
        for made, said in _said(plan, predict, split):
            if split == held_out:
                temperatures[made] = _temperature(said) if calibrate else np.nan
            found.setdefault(made, {})[split] = (
                metric(said),
                float(losses(said).mean()),
                *(_calibration(said, temperatures[made]) if calibrate else (np.nan, np.nan)),
            )
        advance(1)
    return [
        Grown(
            made.kind,
            made.order,
            made.members,
            group.name,
            temperatures[made],
            *map(float, np.mean([by_split[name] for name in group.splits], axis=0)),
        )
        for made, by_split in found.items()
        for group in groups
    ]


def sizes(grown: Sequence[Grown]) -> list[Size]:
    """The accuracy, or whatever the metric is, against the number of ingredients."""
    cells: dict[tuple[Literal["soup", "ensemble"], int, str], list[Grown]] = {}
    for one in grown:
        # One model is a soup, and an ensemble, of one.
        kinds: tuple[Literal["soup", "ensemble"], ...]
        kinds = ("soup", "ensemble") if one.kind == "single" else (one.kind,)
        for kind in kinds:
            cells.setdefault((kind, one.size, one.split), []).append(one)
    return [
        Size(
            *cell,
            mean=float(np.mean([one.score for one in ones])),
            low=float(np.min([one.score for one in ones])),
            high=float(np.max([one.score for one in ones])),
            loss=float(np.mean([one.loss for one in ones])),
            orders=len(ones),
        )
        for cell, ones in sorted(cells.items(), key=lambda cell: (cell[0][0] != "soup", cell[0][1]))
    ]


@dataclass(frozen=True)
class _Made:
    """What is measured; the order is None where it plays no part."""

    kind: Kind
    order: int | None
    members: tuple[int, ...]


def _said(plan: Plan, predict: Predict, split: str) -> Iterator[tuple[_Made, Predictions]]:
    """Everything that is measured and what it says, one ensemble in memory at a time."""
    everything = tuple(range(len(plan.pool)))
    for i in everything:
        yield _Made("single", None, (i,)), predict(plan.singles[i], split)
    for number, order in enumerate(plan.orders):
        grown = nested_ensembles((predict(plan.singles[i], split) for i in order), plan.sizes)
        for size, together in zip(plan.sizes, grown, strict=True):
            whole = size == len(everything)
            if whole and number > 0:
                continue  # Of all it is the same, whatever the order.
            at, members = (None, everything) if whole else (number, order[:size])
            yield _Made("soup", at, members), predict(plan.grown(order, size), split)
            yield _Made("ensemble", at, members), together


def _temperature(said: Predictions) -> float:
    return fit_temperature(said) if np.isfinite(said.logits).all() else float("nan")


def _calibration(said: Predictions, temperature: float) -> tuple[float, float]:
    return _ECE(said), _ECE(scaled(said, temperature)) if np.isfinite(temperature) else float("nan")
