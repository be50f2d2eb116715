"""The main job: choose, merge, judge beside the honest baselines, write, report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ladle.errors import BadInput
from ladle.evaluate import (
    BlackBox,
    Contestant,
    Evaluator,
    Store,
    Watch,
    contestant,
    ensemble_of,
    judge,
    unwatched,
)
from ladle.files import check_room, part_of, publish_folder
from ladle.report import write_report
from ladle.soup import Evaluate, Ingredient, Policy, Pool, Soup, uniform_soup
from ladle.soup.card import model_card
from ladle.soup.output import (
    Advance,
    WriteOptions,
    check_output,
    is_file_output,
    write_file,
    write_folder,
    write_json,
)
from ladle.soup.record import record

Recipe = Callable[[Pool, Evaluate], Soup]
OpenEvaluate = Callable[[Store, Path], Evaluator | BlackBox]
"""Makes the evaluation from the store to use and a folder for its temporary files."""


@dataclass(frozen=True)
class Kitchen:
    """What `cook` needs beyond pool, recipe and evaluation; every field may be left as it is.

    `base` is the checkpoint that the ingredients were fine-tuned from, judged for comparison.
    """

    base: Ingredient | None = None
    write: WriteOptions = field(default_factory=WriteOptions)
    integers: Policy = "equal"
    overwrite: bool = False
    seed: int = 0
    command: str | None = None
    watch: Watch = unwatched


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

    Work is kept in `output.part`, the store first: after a kill the same call goes on from there
    and evaluates nothing twice.

    Raises:
        OutputExists, BadInput: `output` cannot be written; nothing was done.
        LadleError: see the recipe, the evaluation and the merge.
    """
    kitchen = kitchen or Kitchen()
    check_output([one.checkpoint.path for one in pool], output, overwrite=kitchen.overwrite)
    work = part_of(output)
    if work.exists() and not work.is_dir():
        raise BadInput(f"{work} is in the way; remove it")
    output.resolve().parent.mkdir(parents=True, exist_ok=True)
    check_room(output.resolve().parent, pool.layout.nbytes)
    work.mkdir(exist_ok=True)
    store = Store(work / "ladle.sqlite")
    try:
        with kitchen.watch("reading checkpoints", len(pool) * pool.layout.nbytes) as advance:
            pool.hash_all(advance)
        evaluate = open_evaluate(store, work / "candidate")
        soup = replace(recipe(pool, evaluate), integers=kitchen.integers)
        rows = _judged(pool, soup, evaluate, kitchen) if isinstance(evaluate, Evaluator) else []
        kept = record(
            soup,
            command=kitchen.command,
            offered=pool.ingredients,
            evaluation={**evaluate.describe(), "seed": kitchen.seed},
        )
        store.keep_decisions(soup.recipe, kept["tastings"])
    finally:
        store.close()
    with kitchen.watch(f"writing {output}", pool.layout.nbytes) as advance:
        if is_file_output(output):
            _finish_file(soup, output, kept, kitchen, advance)
        else:
            _finish_folder(soup, output, kept, rows, kitchen, advance)
    return Cooked(output, soup, kept, rows)


def _judged(pool: Pool, soup: Soup, evaluator: Evaluator, kitchen: Kitchen) -> list[dict[str, Any]]:
    singles = [uniform_soup(pool.subset([i]), integers=kitchen.integers) for i in range(len(pool))]
    best = max(range(len(pool)), key=lambda i: _rank(evaluator(singles[i])))
    contestants: list[Contestant] = []
    if kitchen.base:
        base = uniform_soup(Pool.of([kitchen.base]), integers=kitchen.integers)
        contestants.append(contestant("base", "base", base, evaluator))
    alone = [
        contestant(one.name, "single", single, evaluator)
        for one, single in zip(pool, singles, strict=True)
    ]
    contestants += alone
    if soup.recipe != "uniform":
        everything = uniform_soup(pool, integers=kitchen.integers)
        contestants.append(contestant("uniform soup", "soup", everything, evaluator))
    contestants.append(contestant(f"{soup.recipe} soup", "soup", soup, evaluator))
    contestants.append(ensemble_of(f"ensemble of {len(pool)}", singles, evaluator))
    splits = [split for split in evaluator.task.splits.values() if split.role != "train"]
    return judge(evaluator.task, contestants, splits=splits, versus=alone[best], seed=kitchen.seed)


def _rank(score: float) -> float:
    """The score, with NaN below everything."""
    return score if score == score else float("-inf")


def _finish_folder(
    soup: Soup,
    output: Path,
    kept: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    kitchen: Kitchen,
    advance: Advance,
) -> None:
    work = part_of(output)
    _leave_only_store(work)
    copies = write_folder(soup, work, kitchen.write, advance=advance)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (work / "evaluations.jsonl").write_text(lines, "utf-8")
    write_json(work / "soup.json", kept)
    card = model_card(output.name, kept, rows, side_files=copies)
    (work / "README.md").write_text(card, "utf-8")
    write_report(work)
    publish_folder(output)


def _finish_file(
    soup: Soup, output: Path, kept: Mapping[str, Any], kitchen: Kitchen, advance: Advance
) -> None:
    work = part_of(output)
    write_file(soup, work / output.name, kitchen.write, kept, advance=advance)
    for name in (output.name + ".json", output.name):
        (work / name).replace(output.with_name(name))
    shutil.rmtree(work)


def _leave_only_store(work: Path) -> None:
    # A killed run may have left half a model, or one of another shape.
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "ladle.sqlite":
            entry.unlink()
