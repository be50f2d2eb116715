"""A comparison in a few tables and sentences, for `compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ladle.cli import screen
from ladle.cli.evaluations import number
from ladle.wording import some

Record = Mapping[str, Any]


def show(record: Record) -> None:
    """What a `comparison.json` says, as far as a screen has room."""
    _show_pairs(record)
    screen.say("")
    for sentence in (*_geometry(record), *_basins(record), *record["remarks"]):
        screen.say(sentence)
    screen.say("")
    _show_sizes(record)
    if record["calibration"]:
        screen.say("")
        _show_calibration(record)


def _show_pairs(record: Record) -> None:
    metric, n = record["metric"]["name"], record["summary"]["pairs"]
    by_split = record["summary"]["splits"]
    rows: list[tuple[str, Callable[[Record], str]]] = [
        (f"soup, {metric}", lambda s: number(metric, s["soup"])),
        (f"ensemble, {metric}", lambda s: number(metric, s["ensemble"])),
        ("correlation of the two", lambda s: _correlation(s["soup_and_ensemble"])),
        ("loss, soup minus ensemble", lambda s: _signed(s["loss_difference"])),
        ("  correlation with the formula", lambda s: _correlation(s["approximation"])),
        ("  same sign", lambda s: _signs(s["approximation"])),
        ("what the formula leaves out", lambda s: _signed(s["neglected"])),
        ("  correlation without that", lambda s: _correlation(s["second_order"])),
        ("  same sign", lambda s: _signs(s["second_order"])),
        (
            "errors, correlation with the formula",
            lambda s: _correlation(s["approximation_of_errors"]),
        ),
    ]
    if not any(_known(one["error_difference"]) for one in by_split.values()):
        rows.pop()
    screen.print_table(
        [f"halfway between two, {n} pairs", *by_split],
        [[name, *(say(one) for one in by_split.values())] for name, say in rows],
    )
    screen.say(
        "The formula is the paper's approximation of the loss of soup minus ensemble; both at the "
        "temperature that calibrates the soup on held-out data. Positive: the ensemble is better. "
        "It is of first order in the difference of their logits; what that leaves out is known "
        "here, and without it the ensemble looks better than it is."
    )


def _geometry(record: Record) -> Iterator[str]:
    angles = [pair["angle"] for pair in record["pairs"] if _known(pair["angle"])]
    if angles:
        found = record["summary"]["splits"]
        unseen = [g["name"] for g in _unseen(record)]
        related = ", ".join(
            f"{_correlation(found[name]['angle_and_advantage'])} on {name}" for name in unseen
        )
        yield (
            f"Angles at the base are {min(angles):.1f}° to {max(angles):.1f}°. Correlation with "
            f"what the soup gains over the mean of its two: {related}."
        )


def _basins(record: Record) -> Iterator[str]:
    names = [one["name"] for one in record["models"]]
    highest, lowest = (record["summary"][f"{which}_barrier"] for which in ("highest", "lowest"))
    if highest is None:
        yield "No barrier is known, for losses were not finite."
        return
    none = sum(pair["barrier"] == 0 for pair in record["pairs"])
    text = f"Barriers, the rise of the loss on {record['held_out']} on the way between two: "
    if highest["barrier"] == 0:
        yield text + f"none for all {none} pairs."
    elif none:
        text += f"none for {none} of {len(record['pairs'])} pairs; "
    elif len(record["pairs"]) > 1:
        text += f"lowest {lowest['barrier']:.4g}, {_pair(lowest, names)}; "
    if highest["barrier"] > 0:
        yield text + f"highest {highest['barrier']:.4g}, {_pair(highest, names)}."
    count = record["summary"]["basins"]
    if count == 1:
        yield f"All {len(names)} models lie in one basin: between them the loss hardly rises."
    elif count:
        clusters = record["matrices"]["clusters"]
        groups = [[n for n, c in zip(names, clusters, strict=True) if c == i] for i in range(count)]
        shown = "; ".join(some(group) for group in groups[:4])
        more = f"; and {count - 4} more" if count > 4 else ""
        yield (
            f"The models lie in {count} basins, and averages across them are worse than what is "
            f"averaged: {shown}{more}."
        )


def _show_sizes(record: Record) -> None:
    metric, groups = record["metric"]["name"], _unseen(record)
    cells = {(one["kind"], one["size"], one["split"]): one for one in record["sizes"]}
    columns = [(group["name"], kind) for group in groups for kind in ("soup", "ensemble")]

    def cell(kind: str, size: int, split: str) -> str:
        one = cells[kind, size, split]
        mean, low, high = (number(metric, one[name]) for name in ("mean", "low", "high"))
        return mean if one["orders"] == 1 else f"{mean} ({low} to {high})"

    screen.print_table(
        [f"{metric} by number of models", *(f"{kind}, {name}" for name, kind in columns)],
        [
            [str(size), *(cell(kind, size, name) for name, kind in columns)]
            for size in dict.fromkeys(one["size"] for one in record["sizes"])
        ],
    )
    screen.say(f"mean (lowest to highest) over {len(record['orders'])} random orders")


def _show_calibration(record: Record) -> None:
    groups = _unseen(record)
    found: dict[tuple[str, int, str], list[tuple[float | None, float | None]]] = {}
    for one in record["calibration"]:
        kinds = ("soup", "ensemble") if one["kind"] == "single" else (one["kind"],)
        for kind in kinds:
            errors = (one["ece"], one["ece_scaled"])
            found.setdefault((kind, one["size"], one["split"]), []).append(errors)
    columns = [(group["name"], kind) for group in groups for kind in ("soup", "ensemble")]
    screen.print_table(
        ["calibration error by number of models", *(f"{kind}, {name}" for name, kind in columns)],
        [
            [
                str(size),
                *(
                    " -> ".join(
                        _percent(column) for column in zip(*found[kind, size, name], strict=True)
                    )
                    for name, kind in columns
                ),
            ]
            for size in dict.fromkeys(size for _, size, _ in found)
        ],
    )
    screen.say(
        f"expected calibration error in percent, {record['bins']} bins of equal mass, before and "
        f"after the temperature that fits {record['held_out']} best"
    )


def _unseen(record: Record) -> Sequence[Record]:
    """What there is to report on: the test set and the mean of the shifts, or what there is."""
    groups = record["groups"]
    several = any(group["role"] == "mean-shift" for group in groups)
    wanted = ("test", "mean-shift" if several else "shift")
    return [group for group in groups if group["role"] in wanted] or groups


def _pair(extreme: Record, names: Sequence[str]) -> str:
    first, second = (names[i] for i in extreme["models"])
    return f"between {first} and {second}"


def _known(value: float | None) -> bool:
    return value is not None and value == value


def _correlation(found: Record) -> str:
    return f"{found['pearson']:.3f}" if _known(found["pearson"]) else "-"


def _signs(found: Record) -> str:
    return f"{found['same_sign']} of {found['pairs']}"


def _signed(value: float | None) -> str:
    return f"{value:+.4f}" if value is not None and _known(value) else "-"


def _percent(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and _known(value)]
    return f"{100 * sum(known) / len(known):.2f}" if known else "-"
