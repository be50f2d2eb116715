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
    type=click.Path(path_type=Path),
    help="A .toml file: lr = {log_uniform = [1e-5, 1e-4]}, epochs = {choice = [2, 3]}, ...",
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
    space: Path | None,
    skip_corrupt: bool,
    dry_run: bool,
    seed: int,
    device: str,
    as_json: bool,
    debug: bool,
) -> None:
    """Fine-tune ingredients from one base: linear probe first, then random search.

    Finished runs are kept: the same command continues an interrupted sweep, and extends one when
    --runs is larger.
    """
    from ladle.evaluate import find_device
    from ladle.sweep import Space, space_of, sweep
    from ladle.tasks import Trainable, load_task

    found = load_task(task, skip_corrupt=skip_corrupt)
    screen.remark_all(getattr(found, "remarks", ()))
    if not isinstance(found, Trainable):
        raise BadInput(f"task {found.name} can be evaluated but not trained on; see docs/tasks.md")
    drawn_from = space_of(found) if space is None else Space.read(space)
    if dry_run:
        drawn = [
            {"name": f"run-{n:03d}", "run": asdict(drawn_from.draw(seed, n))} for n in range(runs)
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
    """The runs and their hyper-parameters."""
    names = [name for name in records[0]["run"] if name != "seed"]
    trained = "training_loss" in records[0]
    screen.print_table(
        ["", *names, *(["loss"] if trained else [])],
        [
            [
                record["name"],
                *("-" if (v := record["run"][name]) is None else f"{v:.3g}" for name in names),
                *([f"{record['training_loss'][-1]:.4f}"] if trained else []),
            ]
            for record in records
        ],
    )
