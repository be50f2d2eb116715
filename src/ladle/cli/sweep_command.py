"""`ladle sweep`: make ingredients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ladle.cli import options, screen
from ladle.errors import BadInput


@click.command("sweep")
@click.option("--task", required=True, metavar="TASK", help="A name, a .toml file, FILE.py:NAME.")
@click.option("--runs", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    callback=options.home,
    help="The sweep's folder.",
)
@click.option(
    "--space",
    metavar="NAME|FILE",
    help="paper-vision, paper-text, or a .toml file: lr = {log_uniform = [1e-5, 1e-4]}, "
    "epochs = {choice = [2, 3]}, mixup = {uniform = [0, 0.9], off = 0.5}, ...",
)
@click.option(
    "--points",
    type=click.Choice(["random", "sobol", "grid"]),
    default="random",
    show_default=True,
    help="How the runs cover the space; a grid needs lists of values.",
)
@options.skip_corrupt
@options.dry_run
@options.seed
@options.device
@options.always
def command(
    task: str,
    runs: int,
    output: Path,
    space: str | None,
    points: str,
    skip_corrupt: bool,
    dry_run: bool,
    seed: int,
    device: str,
    as_json: bool,
    debug: bool,
) -> None:
    """Fine-tune ingredients from one base: linear probe first, then a search.

    Finished runs are kept: the same command continues an interrupted sweep, and extends one when
    --runs is larger.
    """
    from ladle.evaluate import find_device
    from ladle.sweep import Space, run_name, space_of, sweep
    from ladle.tasks import Trainable, load_task

    found = load_task(task, skip_corrupt=skip_corrupt)
    screen.remark_all(getattr(found, "remarks", ()))
    if not isinstance(found, Trainable):
        raise BadInput(f"task {found.name} can be evaluated but not trained on; see docs/tasks.md")
    drawn_from = space_of(found) if space is None else Space.named_or_read(space)
    if dry_run:
        drawn = [
            {"name": run_name(number), "run": asdict(run)}
            for number, run in enumerate(drawn_from.runs(seed, runs, points))
        ]
        if as_json:
            screen.print_json({"output": str(output), "dry_run": True, "runs": drawn})
        else:
            show(drawn)
        return
    with screen.stages() as on_step:
        folders = sweep(
            found,
            output,
            runs=runs,
            space=drawn_from,
            seed=seed,
            points=points,
            device=find_device(device),
            on_step=on_step,
        )
    records = [json.loads((folder / "run.json").read_text("utf-8")) for folder in folders]
    if len(records) < runs:
        screen.remark(f"{runs - len(records)} of {runs} runs diverged; their run.json says how")
    if not records:
        raise BadInput(f"every run of {output} diverged; lower lr in the space, in another folder")
    if as_json:
        screen.print_json({"output": str(output), "runs": records})
        return
    show(records)
    screen.say(f"{len(folders)} runs -> {output}")


def show(records: Sequence[Mapping[str, Any]]) -> None:
    """The runs, their losses, and the hyper-parameters in which they differ."""
    runs: list[Mapping[str, Any]] = [record["run"] for record in records]
    names = [key for key in runs[0] if key != "seed" and len({run[key] for run in runs}) > 1]
    trained = "training_loss" in records[0]
    screen.print_table(
        ["", *names, *(["loss"] if trained else [])],
        [
            [
                record["name"],
                *(_short(record["run"][name]) for name in names),
                *([f"{record['training_loss'][-1]:.4f}"] if trained else []),
            ]
            for record in records
        ],
    )


def _short(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}"
