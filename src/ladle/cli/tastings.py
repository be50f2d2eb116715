"""What a recipe did, tasting by tasting, for `cook` and `demo`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle.cli import screen


def show(
    record: Mapping[str, Any], output: Path, evaluations: Sequence[Mapping[str, Any]] = ()
) -> None:
    """The tastings of a `soup.json`, and what came of them."""
    for tasting in record["tastings"]:
        score = "no score" if tasting["score"] is None else f"{tasting['score']:.4f}"
        score = "dropped" if tasting["bound"] is not None else score
        mark = "+" if tasting["kept"] else " "
        screen.say(f"{score:>10} {mark} {tasting['candidate']}  {tasting['reason']}")
    offered = {one["name"] for one in record["pool"]}
    members = [one["name"] for one in record["ingredients"]]
    chosen = sum(name in offered for name in members)
    base = " and the base" if chosen < len(members) else ""
    name = record["recipe"]["name"]
    screen.say(f"{name} soup: {chosen} of {len(offered)} checkpoints{base} -> {output}")
    show_adapter(record)
    _show_repeats(record)
    best = _best_single(record, evaluations)
    if best is None or name == "best":
        return
    if members == [best[0]] and len(offered) > 1:
        cut = (record.get("adapter") or {}).get("relative_error") is not None
        what = "the best single model, truncated" if cut else "the best single model"
        screen.say(f"No other checkpoint helped on held-out data, so this is {what}.")
        return
    own = (f"{name} soup", "held-out")
    value = next((row["value"] for row in evaluations if (row["model"], row["role"]) == own), None)
    if value is not None and best[1] > _sign(record) * value:
        screen.say(
            f"On held-out data the best single model, {best[0]}, is better than this soup: "
            f"{_sign(record) * best[1]:.4f} against {value:.4f}."
        )


def _show_repeats(record: Mapping[str, Any]) -> None:
    repeats = record["recipe"].get("repeats")
    if repeats is None or len(repeats["scores"]) < 2:
        return
    screen.say(
        f"best of {len(repeats['scores'])} random orders, whose held-out scores are "
        f"{repeats['mean']:.4f} on average (standard deviation {repeats['spread']:.4f}); being the "
        "best of them flatters it"
    )


def _best_single(
    record: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]
) -> tuple[str, float] | None:
    """The name of the best on held-out data, and its score, higher is better; None if unknown."""
    offered = [one["name"] for one in record["pool"]]
    scores = {
        row["model"]: row["value"]
        for row in evaluations
        if row["kind"] == "single" and row["role"] == "held-out"
    } or {
        tasting["members"][0]: tasting["score"]
        for tasting in record["tastings"]
        if len(tasting["members"]) == 1
    }
    if not scores.keys() >= set(offered):
        return None  # A recipe that tasted some of them cannot tell.
    found = [
        (name, _sign(record) * scores[name])
        for name in offered
        if scores[name] is not None and not math.isnan(scores[name])
    ]
    return max(found, key=lambda pair: pair[1], default=None)


def _sign(record: Mapping[str, Any]) -> float:
    metric = record["metric"]
    return 1.0 if metric is None or metric["higher_is_better"] else -1.0


def show_adapter(record: Mapping[str, Any]) -> None:
    """The rank of a soup of adapters, and what was lost in truncating it."""
    adapter = record.get("adapter")
    if adapter is None:
        return
    errors = adapter["relative_error"]
    if errors is None:
        screen.say(f"adapter of rank {adapter['rank']}, exact; --rank truncates it")
        return
    mean, (worst, at) = sum(errors.values()) / len(errors), max((e, m) for m, e in errors.items())
    screen.say(
        f"adapter of rank {adapter['rank']}; relative error {mean:.3g} on average, at most "
        f"{worst:.3g} (in {at})"
    )
