"""What a merge is: how one tensor of the soup is made from that tensor in each ingredient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ladle.checkpoint.numbers import Float64, Floating
from ladle.native import Packed


class Readings(Protocol):
    """The numbers of a tensor, or of a slice of it, in each ingredient, flattened."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Floating:
        """Those of ingredient `i`, which are read now; the next call may reuse their memory."""
        ...

    def packed(self, i: int) -> Packed:
        """The same, in a form that `weighted_sum` takes; for a 16-bit dtype it may be quicker."""
        ...


class Merge(ABC):
    """How one floating-point tensor of the soup is made from that tensor in each ingredient."""

    @property
    def elementwise(self) -> bool:
        """Whether a slice of the result needs only that slice of the ingredients.

        If not (norms, ranks, signs), it is called with whole tensors.
        """
        return True

    @abstractmethod
    def __call__(self, name: str, readings: Readings, out: Float64) -> None:
        """Fill `out` with the merged numbers.

        The ingredients that are wanted are to be read in ascending order, which is that of the
        disk.
        """

    @abstractmethod
    def for_order(self, order: Sequence[int]) -> Merge:
        """The same merge for ingredients given in another order, or for some of them."""

    def renamed(self, names: Mapping[str, str]) -> Merge:
        """The same merge where tensors have other names; `names` maps the old to the new."""
        return self

    @abstractmethod
    def weights_of(self) -> tuple[float | None, ...]:
        """The share of each ingredient, for people; None where it differs from tensor to tensor."""

    def takes(self, i: int) -> bool:
        """Whether the result depends on ingredient `i`, which is not read if it does not."""
        return True

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """The merge as JSON; equal records merge equally."""
