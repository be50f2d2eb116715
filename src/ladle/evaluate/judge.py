"""Judging: every model on every split, beside the honest baselines, with what is noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ladle.ahead import Map
from ladle.errors import BadInput
from ladle.evaluate.evaluator import Evaluator
from ladle.predictions import (
    METRICS,
    Comparison,
    Predictions,
    compare_by,
    ensemble,
    greedy_ensemble,
    interval_by,
    reliability,
)
from ladle.soup import Soup
from ladle.tasks import Split, Task

Kind = Literal["base", "single", "soup", "curve", "ensemble"]

MEAN_OF_SHIFTS = "mean of shifts"


@dataclass(frozen=True)
class Contestant:
    """A model to judge: where its predictions come from, and how it is called."""

    name: str
    kind: Kind
    members: tuple[str, ...]
    predict: Callable[[str], Predictions]


def contestant(name: str, kind: Kind, soup: Soup, evaluator: Evaluator) -> Contestant:
    """A single model or a soup."""
    return Contestant(name, kind, soup.members, lambda split: evaluator.predict(soup, split))


def ensemble_of(name: str, soups: Sequence[Soup], evaluator: Evaluator) -> Contestant:
    """The mean of the logits of several models: as good as it gets, at their total cost."""
    return Contestant(
        name,
        "ensemble",
        tuple(member for soup in soups for member in soup.members),
        lambda split: ensemble([evaluator.predict(soup, split) for soup in soups]),
    )


def greedy_ensemble_of(soups: Sequence[Soup], evaluator: Evaluator) -> Contestant:
    """The ensemble that the greedy soup's rule chooses by held-out predictions."""
    held_out = [evaluator.predict(soup, evaluator.held_out.name) for soup in soups]
    chosen = [soups[i] for i in greedy_ensemble(held_out, evaluator.task.metric)]
    if not chosen:
        raise BadInput(
            f"no model has a score on {evaluator.held_out.name} that is finite, so there is no "
            "greedy ensemble; leave out --greedy-ensemble"
        )
    return ensemble_of(f"greedy ensemble of {len(chosen)}", chosen, evaluator)


def best_by_held_out(soups: Sequence[Soup], evaluator: Evaluator) -> int:
    """Which of the models is best on held-out data; of equal ones the first."""
    scores = [evaluator(soup) for soup in soups]
    return max(range(len(soups)), key=lambda i: scores[i] if scores[i] == scores[i] else -np.inf)


def judge(
    task: Task,
    contestants: Iterable[Contestant],
    *,
    splits: Sequence[Split],
    versus: Contestant | None = None,
    seed: int = 0,
    map: Map | None = None,
) -> list[dict[str, Any]]:
    """Rows of `evaluations.jsonl`: each contestant on each split, and on the mean of the shifts.

    All but the base are compared with `versus`, on every split that played no part in choosing. A
    parallel `map` has what is not in the store measured first, models by splits.
    """
    contestants = list(contestants)
    if map is not None:
        # An ensemble's are those of its members.
        models = [one for one in contestants if one.kind != "ensemble"]
        for _ in map(_measure, [(one, split.name) for one in models for split in splits]):
            pass
    rows: list[dict[str, Any]] = []
    shifts = [split for split in splits if split.role == "shift"]
    groups: list[tuple[str, str, list[Split]]] = [(s.name, s.role, [s]) for s in splits]
    if len(shifts) > 1:
        groups.append((MEAN_OF_SHIFTS, "mean-shift", shifts))
    for one in contestants:
        for name, role, members in groups:
            ours = [one.predict(split.name) for split in members]
            found = interval_by(task.metric, ours, seed=seed)
            comparison: dict[str, Any] | None = None
            if versus and one is not versus and one.kind != "base" and role != "held-out":
                theirs = [versus.predict(split.name) for split in members]
                result = compare_by(task.metric, ours, theirs, seed=seed)
                comparison = _comparison(versus, result)
            rows.append(
                {
                    "model": one.name,
                    "kind": one.kind,
                    "members": list(one.members),
                    "split": name,
                    "role": role,
                    "metric": task.metric.name,
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                    "n": found.n,
                    "versus": comparison,
                    **_calibration(role, ours[0]),
                }
            )
    return rows


def _measure(wanted: tuple[Contestant, str]) -> None:
    one, split = wanted
    one.predict(split)


def _calibration(role: str, said: Predictions) -> dict[str, Any]:
    """How sure a model is on test data against how often it is right; nothing for numbers."""
    if role != "test" or said.labels.dtype.kind == "f" or not np.isfinite(said.logits).all():
        return {}
    bins = [asdict(one) for one in reliability(said)]
    return {"calibration": {"ece": METRICS["ece"](said), "bins": bins}}


def _comparison(versus: Contestant, found: Comparison) -> dict[str, Any]:
    return {
        "model": versus.name,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "wins": found.wins,
        "losses": found.losses,
        "p": found.p,
        "test": found.test,
        "verdict": found.verdict,
    }
