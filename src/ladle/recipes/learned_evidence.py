"""What a recipe that learns asks of an evaluation: losses on held-out examples, and slopes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from ladle.checkpoint.numbers import Float32
from ladle.errors import BadInput
from ladle.predictions import ExampleNumbers, Labels
from ladle.soup import Evaluate, Policy, Pool, Soup


class Slope(Protocol):
    """A loss, and how it changes with the weights of a soup and with a factor on its logits."""

    @property
    def loss(self) -> float: ...

    @property
    def factor(self) -> float: ...

    @property
    def weights(self) -> Mapping[str, Float32]:
        """Flat, in row-major order; tensors that the loss does not depend on are left out."""
        ...


class Gradients(Protocol):
    """Losses of soups of one pool on held-out examples: see `ladle.evaluate.gradients`.

    Soups of the pool may be ingredients, too.
    """

    @property
    def split(self) -> str:
        """The name of the held-out split."""
        ...

    @property
    def labels(self) -> Labels:
        """(N,) of all held-out examples: integers for classes, floats for regression."""
        ...

    @property
    def identity(self) -> str:
        """What losses follow from beside the soup."""
        ...

    @property
    def workspace(self) -> Path | None:
        """A folder for what an interrupted recipe had done; it may not be there yet."""
        ...

    @property
    def differing(self) -> Sequence[str]:
        """The tensors that differ between the ingredients, which is all that is ever merged."""
        ...

    @property
    def tensors(self) -> Mapping[str, str]:
        """The tensors that differ and have slopes, each with the one whose slope is its own too.

        That is itself, but for tensors that the model ties.
        """
        ...

    def batches(self, steps: Sequence[ExampleNumbers]) -> Generator[Any, None, None]:
        """What to call this with, for the examples of each step."""
        ...

    def __call__(self, soup: Soup, batch: Any, factor: float) -> Slope:
        """The mean loss on a batch of a soup whose logits are multiplied by `factor`."""
        ...

    def best_factor(self, soup: Soup, examples: ExampleNumbers) -> float:
        """The factor on a soup's logits that gives the lowest loss; 1 for regression."""
        ...

    def taste(self, soup: Soup, examples: ExampleNumbers, factor: float) -> tuple[float, float]:
        """The mean loss of a soup on these examples, and its score, which is higher-is-better."""
        ...


def gradients_of(evaluate: Evaluate, pool: Pool, integers: Policy) -> Gradients:
    """The gradients that an evaluation has for soups of a pool.

    Raises:
        BadInput: it has none.
    """
    make = getattr(evaluate, "gradients", None)
    if make is None:
        raise BadInput(
            "--recipe learned needs gradients, and a score has none; give a --task, or choose "
            "another --recipe"
        )
    return cast(Gradients, make(pool, integers=integers))
