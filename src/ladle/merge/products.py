"""Inner products of checkpoints with one more set of numbers, and whether checkpoints differ.

What the gradient of a soup's coefficients takes: d L/d αᵢ = ⟨d L/d θ, θᵢ⟩ where θ = Σᵢ αᵢθᵢ, tensor
by tensor. The ingredients stay on the disk: memory is bounded by threads x slice size, as in
`stream`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ladle.checkpoint import Checkpoint
from ladle.checkpoint.location import keeping_open
from ladle.checkpoint.numbers import Float32, Float64
from ladle.merge.kernel import inner_product
from ladle.merge.slices import Scratch, read_bytes, read_numbers, read_packed, slices

_MOST_THREADS = 8


def inner_products(
    checkpoints: Sequence[Checkpoint], slopes: Mapping[str, Float32], *, threads: int | None = None
) -> dict[str, Float64]:
    """Per tensor of `slopes`, its inner product with that tensor in each checkpoint, (k,).

    `slopes` has a number for every element of a tensor, flat and in row-major order. Everything is
    summed in float64, in an order that does not depend on the number of threads.
    """
    found: dict[str, list[Float64]] = {name: [] for name in slopes}
    jobs = [
        _Job(name, start, stop)
        for name in slopes
        for start, stop in slices(checkpoints[0].layout.tensors[name])
    ]
    for job, products in zip(jobs, _in_threads(checkpoints, slopes, jobs, threads), strict=True):
        found[job.name].append(products)
    none = np.zeros(len(checkpoints))
    return {name: sum(parts, start=none) for name, parts in found.items()}


def differing(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> list[str]:
    """Those of the tensors whose numbers are not the same in all checkpoints.

    A tensor that differs is read up to its first difference, one that does not in full.
    """
    with ThreadPoolExecutor(_threads(None)) as executor:
        answers = executor.map(lambda name: _differs(checkpoints, name), names)
        return [name for name, differs in zip(names, answers, strict=True) if differs]


@dataclass(frozen=True)
class _Job:
    name: str
    start: int
    stop: int


def _in_threads(
    checkpoints: Sequence[Checkpoint],
    slopes: Mapping[str, Float32],
    jobs: Sequence[_Job],
    threads: int | None,
) -> list[Float64]:
    """The products of every slice, whichever thread computes them."""
    found = [np.zeros(len(checkpoints)) for _ in jobs]
    # An iterator of a list is handed on under the interpreter's lock.
    waiting: Iterator[int] = iter(range(len(jobs)))

    def work_off() -> None:
        scratch = Scratch()
        with keeping_open():
            for number in waiting:
                job = jobs[number]
                slope = slopes[job.name][job.start : job.stop]
                for i, checkpoint in enumerate(checkpoints):
                    numbers = read_packed(checkpoint, job.name, job.start, job.stop, scratch)
                    found[number][i] = inner_product(numbers, slope)

    count = _threads(threads)
    with ThreadPoolExecutor(count) as executor:
        for one in [executor.submit(work_off) for _ in range(count)]:
            one.result()
    return found


def _differs(checkpoints: Sequence[Checkpoint], name: str) -> bool:
    first, *others = checkpoints
    spec = first.layout.tensors[name]
    kinds = {one.layout.tensors[name].dtype for one in checkpoints}
    # Of one dtype the bytes will do, also for dtypes that nothing else can be done with.
    read = read_bytes if len(kinds) == 1 else read_numbers
    for start, stop in slices(spec):
        here = read(first, name, start, stop)
        if any(not np.array_equal(here, read(one, name, start, stop)) for one in others):
            return True
    return False


def _threads(wanted: int | None) -> int:
    return wanted or min(_MOST_THREADS, os.cpu_count() or 1)
