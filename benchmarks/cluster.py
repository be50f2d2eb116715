"""What more workers save: a sweep on a Ray cluster with two workers beside the same with one.

    python benchmarks/cluster.py [--rounds 3] [--runs 8] [--output PAGE]

Needs `ladle[demo,ray]` and two cores. The cluster is this machine; each worker has one core and one
thread. One worker and two take turns, so that what else the machine does meets both; what counts
are the ratios of one round.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from ladle.cluster import Cluster, connected
from ladle.sweep import sweep
from ladle.tasks import load_task
from ladle.tasks.load import loader

HERE = Path(__file__).resolve().parent
TASK = "demo-text"
WORKERS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--output", type=Path, default=HERE / "cluster.md")
    given = parser.parse_args()
    with connected("auto") as cluster:
        cluster.room(cpus=max(WORKERS), gpus=0)
        found = [
            [seconds(cluster, given.runs, workers) for workers in WORKERS]
            for _ in range(given.rounds)
        ]
    text = page(given.runs, found)
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


if __name__ == "__main__":
    main()
