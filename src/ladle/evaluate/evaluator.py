"""The built-in evaluator: where a soup meets data."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ladle.checkpoint.dtypes import AVERAGED, ITEMSIZE
from ladle.errors import BadInput, BadTask
from ladle.evaluate.arithmetic import Arithmetic
from ladle.evaluate.store import Store
from ladle.foreign import running
from ladle.predictions import Array, Predictions
from ladle.soup import Policy, Pool, Soup
from ladle.tasks import Advance, Split, Task, no_progress

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ladle.evaluate.gradients import HeldOutGradients

Watch = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a progress display for a text and an amount of work."""


def unwatched(text: str, amount: int) -> AbstractContextManager[Advance]:
    """A `Watch` that shows nothing."""
    return nullcontext(no_progress)


class Evaluator:
    """`Soup -> float` on a task's held-out split, higher is better; and predictions on any split.

    The model is built once and its weights are replaced in place by the streamed merge. What is in
    the store is never computed again.

    Example:
        >>> evaluate = ladle.Evaluator(ladle.load_task("task.toml"))
        >>> soup = ladle.greedy(ladle.open("runs/*"), evaluate)
    """

    def __init__(
        self,
        task: Task,
        *,
        store: Store | None = None,
        device: str = "auto",
        batch_size: int = 64,
        amp: bool = False,
        channels_last: bool = False,
        watch: Watch = unwatched,
        workspace: Path | None = None,
    ) -> None:
        """`amp` computes in bfloat16 where PyTorch's autocast does; `channels_last` lays the
        weights of convolutions out for them. Both change rounding, and what the store knows one
        evaluation by. `workspace` is a folder, made when needed, where a recipe that was
        interrupted finds what it had done.

        Raises:
            BadTask: the task has no held-out split, or more than one.
            BadInput: there is no such device.
        """
        self.task = task
        self.held_out = held_out_split(task)
        self.store = store or Store(None)
        self.device = device
        self.batch_size = batch_size
        self.arithmetic = Arithmetic(amp, channels_last)
        self.watch = watch
        self.workspace = workspace
        self._live: tuple[nn.Module, torch.device] | None = None
        self._loaded: str | None = None
        self._lock = threading.Lock()

    def __call__(self, soup: Soup) -> float:
        metric = self.task.metric
        predictions = self.predict(soup, self.held_out.name)
        # argmax would take NaN for a class.
        if not np.isfinite(predictions.logits).all():
            return float("nan")
        return metric.sign * metric(predictions)

    def gradients(self, pool: Pool, *, integers: Policy = "equal") -> HeldOutGradients:
        """Losses of soups of a pool on the held-out split, and their slopes in the weights.

        Raises:
            BadInput: the task is not `Differentiable`.
        """
        from ladle.evaluate.gradients import HeldOutGradients

        return HeldOutGradients(self, pool, integers=integers)

    def describe(self) -> dict[str, Any]:
        """Task, metric and splits, for the record."""
        task = self.task
        return {
            "task": {"name": task.name, "digest": task.digest},
            "metric": {
                "name": task.metric.name,
                "higher_is_better": task.metric.higher_is_better,
            },
            "arithmetic": self.arithmetic.describe(),
            "splits": {split.name: split.describe() for split in task.splits.values()},
        }

    def is_exact_for(self, soup: Soup) -> bool:
        """Whether the model has the soup's weights as a file would, and does not round them anew.

        False where that is not known, for no model was needed yet.
        """
        if self._live is None:
            return False
        kinds = {spec.dtype for spec in soup.pool.layout.tensors.values()}
        widest = max((ITEMSIZE[kind] for kind in kinds.intersection(AVERAGED)), default=0)
        held = self._live[0].state_dict().values()
        return all(one.element_size() >= widest for one in held if one.is_floating_point())

    def predict(self, soup: Soup, split: str) -> Predictions:
        """What the soup says about a split, from the store or from the model.

        Raises:
            BadTask: the task has no such split, or gives logits that are not one row per example.
            LayoutMismatch: the soup does not fit into the task's model.
        """
        if split not in self.task.splits:
            raise BadTask(
                f"task {self.task.name!r} has no split {split!r}; it has "
                + ", ".join(self.task.splits)
            )
        examples = self.task.splits[split]
        key = (soup.digest, self.arithmetic.identity(self.task.digest), examples.key)
        logits = self.store.logits(*key)
        if logits is None:
            with self._lock:  # there is one model
                # Another thread may have had it while this one waited for the model.
                logits = self.store.logits(*key)
                if logits is None:
                    logits = self._run(soup, examples)
                    self.store.keep_logits(*key, logits)
        return Predictions(split, logits, examples.labels)

    def _run(self, soup: Soup, split: Split) -> Array:
        import torch

        if self._live is None:
            device = find_device(self.device)
            with running(f"building the model of task {self.task.name!r}"):
                model = self.arithmetic.laid_out(self.task.build().to(device).eval())
                self._live = (model, device)
        model, device = self._live
        if self._loaded != soup.digest:
            self._loaded = None
            soup.load_into(model)
            self._loaded = soup.digest
        text = f"{' + '.join(soup.members)} on {split.name}"
        with (
            self.watch(text, len(split)) as advance,
            running(f"task {self.task.name!r} on {split.name}"),
            torch.inference_mode(),
            self.arithmetic.computing(model, device),
        ):
            said = self.task.predict(
                model, split.name, device=device, batch_size=self.batch_size, advance=advance
            )
            logits = np.asarray(said, np.float32)
        if logits.ndim != 2 or len(logits) != len(split):
            raise BadTask(
                f"task {self.task.name!r} gave logits of shape {list(logits.shape)} for the "
                f"{len(split)} examples of {split.name!r}; one row per example is needed"
            )
        if split.classes is None:
            return logits
        # Here, so that ensembles average what is projected, as the paper's code does, and the
        # store keeps no column that nothing looks at.
        if logits.shape[1] < split.classes.width:
            raise BadTask(
                f"task {self.task.name!r} gave logits of {logits.shape[1]} columns, and the "
                f"classes of {split.name!r} are made of {split.classes.width}; give the model all"
            )
        return split.classes.project(logits)


def held_out_split(task: Task) -> Split:
    """The one split that recipes may look at."""
    found = [split for split in task.splits.values() if split.role == "held-out"]
    first_with: dict[str, str] = {}
    for name, split in task.splits.items():
        first = first_with.setdefault(split.digest, name)
        if first != name:
            raise BadTask(
                f"task {task.name!r} has the same examples in {first!r} and {name!r}; a score on "
                "data that one was chosen by, or that count twice, says nothing"
            )
    if len(found) != 1:
        raise BadTask(
            f"task {task.name!r} has {len(found)} held-out splits; choosing needs exactly one"
        )
    return found[0]


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
