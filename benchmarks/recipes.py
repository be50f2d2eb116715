"""Recipes on a real sweep: what they cost, and what comes of it.

    python benchmarks/recipes.py [--runs 12] [--rounds 3] [--seeds 0 1 2] [--output PAGE]

Needs `ladle[demo]`. The sweeps are made by ladle itself, in benchmarks/work, and kept, as is every
evaluation on test and shifts. First greedy selection with early exit beside the same without, after
the checkpoints alone were measured; both take turns. Then every recipe that there is. Sweeps of
further seeds try whether what the main recipes bring is more than luck.
"""

from __future__ import annotations

import argparse
import inspect
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import ladle
from ladle.checkpoint import open_checkpoint
from ladle.errors import LadleError
from ladle.evaluate import (
    Contestant,
    Evaluator,
    Store,
    best_by_held_out,
    contestant,
    ensemble_of,
    find_device,
    judge,
)
from ladle.recipes import RECIPES
from ladle.soup import Ingredient, Pool, Soup, uniform_soup
from ladle.sweep import sweep

HERE = Path(__file__).resolve().parent

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in RECIPES},
    "hierarchical": ("hierarchical", {"group_by": "epochs"}),
    "learned by layer": ("learned", {"by_layer": True}),
    "learned affine by layer": ("learned", {"by_layer": True, "affine": True}),
    "learned affine by layer, 4 at a time": (
        "learned",
        {"by_layer": True, "affine": True, "ingredients_per_step": 4},
    ),
}
"""What each row of the tables is: a recipe, and options."""

MAIN = ("greedy", "uniform", *(name for name in WAYS if name.startswith("learned")))
"""The rows for sweeps of further seeds."""


class Counter:
    """A `Watch` that counts the examples that go through the model."""

    def __init__(self) -> None:
        self.examples = 0

    @contextmanager
    def __call__(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        yield self._count

    def _count(self, examples: int) -> None:
        self.examples += examples


@dataclass(frozen=True)
class Selection:
    """What a recipe chose, how many examples went through the model for it, and how long it took.

    The checkpoints alone were measured before.
    """

    soup: Soup
    examples: int
    seconds: float


@dataclass(frozen=True)
class Bench:
    """A task, a sweep for it, and a store that has the checkpoints alone on held-out data."""

    task: Any
    pool: Pool
    base: Ingredient
    singles: Path
    device: str
    batch_size: int
    seed: int

    def select(self, name: str, *, early_exit: bool = True) -> Selection:
        """Let a recipe choose, in one of `WAYS`."""
        recipe, options = WAYS[name]
        count = Counter()
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "ladle.sqlite")
            store.take_over(self.singles)
            evaluate = self.evaluator(store, count, early_exit=early_exit)
            # The time of building a model is no part of choosing.
            evaluate.predict(uniform_soup(self.pool.subset([0])), evaluate.held_out.name)
            began = time.perf_counter()
            soup = RECIPES[recipe](self.pool, evaluate, **self._supplied(recipe), **options)
            seconds = time.perf_counter() - began
            store.close()
        return Selection(soup, count.examples, seconds)

    def evaluator(self, store: Store, watch: Counter, *, early_exit: bool = True) -> Evaluator:
        return Evaluator(
            self.task,
            store=store,
            device=self.device,
            batch_size=self.batch_size,
            early_exit=early_exit,
            watch=watch,
        )

    def _supplied(self, name: str) -> dict[str, Any]:
        """What a recipe takes beyond its options."""
        there = {"base": self.base, "seed": self.seed}
        known = inspect.signature(RECIPES[name]).parameters
        return {key: value for key, value in there.items() if key in known}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="demo-text")
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--sweep", type=Path, help="where they are, or go; default benchmarks/work")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=HERE / "recipes.md")
    given = parser.parse_args()
    task = ladle.load_task(given.task)
    parts: list[str] = []
    for seed in given.seeds:
        bench = prepared(task, given, seed)
        if not parts:
            told = (
                "All recipes",
                f"{task.metric.name} with its 95 % interval; + better and - worse than the best "
                "single by a paired test, p < 0.05. Evaluations are passes over the held-out "
                "examples after the checkpoints alone are known; learned takes gradients instead.",
            )
            parts = [heading(bench, given.rounds), early_exit(bench, given.rounds, "Early exit")]
            parts.append(recipes(bench, list(WAYS), *told))
        else:
            parts.append(early_exit(bench, given.rounds, f"Early exit, sweep of seed {seed}"))
            parts.append(recipes(bench, MAIN, f"Recipes, sweep of seed {seed}", "As above."))
        page = "\n\n".join(parts) + "\n"
        given.output.write_text(page, "utf-8")
    print(page)


def prepared(task: Any, given: argparse.Namespace, seed: int) -> Bench:
    """The sweep of a seed, made if it is not there, its checkpoints alone measured."""
    folder = given.sweep or HERE / "work" / f"recipes-{task.name}-{given.runs}"
    made = folder.with_name(f"{folder.name}-seed-{seed}")
    runs = sweep(task, made, runs=given.runs, seed=seed, device=find_device(given.device))
    pool = ladle.open(runs)
    base = Ingredient("base", open_checkpoint(made / "base"))
    store = Store(made / "singles.sqlite")
    bench = Bench(task, pool, base, made / "singles.sqlite", given.device, given.batch_size, seed)
    evaluator = bench.evaluator(store, Counter())
    for i in range(len(pool)):
        evaluator(uniform_soup(pool.subset([i])))
    store.close()
    return bench


def heading(bench: Bench, rounds: int) -> str:
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in bench.task.splits.items())
    return (
        "# Recipes: what they cost, and what comes of it\n\nWritten by `make bench-recipes`: "
        f"{len(bench.pool)} models that `ladle sweep --task {bench.task.name}` fine-tuned; "
        f"examples: {sizes}; batches of {bench.batch_size}.\n\nThe machine: {os.cpu_count()} "
        f"cores, {platform.system()} {platform.machine()}, device {find_device(bench.device)} with "
        f"{torch.get_num_threads()} threads, shared with other work. Python "
        f"{platform.python_version()}, torch {torch.__version__}. Times are medians of {rounds} "
        "rounds, in which both ways take turns."
    )


def early_exit(bench: Bench, rounds: int, title: str) -> str:
    """Greedy with early exit beside greedy without it."""
    ways = {"early exit": True, "full evaluation": False}
    found: dict[str, list[Selection]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, early in ways.items():
            one = bench.select("greedy", early_exit=early)
            if number or not rounds:  # The first round fills the caches.
                found[name].append(one)
    early, full = found.values()
    if {one.soup.digest for one in early} != {full[0].soup.digest}:
        raise SystemExit("early exit has changed the soup")
    trials = len(bench.pool) - 1
    kept = sum(one.kept for one in full[0].soup.tastings) - 1
    n = len(next(one for one in bench.task.splits.values() if one.role == "held-out"))
    rows = [
        [
            name,
            f"{some[0].examples:,}",
            f"{some[0].examples / max(1, full[0].examples):.3f}",
            f"{median(one.seconds for one in some):.2f}",
            f"{median(a.seconds / b.seconds for a, b in zip(some, full, strict=True)):.3f}",
        ]
        for name, some in found.items()
    ]
    heads = ["greedy", "examples evaluated", "ratio", "seconds", "ratio of seconds"]
    least = (kept + (trials - kept) * (1 - _score(full[0]))) / max(1, trials)
    return (
        f"## {title}\n\nThe {trials} soups that greedy tries after the checkpoints alone are "
        f"known, {kept} of which it keeps; {n:,} held-out examples each. Both make the same soup, "
        "by the same decisions.\n\n"
        + table(heads, rows)
        + f"\n\nLess than about {least:.2f} is not possible here: what is kept is measured in "
        "full, and what is dropped until it has made as many errors as the soup before it makes "
        "in all."
    )


def _score(found: Selection) -> float:
    scores = [one.score for one in found.soup.tastings if one.kept and one.score is not None]
    return max(scores)


def recipes(bench: Bench, ways: Sequence[str], title: str, about: str) -> str:
    """What recipes make of the sweep, judged as `ladle cook` does."""
    store = Store(bench.singles.with_name("judged.sqlite"))
    store.take_over(bench.singles)
    evaluator = bench.evaluator(store, Counter())
    held_out = evaluator.held_out
    singles = [uniform_soup(bench.pool.subset([i])) for i in range(len(bench.pool))]
    best = best_by_held_out(singles, evaluator)
    reference = contestant("best single", "single", singles[best], evaluator)
    contestants: list[Contestant] = [reference]
    costs = {"best single": ["1", "0.00"]}
    left_out: list[str] = []
    for name in ways:
        try:
            found = bench.select(name)
        except LadleError as error:
            left_out.append(f"{name}: {error}.")
            continue
        contestants.append(contestant(name, "soup", found.soup, evaluator))
        costs[name] = [str(len(found.soup.pool)), f"{found.examples / len(held_out):.2f}"]
    everything = ensemble_of(f"ensemble of {len(singles)}", singles, evaluator)
    contestants.append(everything)
    costs[everything.name] = [str(len(singles)), "0.00"]
    splits = [split for split in bench.task.splits.values() if split.role != "train"]
    rows = judge(bench.task, contestants, splits=splits, versus=reference, seed=bench.seed)
    store.close()
    names = list(dict.fromkeys(row["split"] for row in rows))
    by_name = {(row["model"], row["split"]): row for row in rows}
    lines = [
        [one.name, *costs[one.name], *(cell(by_name[one.name, split]) for split in names)]
        for one in contestants
    ]
    heads = ["", "ingredients", "evaluations", *names]
    told = f"## {title}\n\n{about}\n\n" + table(heads, lines)
    return told + "".join(f"\n\nNot here: {reason}" for reason in left_out)


def cell(row: Any) -> str:
    percent = row["metric"] in ("accuracy", "top-5")

    def shown(value: float) -> str:
        return f"{100 * value:.2f}" if percent else f"{value:.4f}"

    marks = {"better": " +", "worse": " -"}
    mark = marks.get(row["versus"]["verdict"], "") if row["versus"] else ""
    if row["low"] is None:
        return shown(row["value"]) + mark
    return f"{shown(row['value'])}{mark} [{shown(row['low'])}, {shown(row['high'])}]"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
