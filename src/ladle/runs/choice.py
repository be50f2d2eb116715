"""Choosing among checkpoints by what was recorded about them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ladle.errors import BadInput
from ladle.runs.base import Facts

Item = TypeVar("Item")
Offer = tuple[Path, Facts, Item]
"""A run's folder, what is known about a checkpoint of it, and the checkpoint."""

_LOW_IS_GOOD = {
    "loss",
    "error",
    "err",
    "perplexity",
    "ppl",
    "wer",
    "cer",
    "mae",
    "mse",
    "rmse",
    "nll",
    "brier",
    "ece",
}
_HIGH_IS_GOOD = {
    "accuracy", "acc", "acc1", "acc5", "top1", "top5", "f1", "auc", "bleu", "rouge", "matthews",
    "precision", "recall", "map", "iou", "miou", "r2", "spearman", "pearson", "score",
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Which checkpoints to keep; all, as it stands.

    `last` is per run. `top_k` is over all, by `metric` and `mode`, which may be left open where
    only one metric was recorded and its name says which way is good.
    """

    last: int | None = None
    min_step: int | None = None
    max_step: int | None = None
    top_k: int | None = None
    metric: str | None = None
    mode: Literal["max", "min"] | None = None


def choose(offers: Sequence[Offer[Item]], choice: Choice) -> tuple[list[Offer[Item]], list[str]]:
    """The offers that are kept, in their order, and remarks on how they were chosen.

    Raises:
        BadInput: a step or metric is asked for that was not recorded, or nothing is left.
    """
    if not offers or choice == Choice():
        return list(offers), []
    kept = list(offers)
    for flag, given in (("--min-step", choice.min_step), ("--max-step", choice.max_step)):
        if given is not None:
            _need_steps(kept, flag)
    kept = [
        offer
        for offer in kept
        if (choice.min_step is None or _step(offer) >= choice.min_step)
        and (choice.max_step is None or _step(offer) <= choice.max_step)
    ]
    if choice.last is not None:
        _need_steps(kept, "--last")
        runs: dict[Path, list[int]] = {}
        for run, facts, _ in kept:
            runs.setdefault(run, []).append(facts.step or 0)
        # Of equal steps (two files of one moment) all count as one.
        latest = {run: set(sorted(set(steps))[-choice.last :]) for run, steps in runs.items()}
        kept = [offer for offer in kept if _step(offer) in latest[offer[0]]]
    remarks = []
    if choice.top_k is not None:
        metric, mode = _metric(kept, choice)
        sign = 1 if mode == "max" else -1
        ranked = sorted(range(len(kept)), key=lambda i: -_rank(kept[i][1].metrics[metric], sign))
        kept = [kept[i] for i in sorted(ranked[: choice.top_k])]
        best = "highest" if mode == "max" else "lowest"
        remarks.append(f"kept {len(kept)} of {len(offers)}: the {best} {metric}")
    if not kept:
        raise BadInput(
            f"none of {len(offers)} checkpoints is left after --min-step and --max-step; they have "
            f"the steps {_shown(sorted({str(facts.step) for _, facts, _ in offers}))}"
        )
    return kept, remarks


def _step(offer: Offer[Item]) -> int:
    step = offer[1].step
    assert step is not None  # noqa: S101 -- `_need_steps` has looked
    return step


def _need_steps(offers: Sequence[Offer[Item]], flag: str) -> None:
    for run, facts, _ in offers:
        if facts.step is None:
            raise BadInput(
                f"{flag} needs the step of every checkpoint, and {run} records none; name the "
                "checkpoints, or list them with a column `step` in members.csv"
            )


def _metric(offers: Sequence[Offer[Item]], choice: Choice) -> tuple[str, str]:
    common = set.intersection(*(set(facts.metrics) for _, facts, _ in offers)) if offers else set()
    name = choice.metric
    if name is None and len(common) == 1:
        name = next(iter(common))
    if name is None or name not in common:
        there = f"they have {_shown(sorted(common))}" if common else "none has one"
        wanted = (
            f"--metric {name!r} is not recorded for all of them"
            if name
            else "--top-k needs --metric"
        )
        raise BadInput(f"{wanted}; {there} in common")
    mode = choice.mode or good(name)
    if mode is None:
        raise BadInput(
            f"whether a high {name!r} is good cannot be told; add --mode max or --mode min"
        )
    return name, mode


def good(metric: str) -> Literal["max", "min"] | None:
    """Whether a high or a low value of a metric is good, if its name tells."""
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    if words & _LOW_IS_GOOD:
        return "min"
    return "max" if words & _HIGH_IS_GOOD else None


def _rank(value: float, sign: int) -> float:
    return -math.inf if math.isnan(value) else sign * value


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
