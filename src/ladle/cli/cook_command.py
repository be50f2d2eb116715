"""`ladle cook`: choose, merge, judge, report."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ladle.cli import evaluations, options, screen, tastings
from ladle.cli.learned_options import learning as learned_options
from ladle.errors import BadInput

if TYPE_CHECKING:
    from ladle.cook import OpenEvaluate, Recipe
    from ladle.evaluate import BlackBox, Evaluator, Store
    from ladle.soup import Ingredient, Pool


@click.command("cook")
@options.opening
@options.task
@options.skip_corrupt
@click.option("--score", help="Instead of --task: a command with {model}, or FILE.py:FUNCTION.")
@click.option("--model", help="With --score FILE.py:FUNCTION: FILE.py:BUILD, to score live models.")
@click.option("--recipe", default="greedy", show_default=True, help="Or uniform, learned, or best.")
@click.option("--strict", is_flag=True, help="Greedy: drop what leaves the score unchanged.")
@learned_options
@options.base
@options.store
@options.writing
@options.bn
@options.seed
@options.device
@options.batch_size
@options.amp
@options.channels_last
@options.always
def command(
    inputs: tuple[str, ...],
    task: str | None,
    skip_corrupt: bool,
    score: str | None,
    model: str | None,
    recipe: str,
    strict: bool,
    learning: dict[str, Any],
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
    device: str,
    batch_size: int,
    amp: bool,
    channels_last: bool,
    opening: options.Opening,
    as_json: bool,
    debug: bool,
) -> None:
    """Choose checkpoints against held-out data, average them, and judge the soup.

    Killed or interrupted, the same command goes on where it stopped.
    """
    from ladle.cook import Kitchen, check_store, cook
    from ladle.report import verdict
    from ladle.soup.output import WriteOptions, check_output, is_file_output

    if (task is None) == (score is None):
        raise BadInput("give either --task or --score, to say what is good")
    if task is not None and (model or ((opening.metric or opening.mode) and not opening.top_k)):
        raise BadInput(
            "--model goes with --score, --metric and --mode with --score or --top-k; a task brings "
            "its own metric"
        )
    if score is not None and skip_corrupt:
        raise BadInput("--skip-corrupt goes with --task; a --score reads its own data")
    if score is not None and (amp or channels_last):
        raise BadInput(
            f"--{'amp' if amp else 'channels-last'} is about how a --task computes; with --score, "
            "your own code decides"
        )
    if score is not None and recipe == "learned":
        raise BadInput("--recipe learned needs gradients, and a --score has none; give a --task")
    if score is not None and bn == "recalibrate":
        raise BadInput("--bn recalibrate needs the training data of a --task")
    chosen = _recipe(recipe, strict=strict, integers=integers, learning=learning, seed=seed)
    pool = opening.pool(inputs)
    start = _base(base, inputs)
    pool = _models(pool, start, task)
    check_output(pool, output, overwrite=overwrite, rank=rank)
    check_store(store, output)
    open_evaluate = (
        _task_evaluate(
            task,
            device,
            batch_size,
            amp=amp,
            channels_last=channels_last,
            skip_corrupt=skip_corrupt,
        )
        if task is not None
        else _black_box(str(score), model, opening.metric, opening.mode or "max")
    )
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
        command=shlex.join(["ladle", *sys.argv[1:]]),
        watch=screen.watching_bytes,
    )
    done = cook(pool, chosen, open_evaluate, output, kitchen)
    screen.remark_all(done.record.get("caveats", ()))
    if as_json:
        screen.print_json(
            {"output": str(output), "soup": done.record, "evaluations": done.evaluations}
        )
        return
    tastings.show(done.record, output)
    if done.evaluations:
        screen.say("")
        higher = done.record["metric"]["higher_is_better"]
        evaluations.show(done.evaluations, higher_is_better=higher)
    if not is_file_output(output):
        screen.say("")
        for sentence in verdict(output):
            screen.say(sentence)


def _models(pool: Pool, base: Ingredient | None, task: str | None) -> Pool:
    """The pool as a task can judge it: adapters on their base."""
    from ladle.soup import is_adapter, with_base

    if base is not None:
        return with_base(pool, base)
    if task is not None and any(is_adapter(one.checkpoint) for one in pool):
        raise BadInput("an adapter is no model without its base; give it with --base")
    return pool


def _recipe(
    name: str, *, strict: bool, integers: Any, learning: dict[str, Any], seed: int
) -> Recipe:
    from ladle.foreign import is_reference, load_function, offered
    from ladle.recipes import RECIPES

    if strict and name != "greedy":
        raise BadInput(f"--strict belongs to --recipe greedy, not to {name}")
    if learning and name != "learned":
        flag = "--" + next(iter(learning)).replace("_", "-")
        raise BadInput(f"{flag} belongs to --recipe learned, not to {name}")
    others = offered("ladle.recipes")
    recipe: Recipe
    if name in RECIPES:
        own = {"greedy": {"strict": strict}, "learned": {**learning, "seed": seed}}
        options: dict[str, Any] = own.get(name, {})
        recipe = partial(RECIPES[name], integers=integers, **options)
    elif is_reference(name):
        recipe = load_function(name)
    elif name in others:
        recipe = others[name].load()
    else:
        known = ", ".join([*RECIPES, *others])
        raise BadInput(f"--recipe {name!r} is none of {known} and no FILE.py:FUNCTION")
    return recipe


def _task_evaluate(
    reference: str,
    device: str,
    batch_size: int,
    *,
    amp: bool,
    channels_last: bool,
    skip_corrupt: bool,
) -> OpenEvaluate:
    from ladle.evaluate import Evaluator, find_device
    from ladle.tasks import load_task

    find_device(device)
    task = load_task(reference, skip_corrupt=skip_corrupt)

    def open_evaluate(store: Store, workspace: Path) -> Evaluator:
        return Evaluator(
            task,
            store=store,
            device=device,
            batch_size=batch_size,
            amp=amp,
            channels_last=channels_last,
            watch=screen.watching,
            workspace=workspace,
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


def _base(given: str | Path | None, inputs: tuple[str, ...]) -> Ingredient | None:
    from ladle.checkpoint import open_checkpoint
    from ladle.soup import Ingredient

    if given is None and len(inputs) == 1 and (Path(inputs[0]) / "sweep.json").is_file():
        given = Path(inputs[0]) / "base"
    return None if given is None else Ingredient("base", open_checkpoint(given))
