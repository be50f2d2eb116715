"""All of it once, on a pre-trained model and data that Python packages carry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle.checkpoint import open_checkpoint
from ladle.cook import Kitchen, cook
from ladle.errors import BadInput, BadTask
from ladle.evaluate import Evaluator, find_device
from ladle.evaluate.evaluator import Watch
from ladle.recipes import greedy
from ladle.report import write_report
from ladle.soup import Ingredient, Pool, open_pool
from ladle.sweep import OnStep, sweep
from ladle.tasks import BUILT_IN, Trainable, load_task

RUNS = 8


@dataclass(frozen=True)
class Demonstration:
    """What there is to look at: the records of the runs, of the soup, and the evaluations."""

    sweep: Path
    soup: Path
    runs: Sequence[Mapping[str, Any]]
    record: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]


def demonstrate(
    name: str,
    output: Path,
    *,
    seed: int,
    device: str,
    watch: Watch,
    watch_sweep: Callable[[], Any],
    tell: Callable[[str], None],
) -> Demonstration:
    """A sweep in `output/sweep` and a greedy soup of it in `output/soup`.

    What is already there is kept, so a second call finds everything done. `watch_sweep` opens a
    context that gives an `OnStep`.

    Raises:
        BadTask: there is no built-in task of this name.
        MissingExtra: the packages with model or data are not installed.
    """
    if name not in BUILT_IN:
        raise BadTask(f"--task {name!r} is no demo; choose one of {', '.join(BUILT_IN)}")
    made, soup = output / "sweep", output / "soup"
    task = load_task(name)
    if not isinstance(task, Trainable):
        raise BadTask(f"the demo {name!r} cannot be trained")

    tell(f"$ ladle sweep --task {name} --runs {RUNS} --seed {seed} --output {made}")
    on_step: OnStep
    with watch_sweep() as on_step:
        runs = sweep(task, made, runs=RUNS, seed=seed, device=find_device(device), on_step=on_step)
    write_report(made)
    tell(f"$ ladle cook {made} --task {name} --seed {seed} --output {soup}")
    pool = open_pool(runs)
    if soup.exists():
        _check_same(soup, pool)
    else:
        cook(
            pool,
            greedy,
            lambda store, workspace: Evaluator(task, store=store, device=device, watch=watch),
            soup,
            Kitchen(
                base=Ingredient("base", open_checkpoint(made / "base")),
                seed=seed,
                watch=watch,
                command=f"ladle cook {made} --task {name} --seed {seed} --output {soup}",
            ),
        )
    lines = (soup / "evaluations.jsonl").read_text("utf-8").splitlines()
    return Demonstration(
        made,
        soup,
        [json.loads((run / "run.json").read_text("utf-8")) for run in runs],
        json.loads((soup / "soup.json").read_text("utf-8")),
        [json.loads(line) for line in lines],
    )


def _check_same(soup: Path, pool: Pool) -> None:
    record = json.loads((soup / "soup.json").read_text("utf-8"))
    if [one["sha256"] for one in record["pool"]] != list(pool.digests):
        raise BadInput(f"{soup} was cooked from another sweep; remove it or name another --output")
