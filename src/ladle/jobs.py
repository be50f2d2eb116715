"""Work that may be done elsewhere: handed to a `map`, whoever does it."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Map(Protocol):
    """The builtin `map`, or anything that gives the same results in the same order.

    Work and items are small and can be pickled: they may go to another machine.
    """

    def __call__(
        self, work: Callable[[Item], Result], items: Iterable[Item], /
    ) -> Iterable[Result]: ...


def one_by_one(work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """The builtin `map`."""
    return builtins.map(work, items)
