"""The model card: `README.md` of an output folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def model_card(
    name: str,
    record: Mapping[str, Any],
    evaluations: Iterable[Mapping[str, Any]] = (),
    *,
    side_files: Mapping[str, Path] | None = None,
) -> str:
    """Markdown with the hub's front matter: ingredients, recipe, and results as `model-index`.

    `evaluations` are rows of `evaluations.jsonl`; those of the soup itself go in.
    """
    chosen = f"{record['recipe']['name']} soup"
    own = [
        row
        for row in evaluations
        if (row["kind"], row["model"]) == ("soup", chosen) and row["role"] != "held-out"
    ]
    front: dict[str, Any] = {"tags": ["model-soup", "merge"]}
    library = _library(side_files or {})
    if library:
        front["library_name"] = library
    if own:
        front["model-index"] = [{"name": name, "results": [_result(record, row) for row in own]}]
    # JSON is YAML, and needs no library and no escaping of our own.
    matter = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    parts = [f"---\n{matter}\n---", f"# {name}", _summary(record)]
    if own:
        parts.append(_table(("split", "metric", "value", "95 % interval", "examples"), _cells(own)))
    parts.append(
        _table(
            ("ingredient", "weight", "sha256"),
            [
                (one["name"], _share(one["weight"]), one["sha256"] or "not computed")
                for one in record["ingredients"]
            ],
        )
    )
    parts.append(f"Made with ladle {record['ladle']}; `soup.json` has every step.")
    return "\n\n".join(parts) + "\n"


def _share(weight: float | None) -> str:
    return "by tensor" if weight is None else f"{weight:.4g}"


def _library(side_files: Mapping[str, Path]) -> str | None:
    """What loads the folder, as its configuration tells."""
    if "adapter_config.json" in side_files:
        return "peft"
    try:
        config = json.loads(side_files["config.json"].read_text("utf-8"))
    except (KeyError, ValueError):
        return None
    if "modules.json" in side_files:
        return "sentence-transformers"
    marks = {"transformers": "model_type", "timm": "architecture"}
    return next((library for library, mark in marks.items() if mark in config), None)


def _cells(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Evaluations as cells."""
    return [
        (
            row["split"],
            row["metric"],
            f"{row['value']:.4f}",
            "-" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}",
            str(row["n"]),
        )
        for row in rows
    ]


def _summary(record: Mapping[str, Any]) -> str:
    names, n = {one["name"] for one in record["pool"]}, len(record["pool"])
    k = sum(one["name"] in names for one in record["ingredients"])
    recipe = record["recipe"]["name"]
    chosen = f"{k} of {n} checkpoints" if k != n else f"{k} checkpoints"
    chosen += " and of the base" if k < len(record["ingredients"]) else ""
    return (
        f"A model soup: the average of the weights of {chosen} fine-tuned from one pre-trained "
        f"model, chosen by the recipe `{recipe}`. It runs at the cost of one model."
    )


def _result(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    task = record["task"] or {"name": "unknown"}
    return {
        "task": {"type": task.get("type", "other"), "name": task["name"]},
        "dataset": {"type": row["split"], "name": row["split"]},
        "metrics": [{"type": row["metric"], "value": row["value"]}],
    }


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
