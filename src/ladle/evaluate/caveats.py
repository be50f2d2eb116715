"""What makes scores look better than they are, found before anybody believes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ladle.soup import Ingredient
from ladle.tasks import Split, Task


def caveats_of(task: Task) -> list[str]:
    """What there is to know of a task's data: what it remarks itself, and shared examples."""
    return [*getattr(task, "remarks", ()), *shared_examples(task)]


def shared_examples(task: Task) -> list[str]:
    """A sentence for each split to report on that shares examples with one to learn or choose from.

    Examples are compared by what they show, whatever their labels; a task that does not say what
    its examples show is taken at its word.
    """
    seen = [split for split in task.splits.values() if split.role in ("train", "held-out")]
    unseen = [split for split in task.splits.values() if split.role in ("test", "shift")]
    pairs = [(one, other) for one in seen for other in unseen]
    pairs += [(a, b) for a in seen for b in seen if (a.role, b.role) == ("train", "held-out")]
    return [sentence for one, other in pairs for sentence in _shared(one, other)]


def _shared(seen: Split, reported: Split) -> Iterator[str]:
    if seen.contents is None or reported.contents is None:
        return
    count = int(np.isin(reported.contents, seen.contents).sum())
    if count:
        use = (
            "by which soups are chosen" if seen.role == "held-out" else "which models are tuned on"
        )
        yield (
            f"{count:,} of the {len(reported):,} examples of {reported.name} are in {seen.name} "
            f"too, {use}: scores on {reported.name} flatter; take them out of one of the two"
        )


def chosen_by(models: Iterable[Ingredient], splits: Iterable[Split]) -> list[str]:
    """A sentence for each soup among the models that was chosen by one of the splits to report."""
    reported = {split.digest: split.name for split in splits}
    return [
        flattering(one.name, reported[digest])
        for one in models
        for digest in _chosen_by(one)
        if digest in reported
    ]


def flattering(model: str, split: str) -> str:
    """The sentence about a model that was chosen by the split its score is reported on."""
    return (
        f"{model} was chosen by the examples of {split}, so its score there is no estimate of what "
        "it does on others"
    )


def _chosen_by(one: Ingredient) -> Iterator[str]:
    """Digests of the splits whose scores `soup.json` says a model was chosen by."""
    found = next(filter(None, map(_read, _records(one))), {})
    try:
        # A uniform soup tasted nothing, and chose at most how to treat its BatchNorm layers.
        if found.get("tastings") or found.get("batchnorm"):
            splits = found["splits"].values()
            yield from (s["digest"] for s in splits if s["role"] == "held-out")
    except (KeyError, TypeError, AttributeError):
        return  # Not written by ladle.


def _records(one: Ingredient) -> Iterator[Path]:
    path = one.checkpoint.path
    if path.is_dir():
        yield path / "soup.json"
    else:
        yield path.with_name(path.name + ".json")
        if "ladle" in one.checkpoint.metadata:  # The weights of a soup's folder, given alone.
            yield path.parent / "soup.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
