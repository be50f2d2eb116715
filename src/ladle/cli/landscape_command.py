"""`ladle landscape`: the path between two models, or the plane through three."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from ladle.cli import evaluations, options, screen
from ladle.errors import BadInput

Row = Mapping[str, Any]


def _grid(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", value.strip())
    if found is None:
        raise click.BadParameter(f"{value!r} is no grid; write it as in 15 or 21x11")
    return int(found.group(1)), int(found.group(2) or found.group(1))


def _fraction(context: click.Context, parameter: click.Parameter, value: str) -> Fraction:
    try:
        return Fraction(value)
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"{value!r} is no number; write it as in 0.2") from None


@click.command("landscape")
@options.opening
@options.base
@click.option("--task", required=True, metavar="TASK", help="A name, a .toml file, FILE.py:NAME.")
@click.option(
    "--grid",
    callback=_grid,
    default="15",
    show_default=True,
    metavar="N or NxM",
    help="Points along each axis, and on a path.",
)
@click.option(
    "--margin",
    callback=_fraction,
    default="0.2",
    show_default=True,
    metavar="SHARE",
    help="How far to go beyond the models, as a share of their extent.",
)
@click.option(
    "--mark", "marks", multiple=True, metavar="CKPT", help="Show this one too; may be repeated."
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Only this one; may be repeated. As it stands, train, test and shifts.",
)
@options.samples
@options.store
@options.folder
@options.overwrite
@options.dry_run
@options.seed
@options.evaluating
@options.always
def command(
    inputs: tuple[str, ...],
    base: str | Path | None,
    task: str,
    grid: tuple[int, int],
    margin: Fraction,
    marks: tuple[str, ...],
    splits: tuple[str, ...],
    samples: int | None,
    store: Path | None,
    output: Path,
    overwrite: bool,
    dry_run: bool,
    seed: int,
    opening: options.Opening,
    evaluating: options.Evaluating,
    as_json: bool,
    debug: bool,
) -> None:
    """Measure the soups on the path between two models, or in the plane through three.

    Two CKPT are the ends of a path; three, or two and --base, span a plane with a path in it. Soups
    are merged as they are needed, and none is written. Killed or interrupted, the same command goes
    on where it stopped.
    """
    from ladle.analysis import Grid, Survey, beyond, check_folder, header, lay_out, looked_at
    from ladle.analysis import working as working_on
    from ladle.checkpoint import open_checkpoint
    from ladle.evaluate import unwatched
    from ladle.report import write_report
    from ladle.soup import Ingredient, Pool, gather

    wanted = Grid(*grid, margin)
    found = opening.gather(inputs, quietly=True, within=False)
    if found.repeated:
        raise BadInput(f"{'; '.join(found.repeated)}, and a landscape needs different models")
    for text in found.remarks:
        screen.remark(text)
    pool = Pool.of(found.ingredients, found.remarks)
    start = None if base is None else Ingredient("base", open_checkpoint(base))
    marked = gather(marks, use_ema=opening.use_ema, within=False).ingredients if marks else ()
    given = [*pool, *([start] if start else []), *marked]
    check_folder(output, "landscape.json", given, store=store, overwrite=overwrite)
    data = evaluating.load(task)
    chosen = looked_at(data, splits, samples=samples)
    remarks = []
    if not splits and all(split.role != "train" for split in chosen):
        remarks.append(f"task {data.name} has no split with the role train, so no train loss")
    nbytes = sum(one.checkpoint.layout.nbytes for one in given)
    with screen.watching_bytes("reading checkpoints", nbytes) as read:
        ground = lay_out(pool, base=start, marks=marked, grid=wanted)
        read(nbytes)
    total = ground.evaluations(len(chosen))
    if dry_run:
        names = [split.name for split in chosen]
        if as_json:
            screen.print_json({"output": str(output), "evaluations": total, "splits": names})
        else:
            each = "all examples" if samples is None else f"{samples:,} examples at most"
            screen.say(
                f"would evaluate {total // len(names):,} soups on {', '.join(names)} ({each} of "
                f"each) into {output}"
            )
        return
    for text in remarks:
        screen.remark(text)
    with working_on(output, "landscape.json", data, store=store) as work:
        evaluator = evaluating.evaluator(data, store=work.store, watch=unwatched)
        top = header(evaluator, command=shlex.join(["ladle", *sys.argv[1:]]))
        screen.remark_all(top["caveats"])
        with screen.watching("measuring soups", total, unit="evaluations") as advance:
            survey = Survey(evaluator, chosen, samples=samples, seed=seed, advance=advance)
            landscape = ground.survey(survey)
        record = {**top, **landscape.record(), "remarks": remarks}
        work.publish(record, finish=write_report)
    outside = beyond(landscape)
    if outside:
        screen.remark(f"outside of the grid: {', '.join(outside)}; a larger --margin shows them")
    if as_json:
        screen.print_json({"output": str(output), "landscape": record})
        return
    show(record)
    screen.say(f"-> {output}")


def show(record: Row) -> None:
    """The marked models, the best points of the grid, and the barriers of the paths."""
    models, geometry = record["models"], record["geometry"]
    paths = record.get("paths", [record])
    if record["kind"] == "plane":
        first, second, third = (one["name"] for one in models[:3])
        screen.say(
            f"plane through {first}, {second} and {third}: distances "
            f"{geometry['distances'][0][1]:.4g} and {geometry['distances'][0][2]:.4g} from {first},"
            f" {geometry['angle']:.1f}° between"
        )
    axes = ["a", "b"] if record["kind"] == "plane" else ["t"]
    shown = _shown(models[0]["values"])
    rows = [
        [
            one["name"] + (f" ({one['off']:.3g} away)" if one["off"] else ""),
            *(f"{one[axis]:.3f}" for axis in axes),
            *(_number(value, value["value"]) for value in _of(one["values"], shown)),
        ]
        for one in models
    ]
    best = [_best(curve, record) for curve in _of(record["curves"], shown)]
    blanks = [""] * len(axes)
    where = "grid" if record["kind"] == "plane" else "path"
    rows += [
        [text, *blanks, *(one[number] for one in best)]
        for number, text in enumerate([f"best on the {where}", "  at", "  standard error"])
    ]
    screen.print_table(["", *axes, *(" ".join(pair) for pair in shown)], rows)
    for one in paths:
        screen.say(f"\npath {' -> '.join(one['between'])}, distance {one['distance']:.4g}")
        found = _of(one["barriers"], shown)
        heights = [_number(barrier, barrier["height"]) for barrier in found]
        at = ["-" if barrier["at"] is None else f"t = {barrier['at']:.2f}" for barrier in found]
        screen.print_table(
            ["", *(" ".join(pair) for pair in shown)],
            [["barrier", *heights], ["  at", *at]],
        )


def _shown(values: Sequence[Row]) -> list[tuple[str, str]]:
    """(split, quantity) of the columns: shifts by their mean, where they have one."""
    averaged = any(one["role"] == "mean-shift" for one in values)
    return [
        (one["split"], one["quantity"])
        for one in values
        if not (averaged and one["role"] == "shift")
    ]


def _of(rows: Sequence[Row], shown: Sequence[tuple[str, str]]) -> list[Row]:
    known = {(row["split"], row["quantity"]): row for row in rows}
    return [known[key] for key in shown]


def _best(curve: Row, record: Row) -> tuple[str, str, str]:
    """The best value of a curve that is finite, where it is, and its standard error."""
    plane = record["kind"] == "plane"
    rows = curve["values"] if plane else [curve["values"]]
    errors = curve["standard_error"] if plane else [curve["standard_error"]]
    sign = 1 if curve["higher_is_better"] else -1
    found = [
        (sign * value, i, j)
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
        if math.isfinite(value)
    ]
    if not found:
        return "-", "-", "-"
    best, i, j = max(found)
    at = (record["a"][j], record["b"][i]) if plane else (record["t"][j],)
    error = errors[i][j] if curve["standard_error"] else None
    place = ", ".join(f"{one:.2f}" for one in at)
    return _number(curve, sign * best), place, _number(curve, error)


def _number(row: Row, value: float | None) -> str:
    """Errors in percent, as accuracies are elsewhere."""
    if row["quantity"] == "error":
        return evaluations.number("accuracy", value)
    return evaluations.number(row["quantity"], value)
