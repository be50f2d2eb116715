"""The streamed merge, the heart of ladle: slices of checkpoints in, slices of the soup out.

Nothing else does arithmetic on checkpoints. Memory is bounded by threads x slice size, whatever the
number and size of the checkpoints, and every slice is computed alone, so neither the number of
threads nor the slice size can change a byte.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from ladle.checkpoint import Bytes, Checkpoint, Layout
from ladle.checkpoint.dtypes import AVERAGED, ITEMSIZE
from ladle.checkpoint.numbers import Float64, Floating, all_finite, encode
from ladle.errors import NonFiniteTensor
from ladle.merge.base import Merge
from ladle.merge.slices import SLICE, Scratch, read_bytes, read_numbers, read_packed, slices
from ladle.merge.threads import in_threads
from ladle.merge.turns import Turns
from ladle.merge.unaveraged import Policy, common_value
from ladle.native import Packed


class Sink(Protocol):
    """Where the soup goes: files being written, or a live module."""

    def write(self, name: str, start: int, values: Bytes) -> None:
        """Take the bytes of the elements of `name` from `start` on; called from any thread.

        They last until it returns.
        """
        ...


@dataclass(frozen=True)
class Ingredients:
    """What is merged: checkpoints with one layout, in the order the merge expects."""

    checkpoints: Sequence[Checkpoint]
    names: Sequence[str]

    def subset(self, indices: Sequence[int]) -> Ingredients:
        return Ingredients([self.checkpoints[i] for i in indices], [self.names[i] for i in indices])


def stream(
    ingredients: Ingredients,
    merge: Merge,
    layout: Layout,
    sink: Sink,
    *,
    integers: Policy = "equal",
    hashing: bool = False,
    threads: int | None = None,
    slice_elements: int = SLICE,
    advance: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Compute every tensor of the soup, in the dtypes of `layout`, into `sink`.

    Ties are the sink's business: only names in `layout.tensors` are written. Ingredients that the
    merge does not take are not read. With `hashing` the files are read from front to back, and
    the ingredients' digests cost no second look at them. `advance` is called with the bytes just
    written, from any thread.

    Raises:
        NonFiniteTensor: an ingredient holds NaN or infinity, or the result overflows its dtype.
        LayoutMismatch: integer tensors differ and `integers` is "equal".
    """
    taken = [i for i in range(len(ingredients.checkpoints)) if merge.takes(i)] or [0]
    ingredients, merge = ingredients.subset(taken), merge.for_order(taken)
    for checkpoint in ingredients.checkpoints if hashing else ():
        checkpoint.hash_while_reading()
    # As the first has them, which is how they lie on the disk.
    names = [name for name in ingredients.checkpoints[0].layout.tensors if name in layout.tensors]
    turns = Turns(len(taken)) if hashing else None
    worker = _Worker(ingredients, merge, layout, sink, integers, turns)

    def do(job: _Job, scratch: Scratch) -> None:
        advance(worker.do(job, scratch))

    in_threads(_jobs(names, layout, merge, slice_elements), do, threads)


@dataclass(frozen=True)
class _Job:
    """A slice of a tensor, or all of it; jobs are numbered in the order in which they begin."""

    number: int
    name: str
    start: int
    stop: int


def _jobs(names: Iterable[str], layout: Layout, merge: Merge, elements: int) -> Iterator[_Job]:
    number = itertools.count()
    for name in names:
        spec = layout.tensors[name]
        sliced = spec.dtype not in AVERAGED or merge.elementwise
        for start, stop in slices(spec, elements if sliced else max(1, spec.numel)):
            yield _Job(next(number), name, start, stop)


@dataclass(frozen=True)
class _Worker:
    """Does jobs, in any number of threads."""

    ingredients: Ingredients
    merge: Merge
    layout: Layout
    sink: Sink
    integers: Policy
    turns: Turns | None

    def do(self, job: _Job, scratch: Scratch) -> int:
        """Write one slice; how many bytes it has."""
        dtype = self.layout.tensors[job.name].dtype
        readings = _Readings(self.ingredients.checkpoints, job, scratch, self.turns)
        try:
            if dtype in AVERAGED:
                values = self._average(job, dtype, readings, scratch)
            else:
                names = self.ingredients.names
                values = common_value(job.name, dtype, readings.raw(), names, self.integers)
        finally:
            if self.turns:
                self.turns.leave(job.number)
        self.sink.write(job.name, job.start, values)
        return values.nbytes

    def _average(self, job: _Job, dtype: str, readings: _Readings, scratch: Scratch) -> Bytes:
        total = scratch.total(job.stop - job.start)
        with np.errstate(invalid="ignore", over="ignore"):
            self.merge(job.name, readings, total)
        values = encode(total, dtype, out=scratch.encoded(total.size * ITEMSIZE[dtype]))
        # A NaN or infinity among the inputs is in the result too.
        if not all_finite(values, dtype):
            self._blame(job, total, dtype)
        return values

    def _blame(self, job: _Job, total: Float64, dtype: str) -> NoReturn:
        if np.isfinite(total).all():
            raise NonFiniteTensor(
                f"tensor {job.name!r} of the soup is too large for {dtype}; write it with "
                "--dtype float32"
            )
        for who, one in zip(self.ingredients.names, self.ingredients.checkpoints, strict=True):
            numbers = read_numbers(one, job.name, job.start, job.stop)
            bad = int(np.count_nonzero(~np.isfinite(numbers)))
            if bad:
                raise NonFiniteTensor(
                    f"{who} has NaN or infinity in tensor {job.name!r} ({bad} in elements "
                    f"{job.start} to {job.stop - 1}); leave this checkpoint out"
                )
        raise NonFiniteTensor(f"tensor {job.name!r} of the soup overflows float64")


@dataclass(frozen=True)
class _Readings:
    """See `Readings`; where there are turns, what is read waits for its own."""

    checkpoints: Sequence[Checkpoint]
    job: _Job
    scratch: Scratch
    turns: Turns | None

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __getitem__(self, i: int) -> Floating:
        job = self.job
        with self._turn(i):
            return read_numbers(self.checkpoints[i], job.name, job.start, job.stop, self.scratch)

    def packed(self, i: int) -> Packed:
        job = self.job
        with self._turn(i):
            return read_packed(self.checkpoints[i], job.name, job.start, job.stop, self.scratch)

    def raw(self) -> list[Bytes]:
        """The bytes in all ingredients."""
        job, found = self.job, []
        for i, one in enumerate(self.checkpoints):
            with self._turn(i):
                found.append(read_bytes(one, job.name, job.start, job.stop))
        return found

    def _turn(self, i: int) -> AbstractContextManager[None]:
        return self.turns.turn(i, self.job.number) if self.turns else nullcontext()


def with_dtype(layout: Layout, dtype: str | None) -> Layout:
    """The layout with its averaged tensors in another dtype; None leaves it."""
    if dtype is None:
        return layout
    tensors = {
        name: type(spec)(dtype, spec.shape) if spec.dtype in AVERAGED else spec
        for name, spec in layout.tensors.items()
    }
    return Layout(tensors, layout.ties)
