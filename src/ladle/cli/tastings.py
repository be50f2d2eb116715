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
        mark = "+" if tasting["kept"] else " "
        screen.say(f"{score:>10} {mark} {tasting['candidate']}  {tasting['reason']}")
    chosen, offered = len(record["ingredients"]), len(record["pool"])
    screen.say(f"{record['recipe']['name']} soup: {chosen} of {offered} checkpoints -> {output}")
    if chosen == 1 < offered and record["recipe"]["name"] == "greedy":
        screen.say("No other checkpoint helped on held-out data, so this is the best single model.")
