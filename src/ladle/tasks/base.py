"""What a soup is judged on, and what a sweep trains on.

A task knows how to build the model, how to feed it, and how to score what it says. `Task` is all
that evaluation needs; `Trainable` adds what a sweep needs, `Differentiable` what a recipe needs
that learns on held-out examples. Anything with these members will do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ladle.predictions import Array, ClassSubset, ExampleNumbers, Labels, Metric

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Role = Literal["train", "held-out", "test", "shift"]


@dataclass(frozen=True)
class Drawn:
    """How a held-out split was cut out of the training split.

    `rule` is what was asked for, as in a TOML file; `names` are the examples that it took, sorted.
    """

    rule: Mapping[str, object]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """One named set of labelled examples, and what it may be used for.

    `held-out` is the only role that recipes look at; `test` and `shift` are measured after every
    decision is made. `labels` is (N,) int64, or float64 for
    regression. `digest` changes when any example or label does.

    `classes` says how the split's classes are made of the model's, where they are not the same:
    what a model says is projected before anything else looks at it, and labels count the classes.
    """

    name: str
    role: Role
    labels: Labels
    digest: str
    contents: npt.NDArray[np.uint64] | None = None
    """(N,) a hash of what each example shows, without its label; None where that is not known."""
    classes: ClassSubset | None = None
    drawn: Drawn | None = None

    @property
    def key(self) -> str:
        """What predictions are stored under: the digest, and the classes they are projected to."""
        return self.digest if self.classes is None else f"{self.digest}/{self.classes.digest}"

    def describe(self) -> dict[str, object]:
        """For the record."""
        found: dict[str, object] = {"role": self.role, "n": len(self), "digest": self.digest}
        if self.classes is not None:
            found["classes"] = len(self.classes)
        if self.drawn is not None:
            found["drawn"] = dict(self.drawn.rule)
        return found

    def __len__(self) -> int:
        return len(self.labels)


Advance = Callable[[int], None]
"""Called with the number of examples just finished."""


def no_progress(finished: int) -> None:
    """An `Advance` that says nothing."""


@runtime_checkable
class Task(Protocol):
    """What evaluation needs of a task."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def splits(self) -> Mapping[str, Split]:
        """The splits by name; exactly one has the role `held-out`, at most one `test`."""
        ...

    @property
    def digest(self) -> str:
        """Changes whenever the same weights could give other logits: model, preprocessing."""
        ...

    def build(self) -> nn.Module:
        """A model with the architecture of the ingredients, in eval mode, on the CPU."""
        ...

    def predict(
        self,
        model: nn.Module,
        split: str,
        *,
        device: torch.device,
        batch_size: int,
        advance: Advance = no_progress,
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits (N, C) of `model`, already on `device`, for every example of `split` in order.

        All columns that the model has, also where the split has `classes` of its own.
        """
        ...


@runtime_checkable
class PredictsSome(Protocol):
    """What a task may offer beyond `Task`: some examples at a time, in an order that is asked for.

    Recipes then drop a candidate as soon as the examples seen so far settle that it is no better.
    """

    def arranged(
        self, split: str, order: ExampleNumbers, *, batch_size: int
    ) -> Sequence[ExampleNumbers]:
        """All of `order` in batches: near to the order given, and cheap to compute together."""
        ...

    def predict_some(
        self,
        model: nn.Module,
        split: str,
        batches: Sequence[ExampleNumbers],
        *,
        device: torch.device,
    ) -> Generator[Array, None, None]:
        """Logits (B, C) of one batch after the other, each computed when it is asked for.

        A batch goes through the model as it is, alone: what is said of an example may depend, in
        the last bits, on the batch that it is in and on which examples are in `batches`, and on
        nothing else. Who asks may stop anywhere.
        """
        ...


@runtime_checkable
class PredictsInBatches(PredictsSome, Protocol):
    """What a task may offer beyond `PredictsSome`: a split that several models can share.

    A large one is then cut in pieces, where there are workers with nothing else to do.
    """

    def in_batches(self, split: str, *, batch_size: int) -> Sequence[ExampleNumbers]:
        """The batches in which `predict` takes all examples of a split, so that `predict_some`
        says of them, to the last bit, what `predict` does."""
        ...


@runtime_checkable
class Differentiable(Task, Protocol):
    """What slopes of a loss on any split need beyond evaluation."""

    def labelled(
        self, model: nn.Module, split: str, batches: Sequence[ExampleNumbers]
    ) -> Iterator[tuple[Any, Tensor]]:
        """(inputs, labels) of these examples of a split, batch by batch, on the CPU.

        `batches` has the numbers of the examples, counted from 0. They are seen as `predict` sees
        them, without augmentation, by this `model`.
        """
        ...

    def logits(self, model: nn.Module, inputs: Any) -> Tensor:
        """Logits (B, C) for inputs from `labelled`, moved to the model's device; differentiable.

        They are those of `predict`, as far as rounding goes.
        """
        ...


@runtime_checkable
class Trainable(Task, Protocol):
    """What a sweep needs beyond evaluation."""

    @property
    def head(self) -> str:
        """Module path of the final linear layer, which the linear probe trains first."""
        ...

    def build(self, *, dropout: float | None = None) -> nn.Module:
        """The pre-trained model; its head starts at zero. `dropout` None keeps the model's own."""
        ...

    def trainable(self, parameter: str) -> bool:
        """Whether a fine-tuning may change the parameter of this name."""
        ...

    def batches(
        self, *, batch_size: int, augmentation: float | str, generator: torch.Generator
    ) -> Iterator[tuple[Any, Tensor]]:
        """One epoch of the training split in random order, as (inputs, labels) on the CPU.

        `augmentation` goes from 0 (none) to 1 (the strongest this task offers). A task that is
        `Augmenting` may know some by name too; others are never given a string.
        """
        ...

    def logits(self, model: nn.Module, inputs: Any) -> Tensor:
        """Logits (B, C) for inputs from `batches`, moved to the model's device; differentiable.

        Leaves the model in the mode (train or eval) it is in, but never updates BatchNorm
        statistics or drops out activations of parts that are not trainable.
        """
        ...

    def save(self, model: nn.Module, folder: Any) -> None:
        """Write the model to an existing empty folder, in the format its own library loads."""
        ...


@runtime_checkable
class Augmenting(Protocol):
    """What a task may offer beyond `Trainable`: to judge augmentations before a sweep begins."""

    def check_augmentation(self, augmentation: float | str) -> None:
        """Nothing, at little cost, for an augmentation that `batches` takes.

        Raises:
            BadInput: it takes no such augmentation, with what to write instead.
        """
        ...


@runtime_checkable
class Mixable(Protocol):
    """What a task may offer beyond `Trainable`: examples that can be mixed, as images can.

    It promises that inputs from `batches` are one floating-point tensor (B, 3, H, W), and labels
    whole numbers (B,).
    """

    @property
    def class_count(self) -> int:
        """The number of classes that logits and labels are of."""
        ...


Lender = Callable[[str, int], Array]
"""Gives a part of this name and so many pieces; it may be read-only memory."""


@runtime_checkable
class Precomputing(Protocol):
    """What a task may offer beyond `Task`: what it computes once, for all models that share it.

    Where many processes train or evaluate, each piece is computed by one of them; the part that
    pieces make together is lent to all.
    """

    def parts(self) -> Mapping[str, int]:
        """What a sweep will need, by name, and in how many pieces; any process gives the same."""
        ...

    def piece(self, name: str, number: int) -> Array:
        """One piece of a part, numbered from 0."""
        ...

    def joined(self, name: str, pieces: Sequence[Array]) -> Array:
        """A part of all its pieces, in order."""
        ...

    def lend(self, lender: Lender) -> None:
        """From now on, ask `lender` for a part when it is first needed, and do not compute it here.

        An error that it raises has to go through to whoever called the task; the part is then asked
        for again.
        """
        ...
