"""The main job: choose, merge, judge beside the honest baselines, write, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ladle.ahead import Map
from ladle.checkpoint import open_checkpoint
from ladle.errors import BadInput
from ladle.evaluate import (
    BatchNormMode,
    BatchNormTaster,
    BlackBox,
    Contestant,
    Evaluator,
    Store,
    Watch,
    arrays_of,
    best_by_held_out,
    caveats_of,
    check_store,
    contestant,
    ensemble_of,
    judge,
    unwatched,
)
from ladle.files import check_room, claimed, part_of
from ladle.location import is_local
from ladle.report import write_report
from ladle.soup import (
    Evaluate,
    Ingredient,
    Policy,
    Pool,
    Prepared,
    Soup,
    is_adapter,
    uniform_soup,
    without_changes,
)
from ladle.soup.output import WriteOptions, check_output, publish, room_for
from ladle.soup.record import record

_STORE = "ladle.sqlite"

Recipe = Callable[[Pool, Evaluate], Soup]
OpenEvaluate = Callable[[Store, Path], Evaluator | BlackBox]
"""Makes the evaluation from the store to use and a folder for its temporary files."""


@dataclass(frozen=True)
class Kitchen:
    """What `cook` needs beyond pool, recipe and evaluation; every field may be left as it is.

    `base` is the checkpoint that the ingredients were fine-tuned from, judged for comparison.
    `store` is a file to keep evaluations in and take them from, shared with other commands; None
    keeps them in the output.
    `rank` is what a soup of LoRA adapters is truncated to, `write.dtype` what weights are rounded
    to. Every candidate is, before the recipe hears of its score: what is chosen and reported is
    what is written.
    """

    base: Ingredient | None = None
    store: Path | None = None
    write: WriteOptions = field(default_factory=WriteOptions)
    integers: Policy = "equal"
    rank: int | None = None
    bn: BatchNormMode = "best"
    overwrite: bool = False
    seed: int = 0
    caveats: Sequence[str] = ()
    """What is to be said of the ingredients wherever the soup is shown."""
    command: str | None = None
    watch: Watch = unwatched
    map: Map | None = None
    """How to run the evaluations of judging, if not one by one; the recipe brings its own."""


@dataclass(frozen=True)
class Cooked:
    """What `cook` made: the soup, its record (`soup.json`) and the rows of `evaluations.jsonl`."""

    output: Path
    soup: Soup
    record: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]


def cook(
    pool: Pool,
    recipe: Recipe,
    open_evaluate: OpenEvaluate,
    output: Path,
    kitchen: Kitchen | None = None,
) -> Cooked:
    """Choose a soup from `pool`, judge it, and write it to `output` with record and report.

    Work is kept in `output.part`, the store first, unless there is another: after a kill the same
    call goes on from there and evaluates nothing twice.

    Raises:
        OutputExists, BadInput: `output` cannot be written, or the store used; nothing was done.
        LadleError: see the recipe, the evaluation and the merge.
    """
    kitchen = kitchen or Kitchen()
    check_output(pool, output, overwrite=kitchen.overwrite, rank=kitchen.rank)
    check_store(kitchen.store, output)
    check_room(_existing(part_of(output.resolve()).parent), room_for(pool, output))
    with claimed(output) as work:
        own = work / _STORE
        store = Store(kitchen.store or own)
        try:
            # What was measured for an output that is replaced, or was left unfinished without this
            # store, need not be measured again.
            for earlier in [output / _STORE, *([own] if kitchen.store else [])]:
                if earlier.is_file():
                    store.take_over(earlier)
            with kitchen.watch("reading checkpoints", len(pool) * pool.layout.nbytes) as advance:
                pool.hash_all(advance)
            evaluate = open_evaluate(store, work / "candidate")
            soup, rows, about = _chosen_and_judged(recipe, pool, evaluate, kitchen)
            kept = record(
                soup,
                command=kitchen.command,
                offered=pool,
                evaluation={**evaluate.describe(), **about, "seed": kitchen.seed},
            )
            store.keep_decisions(soup.digest, soup.recipe, kept["tastings"])
        finally:
            store.close()
        with kitchen.watch(f"writing {output}", pool.layout.nbytes) as advance:
            written = publish(
                soup,
                output,
                lambda: kept,
                kitchen.write,
                evaluations=rows,
                keep=() if kitchen.store else (own.name, arrays_of(own).name),
                finish=write_report,
                advance=advance,
            )
        if isinstance(evaluate, Evaluator) and evaluate.is_exact_for(soup):
            _know_written(soup, output, kitchen)
    return Cooked(output, soup, written, rows)


def _know_written(soup: Soup, output: Path, kitchen: Kitchen) -> None:
    """Let the store know the written model as what was judged, if its weights are the same."""
    kept = kitchen.store or output / _STORE
    # One behind a URL would have to be fetched to be hashed.
    if any(is_adapter(one.checkpoint) for one in soup.pool) or not is_local(output):
        return
    if not kept.is_file():
        return
    model = Pool.of([Ingredient(output.name, open_checkpoint(output))])
    with kitchen.watch(f"reading {output}", model.layout.nbytes) as advance:
        model.hash_all(advance)
    store = Store(kept)
    try:
        store.keep_as(soup.digest, uniform_soup(model).digest)
    finally:
        store.close()


def _chosen_and_judged(
    recipe: Recipe, pool: Pool, evaluate: Evaluator | BlackBox, kitchen: Kitchen
) -> tuple[Soup, list[dict[str, Any]], dict[str, Any]]:
    """The soup, the rows of `evaluations.jsonl`, and what else there is to record."""
    if not isinstance(evaluate, Evaluator):
        return _chosen(recipe, pool, evaluate, kitchen), [], {"caveats": [*kitchen.caveats]}
    taste = BatchNormTaster(evaluate, kitchen.bn, seed=kitchen.seed)
    soup = taste.settled(_chosen(recipe, pool, taste, kitchen))
    caveats = [*soup.caveats, *kitchen.caveats, *caveats_of(evaluate.task)]
    about = {"batchnorm": taste.describe(soup), "caveats": caveats}
    return soup, _judged(pool, soup, evaluate, taste, kitchen), about


def _chosen(recipe: Recipe, pool: Pool, evaluate: Evaluate, kitchen: Kitchen) -> Soup:
    def as_written(candidate: Soup) -> Soup:
        return replace(candidate, rank=kitchen.rank, dtype=_dtype(pool, kitchen))

    # The recipe hears of what will be written: rounded, and truncated.
    soup = recipe(pool, Prepared(evaluate, as_written))
    if not isinstance(soup, Soup):
        raise BadInput(f"the recipe gave {type(soup).__name__}; it has to return a ladle.Soup")
    return as_written(replace(soup, integers=kitchen.integers))


def _dtype(pool: Pool, kitchen: Kitchen) -> str | None:
    """What candidates are rounded to, to have the weights of the file that will be written.

    Of adapters, a file has the factors, which are rounded when they are written.
    """
    adapters = any(is_adapter(one.checkpoint) for one in pool)
    return None if adapters else kitchen.write.dtype


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _judged(
    pool: Pool, soup: Soup, evaluator: Evaluator, taste: BatchNormTaster, kitchen: Kitchen
) -> list[dict[str, Any]]:
    singles = [uniform_soup(pool.subset([i]), integers=kitchen.integers) for i in range(len(pool))]
    if kitchen.map is not None:
        for _ in kitchen.map(evaluator, singles):  # Some recipes ask for no score.
            pass
    best = best_by_held_out(singles, evaluator)
    contestants: list[Contestant] = []
    start = kitchen.base and without_changes(kitchen.base, pool)
    if start and _is_whole(start, pool):
        base = uniform_soup(Pool.of([start]), integers=kitchen.integers)
        name = "base" if "base" not in {one.name for one in pool} else "the base"
        contestants.append(contestant(name, "base", base, evaluator))
    alone = [
        contestant(one.name, "single", single, evaluator)
        for one, single in zip(pool, singles, strict=True)
    ]
    contestants += alone
    if soup.recipe != "uniform":
        everything = uniform_soup(pool, integers=kitchen.integers)
        everything = replace(everything, rank=kitchen.rank, dtype=_dtype(pool, kitchen))
        everything = taste.settled(everything)
        contestants.append(contestant("uniform soup", "soup", everything, evaluator))
    for name, other in soup.beside.items():
        contestants.append(contestant(name, "curve", taste.settled(other), evaluator))
    contestants.append(contestant(f"{soup.recipe} soup", "soup", soup, evaluator))
    contestants.append(ensemble_of(f"ensemble of {len(pool)}", singles, evaluator))
    splits = [split for split in evaluator.task.splits.values() if split.role != "train"]
    return judge(
        evaluator.task,
        contestants,
        splits=splits,
        versus=alone[best],
        seed=kitchen.seed,
        map=kitchen.map,
    )


def _is_whole(base: Ingredient, pool: Pool) -> bool:
    """Whether the base is a model of the task: the heads of adapters may be none of its own."""
    return not is_adapter(pool[0].checkpoint) or (
        base.checkpoint.layout.tensors.keys() >= pool.layout.tensors.keys()
    )
