"""One fine-tuning, step by step: AdamW, a warm-up, a decay, and what a `Run` asks for beyond.

It runs on `accelerate`: on one CPU, one GPU, or several under `accelerate launch`. What is random
in a step follows from the run's seed and the number of the step, and the order of an epoch from the
seed and its number, so a run that is put down and taken up again makes the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ladle.errors import BadTask, Diverged
from ladle.predictions import Labels
from ladle.sweep.averages import Averages
from ladle.sweep.mixing import mixer
from ladle.sweep.optimise import climbed, parameter_groups, rate
from ladle.sweep.space import Run
from ladle.tasks.base import Split, Trainable
from ladle.tasks.loss import loss_of

if TYPE_CHECKING:
    from accelerate import Accelerator

_LOOK = 10
"""Steps between two looks at the loss, for which a GPU has to wait."""

_DIVERGED = 4.0
"""A loss this many times that of a model that knows nothing, or that the run began with."""

# What the numbers of a seed are for.
_ORDER, _STEP = 0, 1


@dataclass(frozen=True)
class Moment:
    """After a step: `step` of `steps`, in `epoch`, all counted from 1.

    `loss` is the mean over the last steps that were looked at; None before the first look.
    """

    step: int
    steps: int
    epoch: int
    loss: float | None


def training_split(task: Trainable) -> Split:
    """The split to train on; BadTask if there is none, or it is empty."""
    split = next((one for one in task.splits.values() if one.role == "train"), None)
    if split is None or not len(split):
        raise BadTask(f"task {task.name} has no split with the role train; add one")
    return split


def steps_of(task: Trainable, run: Run) -> int:
    """How many steps a run takes."""
    batches = math.ceil(len(training_split(task)) / run.batch_size)
    return run.epochs * math.ceil(batches / run.accumulate)


class FineTuning:
    """A fine-tuning of `model`, in place, on the accelerator's device.

    Tensors that the task does not train keep their bits. The gradient of a step is that of the mean
    loss over all its examples, also where it has several batches or several processes share it.

    Args:
        ema: decays of exponential moving averages to keep beside the weights.
        swa: the last part of the steps, of whose weights to keep the mean; 0 keeps none.

    Raises:
        BadTask: there is no split to train on, or nothing that the task trains.
    """

    def __init__(
        self,
        task: Trainable,
        model: nn.Module,
        run: Run,
        accelerator: Accelerator,
        *,
        ema: Sequence[float] = (),
        swa: float = 0.0,
    ) -> None:
        self.task, self.model, self.run = task, model.to(accelerator.device), run
        self.accelerator = accelerator
        self.steps = steps_of(task, run)
        self.done = 0
        self.losses: list[float] = []
        """The mean training loss of each epoch that is over."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(task.trainable(name))
        self.trained = [one for one in model.parameters() if one.requires_grad]
        if not self.trained:
            raise BadTask(f"task {task.name} trains no parameter of its model; freeze less")
        self.averages = Averages.of(self.trained, ema=ema, swa=swa, steps=self.steps)
        groups = parameter_groups(
            model, lr=run.lr, weight_decay=run.weight_decay, layer_decay=run.layer_decay
        )
        self._forward, self._optimizer = accelerator.prepare(
            _Logits(task, model), torch.optim.AdamW(groups, lr=run.lr)
        )
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._mix = mixer(task, run)
        self._watch = _Watch(_blind_loss(training_split(task).labels), run)
        self._epoch = self._done_in_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, but for what is never trained."""
        model = self.model
        return {
            "weights": {n: p.detach() for n, p in model.named_parameters() if p.requires_grad},
            "buffers": dict(model.named_buffers()),
            "optimizer": self._optimizer.state_dict(),
            "averages": self.averages.state_dict(),
            "watch": self._watch.state_dict(),
            "done": self.done,
            "epoch": self._epoch,
            "done_in_epoch": self._done_in_epoch,
            "losses": list(self.losses),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with the model, task and run that it was taken of."""
        self.model.load_state_dict({**state["weights"], **state["buffers"]}, strict=False)
        self._optimizer.load_state_dict(state["optimizer"])
        self.averages.load_state_dict(state["averages"])
        self._watch.load_state_dict(state["watch"])
        self.done, self.losses = state["done"], list(state["losses"])
        self._epoch, self._done_in_epoch = state["epoch"], state["done_in_epoch"]

    def train(self) -> Iterator[Moment]:
        """All steps that are left. Between two of them the model may be used, in any mode.

        Raises:
            Diverged: the loss stopped being finite, or is far above that of knowing nothing.
        """
        run = self.run
        while self._epoch < run.epochs:
            order = torch.Generator().manual_seed(_seed(run.seed, _ORDER, self._epoch))
            batches = self.task.batches(
                batch_size=run.batch_size, augmentation=run.augmentation, generator=order
            )
            for parts in islice(_grouped(batches, run.accumulate), self._done_in_epoch, None):
                self._step(parts)
                self.done += 1
                self._done_in_epoch += 1
                self.averages.step(self.done)
                steps = max(self.steps, self.done)
                yield Moment(self.done, steps, self._epoch + 1, self._watch.recent)
            self.losses.append(self._watch.end_of_epoch())
            self._epoch += 1
            self._done_in_epoch = 0
        self.model.eval()

    def _step(self, parts: Sequence[tuple[Any, Tensor]]) -> None:
        run = self.run
        factor = rate(self.done, self.steps, warm_up=run.warm_up, schedule=run.schedule)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self.model.train()
        loss = self._add_slope(parts)
        if run.sam:
            with climbed(self.trained, run.sam):
                self._optimizer.zero_grad()
                self._add_slope(parts)
        if run.clip:
            self.accelerator.clip_grad_norm_(self.trained, run.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._watch.add(loss, sum(len(labels) for _, labels in parts))

    def _add_slope(self, parts: Sequence[tuple[Any, Tensor]]) -> Tensor:
        """Add the gradient of the mean loss over all examples of a step; that loss.

        Called again, it drops out and mixes the same.
        """
        device, rank = self.accelerator.device, self.accelerator.process_index
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(_seed(self.run.seed, _STEP, self.done, rank))
            return self._add_slopes(parts)

    def _add_slopes(self, parts: Sequence[tuple[Any, Tensor]]) -> Tensor:
        processes = self.accelerator.num_processes
        examples = sum(len(labels) for _, labels in parts)
        whole = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(parts, 1):
            inputs, labels, share = self._share(part)
            if self._mix is not None:
                inputs, labels = self._mix(inputs, labels)
            # Gradients of all processes are averaged once, when the last part is added.
            is_last = number == len(parts)
            with nullcontext() if is_last else self.accelerator.no_sync(self._forward):
                logits = self._forward(inputs)
                loss = loss_of(logits, labels, label_smoothing=self.run.label_smoothing)
                loss = loss * (share * processes / examples)
                self.accelerator.backward(loss)
            whole += loss.detach()
        found: Tensor = self.accelerator.reduce(whole, "mean")
        return found

    def _share(self, part: tuple[Any, Tensor]) -> tuple[Any, Tensor, int]:
        """What this process sees of a batch, and how many examples of it count."""
        from accelerate.utils import slice_tensors

        inputs, labels = part
        processes = self.accelerator.num_processes
        if processes == 1:
            return inputs, labels, len(labels)
        mine = slice(self.accelerator.process_index, None, processes)
        count = len(labels[mine])
        if not count:  # It takes part all the same, or the others would wait for it.
            mine = slice(0, 1)
        return slice_tensors(inputs, mine), labels[mine], count


class _Logits(nn.Module):
    """What several processes share: their gradients meet where this is called."""

    def __init__(self, task: Trainable, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, inputs: Any) -> Tensor:
        return self.task.logits(self.model, inputs)


class _Watch:
    """The training loss: of the epoch, and of the last steps, which tell whether it diverged."""

    def __init__(self, blind: float, run: Run) -> None:
        self._reference, self._run = blind, run
        self._waiting: list[tuple[Tensor, int]] = []
        self._looks, self._sum, self._examples = 0, 0.0, 0
        self.recent: float | None = None

    def add(self, loss: Tensor, examples: int) -> None:
        self._waiting.append((loss, examples))
        if len(self._waiting) == _LOOK:
            self._look()

    def end_of_epoch(self) -> float:
        """The mean over the epoch's examples."""
        if self._waiting:
            self._look()
        mean = self._sum / max(1, self._examples)
        self._sum, self._examples = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        waiting = [(loss.item(), examples) for loss, examples in self._waiting]
        return {**vars(self), "_run": None, "_waiting": waiting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        waiting = [(torch.tensor(loss), examples) for loss, examples in state["_waiting"]]
        vars(self).update({**state, "_run": self._run, "_waiting": waiting})

    def _look(self) -> None:
        losses = [(loss.item(), examples) for loss, examples in self._waiting]
        self._waiting.clear()
        self._sum += sum(loss * examples for loss, examples in losses)
        self._examples += sum(examples for _, examples in losses)
        recent = sum(loss for loss, _ in losses) / len(losses)
        if not math.isfinite(recent):
            raise Diverged(f"the training loss became {recent}; {self._advice}")
        if not self._looks:
            self._reference = max(self._reference, recent)
        elif recent > _DIVERGED * self._reference:
            raise Diverged(
                f"the training loss rose to {recent:.3g}, where a model that knows nothing, or the "
                f"first steps, have {self._reference:.3g}; {self._advice}"
            )
        self._looks += 1
        self.recent = recent

    @property
    def _advice(self) -> str:
        return f"lr was {self._run.lr:g}; lower it in the space"


def _blind_loss(labels: Labels) -> float:
    """The loss of the best model that does not look at its inputs, or above."""
    if labels.dtype.kind == "f":
        return float(np.var(labels))
    return math.log(max(2, int(labels.max()) + 1))


def _grouped(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group


def _seed(*numbers: int) -> int:
    """A seed for one purpose: independent of those for others."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
