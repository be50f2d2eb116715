"""What a recipe did, tasting by tasting, for `cook` and `demo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle.cli import screen


def show(record: Mapping[str, Any], output: Path) -> None:
    """The tastings of a `soup.json`, and what came of them."""
    for tasting in record["tastings"]:
        score = "no score" if tasting["score"] is None else f"{tasting['score']:.4f}"
        score = "dropped" if tasting["bound"] is not None else score
        mark = "+" if tasting["kept"] else " "
        screen.say(f"{score:>10} {mark} {tasting['candidate']}  {tasting['reason']}")
    chosen, offered = len(record["ingredients"]), len(record["pool"])
    screen.say(f"{record['recipe']['name']} soup: {chosen} of {offered} checkpoints -> {output}")
    show_adapter(record)
    if chosen == 1 < offered and record["recipe"]["name"] == "greedy":
        cut = (record.get("adapter") or {}).get("relative_error") is not None
        what = "the best single model, truncated" if cut else "the best single model"
        screen.say(f"No other checkpoint helped on held-out data, so this is {what}.")


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
