"""Evaluations as a table, for `cook`, `evaluate` and `demo`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ladle.cli import screen

if TYPE_CHECKING:
    from rich.text import Text

_MARKS = {
    "better": ("+", "green"),
    "worse": ("-", "red"),
    "no difference that this set can show": ("=", "dim"),
}


def show(
    rows: Sequence[Mapping[str, Any]], *, higher_is_better: bool, intervals: bool = False
) -> None:
    """Models by splits; accuracies in percent, and a mark for the comparison beside them.

    `intervals` stand below the numbers. The best of every split is bold on a terminal.
    """
    splits = list(dict.fromkeys(row["split"] for row in rows))
    by_model: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_model.setdefault(row["model"], {})[row["split"]] = row
    best = {split: _best(rows, split, higher_is_better) for split in splits}
    screen.print_table(
        ["", *splits],
        [
            [name, *(_cell(cells.get(split), best[split], intervals) for split in splits)]
            for name, cells in by_model.items()
        ],
    )
    metric = f"{rows[0]['metric']} [95 % interval]" if intervals else rows[0]["metric"]
    versus = next((row["versus"]["model"] for row in rows if row["versus"]), None)
    if versus:
        screen.say(
            f"{metric}; against {versus}: + better, - worse, = no difference that this "
            "set can show (paired test, p < 0.05)"
        )
    elif intervals:
        screen.say(metric)


def _best(rows: Sequence[Mapping[str, Any]], split: str, higher_is_better: bool) -> float | None:
    values = [row["value"] for row in rows if row["split"] == split and _is_number(row["value"])]
    return (max if higher_is_better else min)(values, default=None)


def _cell(row: Mapping[str, Any] | None, best: float | None, intervals: bool) -> Text:
    from rich.text import Text

    if row is None:
        return Text()
    metric, value = row["metric"], row["value"]
    cell = Text(number(metric, value), "bold" if value == best else "")
    cell = Text.assemble(cell, " ", _MARKS[row["versus"]["verdict"]] if row["versus"] else " ")
    if intervals and _is_number(row["low"]):
        interval = f"[{number(metric, row['low'])}, {number(metric, row['high'])}]"
        cell.append("\n" + interval, "dim")
    return cell


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def number(metric: str, value: float | None) -> str:
    """In percent for an accuracy, with four digits for any other metric; `-` for none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.2f}" if metric == "accuracy" else f"{value:.4g}"
