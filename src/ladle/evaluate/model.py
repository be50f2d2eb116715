"""Where a soup goes through the model: in this process, or wherever else there is one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ladle.checkpoint.dtypes import AVERAGED, ITEMSIZE
from ladle.errors import BadInput, BadTask, LadleError
from ladle.evaluate.arithmetic import Arithmetic
from ladle.evaluate.course import Tally
from ladle.evaluate.relatives import Relatives
from ladle.evaluate.statistics import estimated
from ladle.foreign import running
from ladle.predictions import Array, ExampleNumbers
from ladle.soup import Pool, Soup
from ladle.tasks import Advance, PredictsSome, Split, Task, Trainable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Progress = AbstractContextManager[Advance]
"""Of one evaluation: entered when it begins."""


class Dropped(LadleError):
    """An evaluation was ended because nobody needs it any more."""


@dataclass(frozen=True)
class Bar:
    """What a soup has to reach, or to exceed where `strict`."""

    score: float
    strict: bool


class Forward(Protocol):
    """What an evaluator lets soups go through. Any number of threads may ask at a time.

    `is_dropped` says whether the answer is still wanted; once it is not, `Dropped` may be raised.
    """

    def predict(
        self, soup: Soup, split: str, *, progress: Progress, is_dropped: Callable[[], bool]
    ) -> Array:
        """Logits (N, C) of all examples of a split, in its order and its classes."""
        ...

    def along(
        self,
        soup: Soup,
        split: str,
        batches: Sequence[ExampleNumbers],
        bar: Bar | None,
        *,
        progress: Progress,
        is_dropped: Callable[[], bool],
    ) -> Array:
        """Logits (M, C) of so many of the first examples as settle whether it reaches the bar.

        Of all of them without one. They are in the order of the batches.
        """
        ...

    def statistics(self, soup: Soup, names: Collection[str], *, seed: int) -> dict[str, Tensor]:
        """BatchNorm statistics of these names, estimated on training data: float32, on the CPU."""
        ...

    def sharing(self, pool: Pool) -> None:
        """Prepare for many soups of a pool: what its ingredients share is loaded only once."""
        ...

    def is_exact_for(self, soup: Soup) -> bool:
        """Whether the model has the soup's weights as a file would, and does not round them anew.

        False where that is not known, for no model was needed yet.
        """
        ...


class HereForward:
    """A `Forward` with one model in this process, built when first needed and refilled in place."""

    def __init__(self, task: Task, *, device: str, batch_size: int, arithmetic: Arithmetic) -> None:
        self._task = task
        self._device = device
        self._batch_size = batch_size
        self._arithmetic = arithmetic
        self._live: tuple[nn.Module, torch.device] | None = None
        self._loaded: Soup | None = None
        self._relatives: Relatives | None = None
        self._lock = threading.Lock()
        # Statistics are estimated in a model of its own, also while a soup is loaded that has them.
        self._estimating: tuple[nn.Module, torch.device] | None = None
        self._estimating_lock = threading.Lock()

    def predict(
        self, soup: Soup, split: str, *, progress: Progress, is_dropped: Callable[[], bool]
    ) -> Array:
        task, examples = self._task, self._task.splits[split]
        with self._running(soup, examples, progress, is_dropped) as (model, device, advance):
            said = task.predict(
                model, split, device=device, batch_size=self._batch_size, advance=advance
            )
            logits = np.asarray(said, np.float32)
        return self._projected(logits, examples, len(examples))

    def along(
        self,
        soup: Soup,
        split: str,
        batches: Sequence[ExampleNumbers],
        bar: Bar | None,
        *,
        progress: Progress,
        is_dropped: Callable[[], bool],
        first: int | None = None,
    ) -> Array:
        """See `Forward`; with `first`, of so many batches alone, as of all of them together."""
        task, examples = self._task, self._task.splits[split]
        if not isinstance(task, PredictsSome):
            raise TypeError(f"task {task.name!r} cannot predict some examples alone")
        tally = Tally(split, examples.labels, task.metric) if bar else None
        seen: list[Array] = []
        with self._running(soup, examples, progress, is_dropped) as (model, device, advance):
            said = task.predict_some(model, split, batches, device=device)
            with closing(said):
                for batch, rows in zip(batches[:first], said, strict=first is None):
                    logits = np.asarray(rows, np.float32)
                    seen.append(self._projected(logits, examples, len(batch)))
                    advance(len(batch))
                    if bar is None or tally is None:
                        continue
                    tally.add(batch, seen[-1])
                    if not tally.can_reach(bar.score, strict=bar.strict):
                        break
        return np.concatenate(seen)

    def sharing(self, pool: Pool) -> None:
        self._relatives = Relatives.of(pool)

    def statistics(self, soup: Soup, names: Collection[str], *, seed: int) -> dict[str, Tensor]:
        task = self._task
        if not isinstance(task, Trainable):
            raise TypeError(f"task {task.name!r} has no training data")
        with self._estimating_lock:
            if self._estimating is None:
                device = find_device(self._device)
                self._estimating = task.build().to(device).eval(), device
            model, device = self._estimating
            soup.load_into(model)
            with running(f"estimating BatchNorm statistics for task {task.name!r}"):
                found = estimated(task, model, batch_size=self._batch_size, seed=seed)
        called = {own: name for name, own in soup.names_in(model).items()}
        return {called[name]: tensor for name, tensor in found.items() if called[name] in names}

    def build(self) -> tuple[nn.Module, torch.device]:
        """The model and its device, with whatever weights it has."""
        if self._live is None:
            device = find_device(self._device)
            with running(f"building the model of task {self._task.name!r}"):
                model = self._arithmetic.laid_out(self._task.build().to(device).eval())
                self._live = (model, device)
        return self._live

    def is_exact_for(self, soup: Soup) -> bool:
        if self._live is None:
            return False
        kinds = {spec.dtype for spec in soup.layout.tensors.values()}
        widest = max((ITEMSIZE[kind] for kind in kinds.intersection(AVERAGED)), default=0)
        held = self._live[0].state_dict().values()
        return all(one.element_size() >= widest for one in held if one.is_floating_point())

    @contextmanager
    def _running(
        self, soup: Soup, split: Split, progress: Progress, is_dropped: Callable[[], bool]
    ) -> Iterator[tuple[nn.Module, torch.device, Advance]]:
        """The model with the weights of a soup, its device, and progress; for the task's code."""
        import torch

        with self._lock:  # there is one model
            if is_dropped():
                raise Dropped("nobody waits for this evaluation")
            model, device = self.build()
            self._load(soup, model)
            with (
                progress as advance,
                running(f"task {self._task.name!r} on {split.name}"),
                torch.inference_mode(),
                self._arithmetic.computing(model, device),
            ):

                def advance_if_wanted(examples: int) -> None:
                    advance(examples)
                    if is_dropped():
                        raise Dropped("nobody waits for this evaluation")

                yield model, device, advance_if_wanted

    def _load(self, soup: Soup, model: nn.Module) -> None:
        before, self._loaded = self._loaded, None
        if before is None or before.digest != soup.digest:
            family = self._relatives
            akin = family is not None and before is not None and family.include(before, soup)
            soup.load_into(model, only=family.differing if family and akin else None)
        self._loaded = soup

    def _projected(self, logits: Array, split: Split, examples: int) -> Array:
        """Logits of some examples of a split, in its classes."""
        if logits.ndim != 2 or len(logits) != examples:
            raise BadTask(
                f"task {self._task.name!r} gave logits of shape {list(logits.shape)} for the "
                f"{examples} examples of {split.name!r}; one row per example is needed"
            )
        if split.classes is None:
            return logits
        # Here, so that ensembles average what is projected, as the paper's code does, and the
        # store keeps no column that nothing looks at.
        if logits.shape[1] < split.classes.width:
            raise BadTask(
                f"task {self._task.name!r} gave logits of {logits.shape[1]} columns, and the "
                f"classes of {split.name!r} are made of {split.classes.width}; give the model all"
            )
        return split.classes.project(logits)


def find_device(name: str) -> torch.device:
    """The device of this name; `auto` takes an accelerator if there is one.

    Raises:
        BadInput: this machine has no such device.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, found in there.items() if found), "cpu"))
    if not there.get(name, True):
        raise BadInput(f"--device {name}: PyTorch finds none here; use --device cpu")
    return torch.device(name)
