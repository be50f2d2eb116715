"""What more workers save: a sweep and greedy selection with two workers beside the same with one.

    python benchmarks/cluster.py [--task demo-text] [--rounds 3] [--runs 8] [--models 12]
    python benchmarks/speculation.py work/greedy/soup.json --times work/times.json

Needs `ladle[demo,ray]` and two cores. The cluster is this machine; each worker has one core and one
thread. One worker and two take turns, so that what else the machine does meets both; what counts
are the ratios of one round. What it writes into work/ is what `speculation.py` works with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from speculation import Times

import ladle
from ladle.cluster import Cluster, Workers, connected
from ladle.cook import Kitchen, cook
from ladle.evaluate import Dropped, Evaluator, Store
from ladle.soup import Pool, apart, uniform_soup
from ladle.sweep import sweep
from ladle.tasks import load_task
from ladle.tasks.load import loader

HERE = Path(__file__).resolve().parent
WORKERS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="demo-text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--models", type=int, default=12, help="Three or more.")
    parser.add_argument("--output", type=Path, default=HERE / "cluster.md")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    given = parser.parse_args()
    with connected("auto") as cluster:
        cluster.room(cpus=max(WORKERS), gpus=0)
        found = [
            [seconds(cluster, given.task, given.runs, workers) for workers in WORKERS]
            for _ in range(given.rounds)
        ]
        pool = models_of(given.task, given.models, given.work)
        chosen = selections(cluster, given.task, pool, given.rounds)
        keep(cluster, given.task, pool, given.work / "greedy")
        took = times(cluster, given.task, pool)
    text = page(given.task, given.runs, found) + selection_page(given.task, len(pool), chosen)
    (given.work / "times.json").write_text(json.dumps(asdict(took)) + "\n", "utf-8")
    given.output.write_text(text, "utf-8")
    print(text)


def seconds(cluster: Cluster, reference: str, runs: int, workers: int) -> float:
    """What a sweep takes: workers start, load the data, make the base, and then all runs."""
    from ladle.cluster.runs import ray_crew

    task = load_task(reference)
    crew = ray_crew(cluster, loader(reference), cpus=1, gpus=0, at_once=workers)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        sweep(task, Path(folder) / "sweep", runs=runs, crew=crew)
        return time.perf_counter() - began


def page(reference: str, runs: int, found: Sequence[Sequence[float]]) -> str:
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
        f"{runs} fine-tunings of {reference}, from the base on: {len(found)} rounds, in which one "
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


def selections(cluster: Cluster, reference: str, pool: Pool, rounds: int) -> list[list[Selected]]:
    """One worker and two by turns; all make the same soup, by the same decisions."""
    task, models = load_task(reference), len(pool)
    found: list[list[Selected]] = []
    soups = set()
    for _ in range(rounds):
        found.append([])
        for count in WORKERS:
            with Workers(cluster, loader(reference), task, count=count) as crew:
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


def keep(cluster: Cluster, reference: str, pool: Pool, output: Path) -> None:
    """Cook the same soup, for the record of what was tried."""
    task = load_task(reference)
    with Workers(cluster, loader(reference), task, count=max(WORKERS)) as crew:

        def evaluator(store: Store, workspace: Path) -> Evaluator:
            return Evaluator(task, store=store, forward=crew, workspace=workspace)

        recipe = partial(ladle.greedy, map=crew.map)
        cook(pool, recipe, evaluator, output, Kitchen(map=crew.map, overwrite=True))


def models_of(reference: str, count: int, work: Path) -> Pool:
    """A sweep that is made once, with all that this machine has."""
    pool = ladle.open(
        sweep(
            load_task(reference),
            work / f"recipes-{Path(reference).stem}-{count}-seed-0",
            runs=count,
        )
    )
    pool.hash_all()
    return pool


def times(cluster: Cluster, reference: str, pool: Pool) -> Times:
    """What one worker of one thread takes, for `speculation.py`."""
    torch.set_num_threads(1)
    task = load_task(reference)
    model, evaluate = task.build(), Evaluator(task)
    pairs = [uniform_soup(pool.subset([0, i])) for i in range(1, min(5, len(pool)))]
    evaluate(pairs[0])  # It builds the model.
    load, whole, drop = [], [], []
    for soup in pairs[1:]:
        began = time.perf_counter()
        soup.load_into(model)
        load.append(time.perf_counter() - began)
        began = time.perf_counter()
        evaluate(soup)
        whole.append(time.perf_counter() - began)
    with (
        Workers(cluster, loader(reference), task, count=1) as crew,
        ThreadPoolExecutor() as threads,
    ):
        remote = Evaluator(task, forward=crew)
        remote(pairs[0])
        for soup in pairs[1:]:
            own = apart(remote)
            vain = threads.submit(own.evaluate, soup)
            time.sleep(median(whole) / 3)
            began = time.perf_counter()
            own.drop()
            crew.is_exact_for(soup)  # The next question is answered once the worker is free.
            if isinstance(vain.exception(), Dropped):
                drop.append(time.perf_counter() - began)
    # Where none could be dropped before its end, each takes its whole time.
    return Times(median(load), median(whole) - median(load), median(drop or whole))


def selection_page(reference: str, models: int, found: Sequence[Sequence[Selected]]) -> str:
    lines = [
        "",
        "## Greedy selection",
        "",
        f"From {models} models that a sweep of {reference} made, with early exit, after workers "
        "have started: the whole, and what comes after the models alone. Both make the same soup, "
        "by the same decisions.",
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
