"""Steps, metrics and hyper-parameters out of the records that trainings keep."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ladle.runs.base import Facts


def facts_in(values: Mapping[str, Any]) -> Facts:
    """What a training's checkpoint says about itself: the values of a `Checkpoint.envelope`.

    Only what was measured on this checkpoint counts, not the best of the run.
    """
    metrics: dict[str, Any] = {}
    if isinstance(values.get("metrics"), Mapping):
        metrics |= values["metrics"]
    if "metric" in values:  # timm's
        metrics["metric"] = values["metric"]
    callbacks = values.get("callbacks")
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        # Lightning's ModelCheckpoint.
        if isinstance(state, Mapping) and isinstance(state.get("monitor"), str):
            metrics[state["monitor"]] = state.get("current_score")
    parameters: dict[str, Any] = {}
    for key in ("args", "hyper_parameters", "hparams"):
        if isinstance(values.get(key), Mapping):
            parameters |= values[key]
    steps = (values.get(key) for key in ("global_step", "step", "epoch"))
    step = next((step for step in steps if isinstance(step, int)), None)
    return Facts(step, numbers(metrics), parameters)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that are numbers."""
    return {
        str(name): float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def parsed(text: str) -> Any:
    """A number, a truth value or nothing where a text reads so; otherwise the text."""
    plain = {"True": True, "False": False, "None": None, "": None}
    if text in plain:
        return plain[text]
    if text.lstrip("+-").isdecimal():
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def json_of(file: Path) -> Any:
    """What a JSON file holds; None if there is none or it is half-written."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def lines_of(file: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSONL file, without broken lines."""
    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError):
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file, values parsed, empty cells left out."""
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, ValueError, csv.Error):
        return []
    return [
        {
            name: value
            for name, text in row.items()
            if name and (value := parsed(text or "")) is not None
        }
        for row in rows
    ]


def yaml_of(file: Path) -> Mapping[str, Any]:
    """What a YAML file holds; nothing where it, or a library to read it, is missing.

    For records whose content the checkpoints themselves have too.
    """
    try:
        import yaml

        found = yaml.safe_load(file.read_text("utf-8"))
    except (ImportError, OSError, ValueError):
        return {}
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
