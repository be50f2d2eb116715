"""Evaluations as a table, for `cook`, `evaluate` and `demo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladle.cli import screen

_MARKS = {"better": "+", "worse": "-", "no difference that this set can show": "="}


def show(rows: Sequence[Mapping[str, Any]], *, intervals: bool = False) -> None:
    """Models by splits; accuracies in percent, and a mark for the comparison beside them."""
    splits = list(dict.fromkeys(row["split"] for row in rows))
    by_model: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_model.setdefault(row["model"], {})[row["split"]] = row
    screen.print_table(
        ["", *splits],
        [
            [name, *(_cell(cells.get(split), intervals=intervals) for split in splits)]
            for name, cells in by_model.items()
        ],
    )
    versus = next((row["versus"]["model"] for row in rows if row["versus"]), None)
    if versus:
        screen.say(
            f"{rows[0]['metric']}; against {versus}: + better, - worse, = no difference that this "
            "set can show (paired test, p < 0.05)"
        )


def _cell(row: Mapping[str, Any] | None, *, intervals: bool) -> str:
    if row is None:
        return ""
    text = number(row["metric"], row["value"])
    if intervals and row["low"] is not None:
        text += f" [{number(row['metric'], row['low'])}, {number(row['metric'], row['high'])}]"
    return f"{text} {_MARKS[row['versus']['verdict']] if row['versus'] else ' '}"


def number(metric: str, value: float) -> str:
    """In percent for an accuracy, with four digits for any other metric."""
    return f"{100 * value:.2f}" if metric == "accuracy" else f"{value:.4g}"
