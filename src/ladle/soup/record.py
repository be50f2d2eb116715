"""What is kept of a soup: `soup.json`, and the provenance inside the weights' header."""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ladle.soup.pool import Ingredient, Pool
from ladle.soup.soup import Soup

VERSION = 1
"""Of the format of `soup.json`."""


def record(
    soup: Soup,
    *,
    command: str | None = None,
    offered: Pool | None = None,
    evaluation: Mapping[str, Any] | None = None,
    hashed: bool = True,
) -> dict[str, Any]:
    """`soup.json`: everything that is known about how the soup came about.

    `offered` is the pool that there was to choose from; `evaluation` adds what the
    evaluator knows (task, metric, splits, seed). Scores stand in the metric's own direction. If
    not `hashed`, no sha256 is computed; it is null.
    """
    from ladle import __version__

    metric = (evaluation or {}).get("metric")
    sign = 1.0 if metric is None or metric["higher_is_better"] else -1.0
    splits = (evaluation or {}).get("splits", {}).values()
    examples = next((split["n"] for split in splits if split["role"] == "held-out"), None)

    return {
        "version": VERSION,
        "ladle": __version__,
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "recipe": {
            "name": soup.recipe,
            "options": dict(soup.options),
            **_repeats([sign * score for score in soup.repeats]),
        },
        "merge": soup.merge.record(),
        "integers": soup.integers,
        "ingredients": [
            {**_ingredient(one, hashed), "weight": weight}
            for one, weight in zip(soup.pool, soup.weights, strict=True)
        ],
        "pool": [_ingredient(one, hashed) for one in offered or soup.pool],
        "remarks": list((offered or soup.pool).remarks),
        "tastings": [
            {
                "candidate": tasting.candidate,
                "members": list(tasting.members),
                "score": None if tasting.score is None else sign * tasting.score,
                "margin": None if tasting.margin is None else sign * tasting.margin,
                "examples": examples if tasting.examples is None else tasting.examples,
                "kept": tasting.kept,
                "reason": tasting.reason,
                "bound": None if tasting.bound is None else sign * tasting.bound,
            }
            for tasting in soup.tastings
        ],
        "metric": None,
        "task": None,
        "splits": {},
        "seed": None,
        "caveats": list(soup.caveats),
        **(evaluation or {}),
        "versions": _versions(),
    }


def _repeats(scores: Sequence[float]) -> dict[str, Any]:
    """Scores of repeats with mean and standard deviation, which one alone has not; or nothing."""
    if not scores:
        return {}
    spread = statistics.stdev(scores) if len(scores) > 1 else None
    mean = statistics.fmean(scores)
    return {"repeats": {"scores": list(scores), "mean": mean, "spread": spread}}


def provenance(soup: Soup, digest: Callable[[Ingredient], str | None]) -> str:
    """The family tree for the weights' header, as JSON.

    Contents alone: no name, path or time, so that the same soup is the same file everywhere. An
    ingredient that is a soup itself brings its own tree.
    """
    rows = []
    ordered = soup.in_fixed_order()
    for one, weight in zip(ordered.pool, ordered.weights, strict=True):
        row: dict[str, Any] = {"sha256": digest(one), "weight": weight}
        parents = one.checkpoint.metadata.get("ladle")
        if parents is not None:
            row["soup"] = _parsed(parents)
        rows.append(row)
    tree: dict[str, Any] = {"version": VERSION, "ingredients": rows}
    if soup.statistics:
        tree["statistics"] = soup.statistics.digest()
    return json.dumps(tree, sort_keys=True)


def _ingredient(one: Ingredient, hashed: bool) -> dict[str, Any]:
    return {
        "name": one.name,
        "path": str(one.checkpoint.path),
        "sha256": one.digest if hashed else None,
        "bytes": one.checkpoint.layout.nbytes,
        "ema": one.checkpoint.envelope.is_ema,
        "step": one.facts.step,
        "metrics": dict(one.facts.metrics),
        "hyperparameters": dict(one.facts.hyperparameters),
    }


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _versions() -> dict[str, str]:
    # Only what is loaded: asking a library for its version must not import it.
    libraries = ("numpy", "torch", "transformers", "timm", "torchvision")
    found = {name: sys.modules[name].__version__ for name in libraries if name in sys.modules}
    return {"python": platform.python_version(), **{k: str(v) for k, v in found.items()}}
