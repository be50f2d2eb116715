"""Inner products of checkpoints with one more set of numbers, and whether checkpoints differ.

What the gradient of a soup's coefficients takes: d L/d αᵢ = ⟨d L/d θ, θᵢ⟩ where θ = Σᵢ αᵢθᵢ, tensor
by tensor. The ingredients stay on the disk: memory is bounded by threads x slice size, as in
`stream`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ladle.checkpoint import Checkpoint
from ladle.checkpoint.numbers import Float32, Float64
from ladle.merge.kernel import inner_product
from ladle.merge.slices import Scratch, read_bytes, read_numbers, read_packed, slices
from ladle.merge.threads import in_threads


def inner_products(
    checkpoints: Sequence[Checkpoint], slopes: Mapping[str, Float32], *, threads: int | None = None
) -> dict[str, Float64]:
    """Per tensor of `slopes`, its inner product with that tensor in each checkpoint, (k,).

    `slopes` has a number for every element of a tensor, flat and in row-major order. Everything is
    summed in float64, in an order that does not depend on the number of threads.
    """
    jobs = [
        _Job(name, start, stop, np.zeros(len(checkpoints)))
        for name in slopes
        for start, stop in slices(checkpoints[0].layout.tensors[name])
    ]

    def do(job: _Job, scratch: Scratch) -> None:
        slope = slopes[job.name][job.start : job.stop]
        for i, checkpoint in enumerate(checkpoints):
            numbers = read_packed(checkpoint, job.name, job.start, job.stop, scratch)
            job.products[i] = inner_product(numbers, slope)

    in_threads(iter(jobs), do, threads)
    found = {name: np.zeros(len(checkpoints)) for name in slopes}
    for job in jobs:
        found[job.name] += job.products
    return found


def differing(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> list[str]:
    """Those of the tensors whose numbers are not the same in all checkpoints.

    A tensor that differs is read up to its first difference, one that does not in full.
    """
    different: set[str] = set()

    def do(name: str, scratch: Scratch) -> None:
        if _differs(checkpoints, name):
            different.add(name)

    in_threads(iter(names), do)
    return [name for name in names if name in different]


@dataclass(frozen=True, eq=False)
class _Job:
    """A slice, and where its products go, (k,): added up in order, whichever thread made them."""

    name: str
    start: int
    stop: int
    products: Float64


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
