"""Sums of checkpoints that come one by one and are not kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ladle.checkpoint import Checkpoint
from ladle.checkpoint.dtypes import AVERAGED
from ladle.checkpoint.numbers import Float64, all_finite
from ladle.errors import NonFiniteTensor
from ladle.merge.base import Merge, Readings
from ladle.merge.kernel import Sum
from ladle.merge.slices import Scratch, read_bytes, read_packed, slices
from ladle.merge.threads import in_threads

_Slice = tuple[str, int, int]


@dataclass
class RunningSums:
    """Σᵢ wᵢ·θᵢ of the floating tensors of checkpoints, flat and in float64, by name.

    `lost` has what the additions of float64 numbers took from them: see `Sum`.
    """

    totals: dict[str, Float64] = field(default_factory=dict)
    lost: dict[str, Float64] = field(default_factory=dict)

    def add(self, checkpoint: Checkpoint, who: str, weight: float) -> None:
        """Add weight·θ; where that raises, the sums are as before.

        Raises:
            NonFiniteTensor: it holds NaN or infinity; `who` is its name for people.
        """
        tensors = checkpoint.layout.tensors

        def look(place: _Slice, scratch: Scratch) -> None:
            name, start, stop = place
            if not all_finite(read_bytes(checkpoint, *place, scratch), tensors[name].dtype):
                raise NonFiniteTensor(
                    f"{who} has NaN or infinity in tensor {name!r} (in elements {start} to "
                    f"{stop - 1}); leave it out"
                )

        in_threads(_slices(checkpoint), look)
        starting = not self.totals
        for name, spec in tensors.items():
            if spec.dtype in AVERAGED and starting:
                self.totals[name] = np.empty(spec.numel)
            if spec.dtype == "float64" and not starting and name not in self.lost:
                self.lost[name] = np.zeros(spec.numel)

        def add(place: _Slice, scratch: Scratch) -> None:
            name, start, stop = place
            lost = self.lost[name][start:stop] if name in self.lost else None
            into = Sum(self.totals[name][start:stop], lost, started=not starting)
            with np.errstate(invalid="ignore", over="ignore"):  # The stream says so in our words.
                into.add(read_packed(checkpoint, *place, scratch), weight)

        in_threads(_slices(checkpoint), add)


def _slices(checkpoint: Checkpoint) -> Iterator[_Slice]:
    for name, spec in checkpoint.layout.tensors.items():
        if spec.dtype in AVERAGED:
            yield from ((name, *place) for place in slices(spec))


@dataclass(frozen=True)
class Quotient(Merge):
    """Sums that are complete, divided once.

    It takes two checkpoints in float64: the sums, and what they lost of the tensors in `lost`.
    """

    divisor: float
    lost: frozenset[str] = frozenset()

    def __call__(self, name: str, readings: Readings, out: Float64) -> None:
        np.copyto(out, readings[0])
        lost = np.asarray(readings[1], np.float64) if name in self.lost else None
        Sum(out, lost).divide(self.divisor)

    def for_order(self, order: Sequence[int]) -> Quotient:
        return self

    def renamed(self, names: Mapping[str, str]) -> Quotient:
        return Quotient(self.divisor, frozenset(names.get(name, name) for name in self.lost))

    def weights_of(self) -> tuple[float, ...]:
        return (1 / self.divisor, 1 / self.divisor)

    def record(self) -> dict[str, Any]:
        return {"kind": "quotient", "divisor": self.divisor, "lost": sorted(self.lost)}
