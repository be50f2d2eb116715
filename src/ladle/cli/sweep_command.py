"""`ladle sweep`: make ingredients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ladle.cli import options, screen, sweep_progress
from ladle.errors import BadInput

if TYPE_CHECKING:
    from ladle.sweep import Head


@click.command("sweep")
@click.option("--task", required=True, metavar="TASK", help="A name, a .toml file, FILE.py:NAME.")
@click.option("--runs", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="PATH|URL",
    callback=options.anywhere,
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
@click.option(
    "--head",
    type=click.Choice(["probe", "as-is"]),
    default="probe",
    show_default=True,
    help="Fit the final layer before the runs begin, or keep what the model came with.",
)
@click.option(
    "--save-every", type=click.IntRange(1), metavar="N", help="Keep a checkpoint each N steps."
)
@click.option(
    "--score-every", type=click.IntRange(1), metavar="N", help="Score on held-out each N steps."
)
@click.option(
    "--ema", type=float, multiple=True, metavar="DECAY", help="Keep an EMA too; may be repeated."
)
@click.option(
    "--swa", type=float, default=0.0, metavar="PART", help="Keep the mean of the last steps too."
)
@click.option("--amp", is_flag=True, help="Train in bfloat16 where PyTorch's autocast does.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed in an earlier command.")
@options.ray
@options.workers
@click.option(
    "--cpus-per-run", type=click.IntRange(1), metavar="N", help="With --ray; as it stands, 1."
)
@click.option(
    "--gpus-per-run",
    type=click.FloatRange(0, 1),
    metavar="N",
    help="With --ray; as it stands, 1 if the cluster has any. Below 1, runs share one.",
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
    head: Head,
    save_every: int | None,
    score_every: int | None,
    ema: tuple[float, ...],
    swa: float,
    amp: bool,
    retry_failed: bool,
    ray: str | None,
    workers: int | None,
    cpus_per_run: int | None,
    gpus_per_run: float | None,
    skip_corrupt: bool,
    dry_run: bool,
    seed: int,
    device: str,
    as_json: bool,
    debug: bool,
) -> None:
    """Fine-tune ingredients from one base: linear probe first, then a search.

    The same command continues an interrupted sweep from its last steps, and extends one when --runs
    is larger. On several GPUs: accelerate launch -m ladle sweep ... On several machines: --ray.
    """
    of_ray = {
        "--workers": workers, "--cpus-per-run": cpus_per_run, "--gpus-per-run": gpus_per_run
    }  # fmt: skip
    given = next((flag for flag, value in of_ray.items() if value is not None), None)
    if ray is None and given is not None:
        raise BadInput(f"{given} is for runs on a Ray cluster; add --ray auto or --ray ADDRESS")
    from ladle.evaluate import find_device
    from ladle.report import write_report
    from ladle.runs.records import run_name
    from ladle.sweep import Keeping, Space, space_of, sweep
    from ladle.tasks import Trainable, load_task
    from ladle.tasks.load import loader

    keeping = Keeping(save_every, score_every, ema, swa)
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
    with ExitStack() as stack:
        crew = None
        if ray is not None:
            from ladle.cluster import connected

            cluster = stack.enter_context(connected(ray))
            from ladle.cluster.runs import ray_crew

            crew = ray_crew(
                cluster,
                loader(task, skip_corrupt=skip_corrupt),
                cpus=cpus_per_run,
                gpus=gpus_per_run,
                at_once=workers,
                device=device,
                tell=screen.remark,
            )
        folders = sweep(
            found,
            output,
            runs=runs,
            space=drawn_from,
            seed=seed,
            points=points,
            device=None if crew else find_device(device),
            head=head,
            keeping=keeping,
            amp=amp,
            retry_failed=retry_failed,
            on_step=stack.enter_context(sweep_progress.watching()),
            crew=crew,
        )
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return  # Of several processes one speaks.
    records = [json.loads((folder / "run.json").read_text("utf-8")) for folder in folders]
    if len(records) < runs:
        screen.remark(f"{runs - len(records)} of {runs} runs failed; their run.json says how")
    if not records:
        raise BadInput(f"every run of {output} failed; change the space, and use another folder")
    page = write_report(output)
    if as_json:
        screen.print_json({"output": str(output), "runs": records})
        return
    show(records)
    screen.say(f"{len(folders)} runs -> {output}")
    screen.say(f"The page: {page}")


def show(records: Sequence[Mapping[str, Any]]) -> None:
    """The runs, their scores, and the hyper-parameters in which they differ."""
    runs: list[Mapping[str, Any]] = [record["run"] for record in records]
    names = [key for key in runs[0] if key != "seed" and len({run[key] for run in runs}) > 1]
    made = [record["scores"][-1] for record in records if "scores" in record]
    screen.print_table(
        ["", *names, *(["loss", made[0]["split"]] if made else [])],
        [
            [
                record["name"],
                *(_short(record["run"][name]) for name in names),
                *(
                    [_exact(record["training_loss"][-1]), _exact(record["scores"][-1]["value"])]
                    if made
                    else []
                ),
            ]
            for record in records
        ],
    )


def _short(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}"


def _exact(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
