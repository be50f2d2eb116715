"""What more workers save: a sweep and greedy selection with two workers beside the same with one.

    python benchmarks/cluster.py [--rounds 3] [--runs 8] [--models 12] [--output PAGE]

Needs `ladle[demo,ray]` and two cores. The cluster is this machine; each worker has one core and one
thread. One worker and two take turns, so that what else the machine does meets both; what counts
are the ratios of one round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from speculation import Times

import ladle
from ladle.cluster import Cluster, Workers, connected
from ladle.evaluate import Evaluator, Store
from ladle.soup import Pool, uniform_soup
from ladle.sweep import sweep
from ladle.tasks import load_task
from ladle.tasks.load import loader

HERE = Path(__file__).resolve().parent
TASK = "demo-text"
WORKERS = (1, 2)
DROP = 0.15
"""Seconds until a worker has heard that it is not needed, not measured: a look every 0.1 and a
batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--output", type=Path, default=HERE / "cluster.md")
    parser.add_argument("--times", type=Path, default=HERE / "work" / "times.json")
    given = parser.parse_args()
    with connected("auto") as cluster:
        cluster.room(cpus=max(WORKERS), gpus=0)
        found = [
            [seconds(cluster, given.runs, workers) for workers in WORKERS]
            for _ in range(given.rounds)
        ]
        chosen = selections(cluster, given.models, given.rounds)
    text = page(given.runs, found) + selection_page(given.models, chosen)
    given.times.write_text(json.dumps(asdict(times(given.models))) + "\n", "utf-8")
    given.output.write_text(text, "utf-8")
    print(text)


def seconds(cluster: Cluster, runs: int, workers: int) -> float:
    """What a sweep takes: workers start, load the data, make the base, and then all runs."""
    from ladle.cluster.runs import ray_crew

    task = load_task(TASK)
    crew = ray_crew(cluster, loader(TASK), cpus=1, gpus=0, at_once=workers)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        sweep(task, Path(folder) / "sweep", runs=runs, crew=crew)
        return time.perf_counter() - began


def page(runs: int, found: Sequence[Sequence[float]]) -> str:
    ratios = [one / two for one, two in found]
    lines = [
        "# Ray: what more workers save",
        "",
        f"Written by `make bench-ray`. The machine: {os.cpu_count()} cores, {platform.system()} "
        f"{platform.machine()}. Python {platform.python_version()}, torch {torch.__version__}. "
        "Each worker has one core and one thread.",
        "",
        "## Sweep",
        "",
        f"{runs} fine-tunings of {TASK}, from the base on: {len(found)} rounds, in which one "
        "worker and two take turns.",
        "",
        "| | one worker, seconds | two workers, seconds | times faster |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| round {number} | {one:.1f} | {two:.1f} | {one / two:.2f} |"
        for number, (one, two) in enumerate(found, 1)
    ]
    one, two = (median(column) for column in zip(*found, strict=True))
    lines.append(f"| median | {one:.1f} | {two:.1f} | {median(ratios):.2f} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Selected:
    """Seconds of greedy selection from nothing, and of what comes after the models alone."""

    whole: float
    greedy: float


def selections(cluster: Cluster, models: int, rounds: int) -> list[list[Selected]]:
    """One worker and two by turns; all make the same soup, by the same decisions."""
    pool, task = models_of(models), load_task(TASK)
    found: list[list[Selected]] = []
    soups = set()
    for _ in range(rounds):
        found.append([])
        for count in WORKERS:
            with Workers(cluster, loader(TASK), task, count=count) as crew:
                warm = Evaluator(task, forward=crew)
                # Every worker has built its model, and what it keeps of the data.
                for _ in crew.map(warm, [uniform_soup(pool.subset([i])) for i in range(count)]):
                    pass
                store = Store(None)
                began = time.perf_counter()
                evaluate = Evaluator(task, store=store, forward=crew)
                for _ in crew.map(
                    evaluate, [uniform_soup(pool.subset([i])) for i in range(models)]
                ):
                    pass
                alone = time.perf_counter() - began
                soup = ladle.greedy(pool, evaluate, map=crew.map)
                whole = time.perf_counter() - began
                found[-1].append(Selected(whole, whole - alone))
                soups.add((soup.digest, soup.tastings))
    if len(soups) != 1:
        raise SystemExit("the number of workers has changed the soup")
    return found


def models_of(count: int) -> Pool:
    """A sweep that is made once, with all that this machine has."""
    pool = ladle.open(
        sweep(load_task(TASK), HERE / "work" / f"recipes-{TASK}-{count}-seed-0", runs=count)
    )
    pool.hash_all()
    return pool


def times(models: int) -> Times:
    """What one worker of one thread takes, for `speculation.py`."""
    torch.set_num_threads(1)
    pool, evaluate = models_of(models), Evaluator(load_task(TASK))
    model = evaluate.task.build()
    load, whole = [], []
    for i in range(1, min(4, models)):
        soup = uniform_soup(pool.subset([0, i]))
        began = time.perf_counter()
        soup.load_into(model)
        loaded = time.perf_counter()
        evaluate(soup)
        load.append(loaded - began)
        whole.append(time.perf_counter() - loaded)
    # The first evaluation builds the model.
    return Times(median(load), min(whole) - median(load), DROP)


def selection_page(models: int, found: Sequence[Sequence[Selected]]) -> str:
    lines = [
        "",
        "## Greedy selection",
        "",
        f"From {models} models that a sweep of {TASK} made, with early exit, after workers have "
        "started: the whole, and what comes after the models alone. Both make the same soup, by "
        "the same decisions.",
        "",
        "| | one worker, seconds | two workers, seconds | times faster | after the models alone: "
        "one | two | times faster |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for number, (one, two) in enumerate(found, 1):
        lines.append(
            f"| round {number} | {one.whole:.1f} | {two.whole:.1f} | {one.whole / two.whole:.2f} | "
            f"{one.greedy:.1f} | {two.greedy:.1f} | {one.greedy / two.greedy:.2f} |"
        )
    whole = median(one.whole / two.whole for one, two in found)
    greedy = median(one.greedy / two.greedy for one, two in found)
    lines.append(f"| median | | | {whole:.2f} | | | {greedy:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
