"""The streamed merge, the heart of ladle: slices of checkpoints in, slices of the soup out.

Nothing else does arithmetic on checkpoints. Memory is bounded by threads x slice size, whatever the
number and size of the checkpoints, and every slice is computed alone, so neither the number of
threads nor the slice size can change a byte.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ladle.checkpoint import Bytes, Checkpoint, Layout
from ladle.checkpoint.dtypes import AVERAGED
from ladle.checkpoint.numbers import Float64, Floating, decode, encode
from ladle.errors import NonFiniteTensor
from ladle.merge.linear import Merge
from ladle.merge.slices import SLICE, read_bytes, read_numbers, slices
from ladle.merge.unaveraged import Policy, common_value


class Sink(Protocol):
    """Where the soup goes: files being written, or a live module."""

    def write(self, name: str, start: int, values: Bytes) -> None:
        """Take the bytes of the elements of `name` from `start` on; called from any thread."""
        ...


@dataclass(frozen=True)
class Ingredients:
    """What is merged: checkpoints with one layout, in the order the merge expects."""

    checkpoints: Sequence[Checkpoint]
    names: Sequence[str]


def stream(
    ingredients: Ingredients,
    merge: Merge,
    layout: Layout,
    sink: Sink,
    *,
    integers: Policy = "equal",
    threads: int | None = None,
    slice_elements: int = SLICE,
    advance: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Compute every tensor of the soup, in the dtypes of `layout`, into `sink`.

    Ties are the sink's business: only names in `layout.tensors` are written. `advance` is called
    with the bytes just written.

    Raises:
        NonFiniteTensor: an ingredient holds NaN or infinity, or the result overflows its dtype.
        LayoutMismatch: integer tensors differ and `integers` is "equal".
    """
    jobs = _jobs(layout, merge, slice_elements)
    worker = _Worker(ingredients, merge, layout, sink, integers)
    threads = threads or min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as executor:
        under_way: deque[Future[int]] = deque()
        try:
            for job in jobs:
                # Not `executor.map`: it would queue every slice of a 70B model at once.
                if len(under_way) >= 4 * threads:
                    advance(under_way.popleft().result())
                under_way.append(executor.submit(worker, *job))
            while under_way:
                advance(under_way.popleft().result())
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _jobs(layout: Layout, merge: Merge, slice_elements: int) -> Iterator[tuple[str, int, int]]:
    for name, spec in layout.tensors.items():
        sliced = spec.dtype not in AVERAGED or merge.elementwise
        for start, stop in slices(spec, slice_elements if sliced else max(1, spec.numel)):
            yield name, start, stop


@dataclass(frozen=True)
class _Worker:
    ingredients: Ingredients
    merge: Merge
    layout: Layout
    sink: Sink
    integers: Policy

    def __call__(self, name: str, start: int, stop: int) -> int:
        dtype = self.layout.tensors[name].dtype
        if dtype in AVERAGED:
            values = self._average(name, dtype, start, stop)
        else:
            raw = [read_bytes(one, name, start, stop) for one in self.ingredients.checkpoints]
            values = common_value(name, dtype, raw, self.ingredients.names, self.integers)
        self.sink.write(name, start, values)
        return values.nbytes

    def _average(self, name: str, dtype: str, start: int, stop: int) -> Bytes:
        # A NaN or infinity among the inputs is in the total too, so one look at that is enough.
        with np.errstate(invalid="ignore", over="ignore"):
            total = self.merge(name, self._readings(name, start, stop))
        if not _all_finite(total):
            self._blame(name, start, stop)
        values = encode(total, dtype)
        if dtype != "float64" and not _all_finite(decode(values, dtype)):
            raise NonFiniteTensor(
                f"tensor {name!r} of the soup is too large for {dtype}; write it with "
                "--dtype float32"
            )
        return values

    def _readings(self, name: str, start: int, stop: int) -> Iterator[Floating]:
        for checkpoint in self.ingredients.checkpoints:
            yield read_numbers(checkpoint, name, start, stop)

    def _blame(self, name: str, start: int, stop: int) -> None:
        readings = self._readings(name, start, stop)
        for who, numbers in zip(self.ingredients.names, readings, strict=True):
            if not _all_finite(numbers):
                bad = int(np.count_nonzero(~np.isfinite(numbers)))
                raise NonFiniteTensor(
                    f"{who} has NaN or infinity in tensor {name!r} ({bad} in elements {start} to "
                    f"{stop - 1}); leave this checkpoint out"
                )
        raise NonFiniteTensor(f"tensor {name!r} of the soup overflows float64")


def _all_finite(numbers: Floating | Float64) -> bool:
    return bool(np.isfinite(numbers).all())


def with_dtype(layout: Layout, dtype: str | None) -> Layout:
    """The layout with its averaged tensors in another dtype; None leaves it."""
    if dtype is None:
        return layout
    tensors = {
        name: type(spec)(dtype, spec.shape) if spec.dtype in AVERAGED else spec
        for name, spec in layout.tensors.items()
    }
    return Layout(tensors, layout.ties)


def without_weightless(ingredients: Ingredients, merge: Merge) -> tuple[Ingredients, Merge]:
    """Leave out ingredients of weight 0, so that they are not even read."""
    kept = [i for i, weight in enumerate(merge.weights_of()) if weight != 0]
    if len(kept) == len(ingredients.checkpoints) or not kept:
        return ingredients, merge
    chosen = Ingredients(
        [ingredients.checkpoints[i] for i in kept], [ingredients.names[i] for i in kept]
    )
    return chosen, merge.for_order(kept)
