"""`ladle cook`: choose, merge, judge, report."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ladle.cli import evaluations, options, recipe_options, screen, tastings
from ladle.errors import BadInput, LayoutMismatch, NotSoupable

if TYPE_CHECKING:
    from ladle.cluster import Workers
    from ladle.cook import OpenEvaluate
    from ladle.evaluate import BlackBox, Evaluator, Store
    from ladle.soup import Gathered, Ingredient, Pool
    from ladle.tasks import Task


@click.command("cook", cls=recipe_options.CommandWithRecipes)
@options.opening
@options.task
@click.option("--score", help="Instead of --task: a command with {model}, or FILE.py:FUNCTION.")
@click.option("--model", help="With --score FILE.py:FUNCTION: FILE.py:BUILD, to score live models.")
@recipe_options.recipe
@recipe_options.option
@click.option(
    "--force", is_flag=True, help="Go on where `ladle check` finds that no soup can be made."
)
@options.base
@options.store
@options.writing
@options.bn
@options.seed
@options.evaluating
@options.crew
@click.option(
    "--full-evaluation",
    is_flag=True,
    help="Measure candidates to the end that cannot be kept any more; it changes no decision.",
)
@options.always
def command(
    inputs: tuple[str, ...],
    task: str | None,
    score: str | None,
    model: str | None,
    recipe: str,
    further: tuple[str, ...],
    force: bool,
    base: str | Path | None,
    store: Path | None,
    output: Path,
    overwrite: bool,
    dry_run: bool,
    dtype: str,
    max_shard_size: int,
    rank: int | None,
    integers: Any,
    bn: Any,
    seed: int,
    full_evaluation: bool,
    opening: options.Opening,
    evaluating: options.Evaluating,
    crew: options.Crew,
    as_json: bool,
    debug: bool,
    **of_recipes: Any,
) -> None:
    """Choose checkpoints against held-out data, average them, and judge the soup.

    Killed or interrupted, the same command goes on where it stopped.
    """
    from ladle.cook import Kitchen, cook
    from ladle.evaluate import check_store
    from ladle.recipes import OF_TASKS
    from ladle.report import verdict
    from ladle.soup.output import WriteOptions, check_output, is_file_output

    if (task is None) == (score is None):
        raise BadInput("give either --task or --score, to say what is good")
    if task is not None and (model or ((opening.metric or opening.mode) and not opening.top_k)):
        raise BadInput(
            "--model goes with --score, --metric and --mode with --score or --top-k; a task brings "
            "its own metric"
        )
    crew.check()
    of_tasks = [*evaluating.given, *(["--full-evaluation"] if full_evaluation else [])]
    of_tasks += ["--ray"] if crew.ray is not None else []
    if score is not None and of_tasks:
        raise BadInput(f"{of_tasks[0]} goes with --task; with --score your own code decides")
    if score is not None and recipe in OF_TASKS:
        raise BadInput(
            f"--recipe {recipe} looks at predictions or gradients, and a --score has none; give a "
            "--task"
        )
    if score is not None and bn == "recalibrate":
        raise BadInput("--bn recalibrate needs the training data of a --task")
    start = options.start(base, inputs)
    found = opening.gather(inputs)
    pool = _models(_pool(found), start, task)
    supplied: dict[str, Any] = {"base": start, "seed": seed, "integers": integers}
    chosen = recipe_options.chosen(recipe, of_recipes, further, supplied)
    check_output(pool, output, overwrite=overwrite, rank=rank)
    check_store(store, output)
    loaded = None if task is None else evaluating.load(task)
    black_box = (
        None
        if task is not None
        else _black_box(str(score), model, opening.metric, opening.mode or "max")
    )
    caveats = _checked(found, start, force=force)
    if dry_run:
        if as_json:
            names = [one.name for one in pool]
            screen.print_json({"output": str(output), "recipe": recipe, "pool": names})
        else:
            screen.say(f"would cook a {recipe} soup from {len(pool)} checkpoints into {output}")
        return
    kitchen = Kitchen(
        base=start,
        store=store,
        write=WriteOptions(None if dtype == "source" else dtype, max_shard_size),
        rank=rank,
        integers=integers,
        bn=bn,
        overwrite=overwrite,
        seed=seed,
        caveats=caveats,
        command=shlex.join(["ladle", *sys.argv[1:]]),
        watch=screen.watching_bytes,
    )
    if loaded is None or task is None:
        done = cook(pool, chosen, cast("OpenEvaluate", black_box), output, kitchen)
    else:
        read = [*pool, *([start] if start else [])]
        with crew.evaluating(evaluating, task, loaded, read) as workers:
            open_evaluate = _task_evaluate(
                evaluating, loaded, early_exit=not full_evaluation, workers=workers
            )
            if workers is not None:
                supplied["map"] = workers.map
                chosen = recipe_options.chosen(recipe, of_recipes, further, supplied)
                write = replace(kitchen.write, map=workers.do, threads=crew.cpus_per_worker or 1)
                kitchen = replace(kitchen, map=workers.map, write=write)
            done = cook(pool, chosen, open_evaluate, output, kitchen)
    screen.remark_all(text for text in done.record["caveats"] if text not in caveats)
    if as_json:
        screen.print_json(
            {"output": str(output), "soup": done.record, "evaluations": done.evaluations}
        )
        return
    tastings.show(done.record, output, done.evaluations)
    if done.evaluations:
        screen.say("")
        higher = done.record["metric"]["higher_is_better"]
        evaluations.show(done.evaluations, higher_is_better=higher)
    if not is_file_output(output):
        screen.say("")
        for sentence in verdict(output):
            screen.say(sentence)


def _pool(found: Gathered) -> Pool:
    from ladle.soup import Pool

    try:
        return Pool.of(found.ingredients, found.remarks)
    except LayoutMismatch as error:
        raise NotSoupable(str(error)) from error


def _checked(found: Gathered, base: Ingredient | None, *, force: bool) -> list[str]:
    """What is doubtful about the checkpoints, said at once.

    One look at their weights tells, and gives their digests too.

    Raises:
        NotSoupable: `ladle check` would say so, and it is not to go on by `force`.
    """
    from ladle.checks import check

    ingredients = [*found.ingredients, *([base] if base else [])]
    for one in ingredients:
        one.checkpoint.hash_while_reading()
    nbytes = sum(one.checkpoint.layout.nbytes for one in found.ingredients)
    with screen.watching_bytes("checking checkpoints", nbytes) as advance:
        report = check(found, base=base.checkpoint if base else None, advance=advance)
    reasons = [one.text for one in report.findings if one.severity == "not soupable"]
    if reasons and not force:
        raise NotSoupable(f"{' '.join(reasons)} (--force goes on all the same)")
    caveats = [one.text for one in report.findings if one.severity != "note"]
    caveats = caveats if len(found.ingredients) > 1 else []
    screen.remark_all(caveats)
    return caveats


def _models(pool: Pool, base: Ingredient | None, task: str | None) -> Pool:
    """The pool as a task can judge it: adapters on their base."""
    from ladle.soup import is_adapter, with_base

    if base is not None:
        return with_base(pool, base)
    if task is not None and any(is_adapter(one.checkpoint) for one in pool):
        raise BadInput("an adapter is no model without its base; give it with --base")
    return pool


def _task_evaluate(
    evaluating: options.Evaluating, task: Task, *, early_exit: bool, workers: Workers | None
) -> OpenEvaluate:
    def open_evaluate(store: Store, workspace: Path) -> Evaluator:
        return evaluating.evaluator(
            task,
            store=store,
            early_exit=early_exit,
            workspace=workspace,
            forward=workers,
            crew=workers,
        )

    return open_evaluate


def _black_box(score: str, model: str | None, metric: str | None, mode: Any) -> OpenEvaluate:
    from ladle.evaluate import BlackBox, command_identity, in_memory, on_disk, shell_command
    from ladle.foreign import fingerprint, is_reference, load_function

    scorer: Any
    if is_reference(score):
        scorer, identity = load_function(score), fingerprint(score)
    else:
        scorer, identity = shell_command(score), command_identity(score)
        if model is not None:
            raise BadInput("--model goes with --score FILE.py:FUNCTION, not with a command")
    build = None
    if model is not None:
        build, identity = load_function(model), f"{identity}\n{fingerprint(model)}"

    def open_evaluate(store: Store, workspace: Path) -> BlackBox:
        ask = on_disk(scorer, workspace) if build is None else in_memory(scorer, build)
        return BlackBox(
            ask, identity=identity, store=store, metric=metric, mode=mode, watch=screen.watching
        )

    return open_evaluate
