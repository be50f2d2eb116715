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
@click.option("--soup", "with_soup", is_flag=True, help="And their uniform soup.")
@click.option("--ensemble", "with_ensemble", is_flag=True, help="And the mean of their logits.")
@click.option(
    "--greedy-ensemble",
    "with_greedy_ensemble",
    is_flag=True,
    help="And the mean of the logits of those that the greedy rule chooses on held-out data.",
)
@click.option(
    "--versus",
    metavar="NAME",
    help="Compare with this row of the table, not the best on held-out data.",
)
@options.store
@options.base
@options.seed
@options.evaluating
@options.crew
@options.always
def command(
    inputs: tuple[str, ...],
    task: str,
    splits: tuple[str, ...],
    with_soup: bool,
    with_ensemble: bool,
    with_greedy_ensemble: bool,
    versus: str | None,
    store: Path | None,
    base: str | Path | None,
    seed: int,
    opening: options.Opening,
    evaluating: options.Evaluating,
    crew: options.Crew,
    as_json: bool,
    debug: bool,
) -> None:
    """Score models, their soup or ensemble, each compared with the best single on held-out data.

    CKPT are files, model folders, globs, or the folder of a training or sweep.
    """
    from ladle.checkpoint import open_checkpoint
    from ladle.evaluate import (
        Store,
        best_by_held_out,
        caveats_of,
        chosen_by,
        contestant,
        ensemble_of,
        flattering,
        greedy_ensemble_of,
        held_out_split,
        judge,
    )
    from ladle.soup import Ingredient, Pool, uniform_soup, with_base

    crew.check()
    pool = opening.pool(inputs, within=False)
    if base is not None:
        pool = with_base(pool, Ingredient("base", open_checkpoint(base)))
    names = [one.name for one in pool]
    added = {
        "uniform soup": with_soup,
        f"ensemble of {len(pool)}": with_ensemble,
        "greedy ensemble": with_greedy_ensemble,
    }
    names += [name for name, wanted in added.items() if wanted]
    if versus is not None and not any(_is(name, versus) for name in names):
        raise BadInput(f"--versus {versus!r} is none of the models: {', '.join(names)}")
    found = evaluating.load(task)
    unknown = [name for name in splits if name not in found.splits]
    if unknown:
        raise BadInput(f"--split {unknown[0]!r}: task {found.name} has {', '.join(found.splits)}")
    chosen = [
        split
        for split in found.splits.values()
        if (split.name in splits if splits else split.role != "train")
    ]
    kept = Store(store) if store else None
    held_out = held_out_split(found)
    caveats = [*caveats_of(found), *chosen_by(pool, chosen)]
    if with_greedy_ensemble and held_out in chosen:
        caveats.append(flattering("the greedy ensemble", held_out.name))
    screen.remark_all(caveats)
    with crew.evaluating(evaluating, task, found, pool) as workers:
        evaluator = evaluating.evaluator(found, store=kept, forward=workers)
        soups = [uniform_soup(Pool.of([one])) for one in pool]
        models = [
            contestant(one.name, "single", soup, evaluator)
            for one, soup in zip(pool, soups, strict=True)
        ]
        if workers is not None:
            for _ in workers.map(evaluator, soups):
                pass
        best = models[best_by_held_out(soups, evaluator) if len(pool) > 1 else 0]
        if with_soup:
            models.append(contestant("uniform soup", "soup", uniform_soup(pool), evaluator))
        if with_ensemble:
            models.append(ensemble_of(f"ensemble of {len(pool)}", soups, evaluator))
        if with_greedy_ensemble:
            models.append(greedy_ensemble_of(soups, evaluator))
        reference = best if versus is None else next(m for m in models if _is(m.name, versus))
        rows = judge(
            found,
            models,
            splits=chosen,
            versus=reference,
            seed=seed,
            map=None if workers is None else workers.map,
        )
    if as_json:
        screen.print_json({"task": found.name, "evaluations": rows, "caveats": caveats})
        return
    evaluations.show(rows, higher_is_better=found.metric.higher_is_better, intervals=True)


def _is(name: str, asked: str) -> bool:
    """Whether a row of this name is asked for; how many an ensemble has need not be said."""
    return name == asked or name.startswith(f"{asked} of ")
