"""Linear merges: every recipe of the paper is one of these with other weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ladle.checkpoint.numbers import Float64
from ladle.errors import BadInput
from ladle.merge.base import Merge, Readings
from ladle.merge.kernel import weighted_sum


@dataclass(frozen=True)
class Linear(Merge):
    """(Σᵢ weights[i]·θᵢ) / divisor: see `weighted_sum` for why the divisor is kept apart.

    `by_tensor` has the weights of the tensors that have their own.
    """

    weights: tuple[float, ...]
    divisor: float = 1.0
    by_tensor: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.divisor or not math.isfinite(self.divisor):
            raise BadInput(f"the divisor of weights must be a finite number, not {self.divisor}")
        for name, weights in (("all tensors", self.weights), *self.by_tensor.items()):
            if not all(map(math.isfinite, weights)):
                raise BadInput(f"weights must be finite numbers, not {weights} for {name}")
            if len(weights) != len(self.weights):
                raise BadInput(
                    f"{len(weights)} weights for {name} do not go with the {len(self.weights)} of "
                    "the others; give one for each checkpoint"
                )

    def __call__(self, name: str, readings: Readings, out: Float64) -> None:
        weights = self.by_tensor.get(name, self.weights)
        used = [i for i, weight in enumerate(weights) if weight]
        if not used:
            out.fill(0.0)
            return
        chosen = (readings.packed(i) for i in used)
        weighted_sum(chosen, [weights[i] for i in used], divisor=self.divisor, out=out)

    def for_order(self, order: Sequence[int]) -> Linear:
        def in_order(weights: Sequence[float]) -> tuple[float, ...]:
            return tuple(weights[i] for i in order)

        by_tensor = {name: in_order(weights) for name, weights in self.by_tensor.items()}
        return Linear(in_order(self.weights), self.divisor, by_tensor)

    def renamed(self, names: Mapping[str, str]) -> Linear:
        by_tensor = {names.get(name, name): row for name, row in self.by_tensor.items()}
        return replace(self, by_tensor=by_tensor)

    def weights_of(self) -> tuple[float, ...]:
        return tuple(weight / self.divisor for weight in self.weights)

    def takes(self, i: int) -> bool:
        return any(weights[i] for weights in (self.weights, *self.by_tensor.values()))

    def record(self) -> dict[str, Any]:
        record = {"kind": "linear", "weights": list(self.weights), "divisor": self.divisor}
        rows = {name: list(self.by_tensor[name]) for name in sorted(self.by_tensor)}
        return record | ({"by_tensor": rows} if rows else {})


def mean(n: int) -> Linear:
    """The merge of a uniform soup of `n` ingredients (paper, section 2)."""
    return Linear((1.0,) * n, float(n))
