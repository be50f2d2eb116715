"""`ladle evaluate`: scores of models on a task's splits, with intervals."""

from __future__ import annotations

from pathlib import Path

import click

from ladle.cli import evaluations, options, screen
from ladle.errors import BadInput


@click.command("evaluate")
@options.opening
@click.option("--task", required=True, metavar="TASK", help="A name, a .toml file, FILE.py:NAME.")
@click.option("--split", "splits", multiple=True, help="Only this one; may be repeated.")
@click.option("--ensemble", "with_ensemble", is_flag=True, help="And the mean of their logits.")
@options.base
@options.seed
@options.device
@options.batch_size
@options.always
def command(
    inputs: tuple[str, ...],
    task: str,
    splits: tuple[str, ...],
    with_ensemble: bool,
    base: str | Path | None,
    seed: int,
    device: str,
    batch_size: int,
    opening: options.Opening,
    as_json: bool,
    debug: bool,
) -> None:
    """Score models, soups or their ensemble, each compared with the first CKPT.

    CKPT are files, model folders, globs, or the folder of a training or sweep.
    """
    from ladle.checkpoint import open_checkpoint
    from ladle.evaluate import Evaluator, contestant, ensemble_of, find_device, judge
    from ladle.soup import Ingredient, Pool, uniform_soup, with_base
    from ladle.tasks import load_task

    find_device(device)
    pool = opening.pool(inputs, within=False)
    if base is not None:
        pool = with_base(pool, Ingredient("base", open_checkpoint(base)))
    found = load_task(task)
    unknown = [name for name in splits if name not in found.splits]
    if unknown:
        raise BadInput(f"--split {unknown[0]!r}: task {found.name} has {', '.join(found.splits)}")
    chosen = [
        split
        for split in found.splits.values()
        if (split.name in splits if splits else split.role != "train")
    ]
    evaluator = Evaluator(found, device=device, batch_size=batch_size, watch=screen.watching)
    soups = [uniform_soup(Pool.of([one])) for one in pool]
    models = [
        contestant(one.name, "single", soup, evaluator)
        for one, soup in zip(pool, soups, strict=True)
    ]
    if with_ensemble:
        models.append(ensemble_of(f"ensemble of {len(pool)}", soups, evaluator))
    rows = judge(found, models, splits=chosen, versus=models[0], seed=seed)
    if as_json:
        screen.print_json({"task": found.name, "evaluations": rows})
        return
    evaluations.show(rows, intervals=True)
