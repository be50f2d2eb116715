"""Linear merges: every recipe of the paper is one of these with other weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ladle.checkpoint.numbers import Float64, Floating
from ladle.errors import BadInput
from ladle.merge.kernel import weighted_sum


class Merge(Protocol):
    """How one floating-point tensor of the soup is made from that tensor in each ingredient."""

    @property
    def elementwise(self) -> bool:
        """Whether a slice of the result needs only that slice of the ingredients.

        If not, `readings` are whole tensors, flattened.
        """
        ...

    def __call__(self, name: str, readings: Iterable[Floating]) -> Float64:
        """The merged numbers, in float64. `readings` yields one array per ingredient, in order.

        An array may be reused once the next is asked for.
        """
        ...

    def for_order(self, order: Sequence[int]) -> Merge:
        """The same merge for ingredients given in another order, or for some of them."""
        ...

    def weights_of(self) -> tuple[float, ...]:
        """The share of each ingredient, for people and for skipping those of weight 0."""
        ...

    def record(self) -> dict[str, Any]:
        """The merge as JSON; equal records merge equally."""
        ...


@dataclass(frozen=True)
class Linear:
    """(Σᵢ weights[i]·θᵢ) / divisor: see `weighted_sum` for why the divisor is kept apart."""

    weights: tuple[float, ...]
    divisor: float = 1.0

    elementwise = True

    def __post_init__(self) -> None:
        if not self.divisor or not all(map(math.isfinite, (*self.weights, self.divisor))):
            raise BadInput(f"weights must be finite numbers, not {self.weights} / {self.divisor}")

    def __call__(self, name: str, readings: Iterable[Floating]) -> Float64:
        return weighted_sum(readings, self.weights, divisor=self.divisor)

    def for_order(self, order: Sequence[int]) -> Linear:
        return Linear(tuple(self.weights[i] for i in order), self.divisor)

    def weights_of(self) -> tuple[float, ...]:
        return tuple(weight / self.divisor for weight in self.weights)

    def record(self) -> dict[str, Any]:
        return {"kind": "linear", "weights": list(self.weights), "divisor": self.divisor}


def mean(n: int) -> Linear:
    """The merge of a uniform soup of `n` ingredients (paper, section 2)."""
    return Linear((1.0,) * n, float(n))
