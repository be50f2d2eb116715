"""BatchNorm statistics of soups: averaged like weights, or estimated anew on training data.

The running mean and variance of a BatchNorm layer belong to the weights before it. Those of
averaged weights are not the average of statistics, so they may be measured instead (Izmailov et
al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018). Whether that
helps depends on the sweep: models that were trained with frozen statistics are ruined by it, so the
default measures both.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ladle.checkpoint import (
    Bytes,
    Checkpoint,
    Envelope,
    Layout,
    MemoryCheckpoint,
    TensorSpec,
)
from ladle.errors import BadInput
from ladle.evaluate.evaluator import Evaluator, find_device
from ladle.foreign import running
from ladle.merge.slices import read_bytes
from ladle.soup import Policy, Pool, Soup, Verdict, reaches
from ladle.tasks import Trainable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ladle.evaluate.gradients import HeldOutGradients

BatchNormMode = Literal["average", "recalibrate", "best"]

_EXAMPLES = 5_000
"""Training examples that statistics are estimated on: more change nothing that can be measured."""

_STATISTICS = ("running_mean", "running_var")


class BatchNormTaster:
    """An evaluation that settles the BatchNorm statistics of every soup before scoring it.

    Single models, and soups whose ingredients agree in their statistics (they were frozen), are
    left alone. `best` scores a soup with the averaged and with new statistics and takes the better.

    Example:
        >>> taste = BatchNormTaster(ladle.Evaluator(task), "best")
        >>> soup = taste.settled(ladle.greedy(pool, taste))
    """

    def __init__(self, evaluator: Evaluator, mode: BatchNormMode, *, seed: int = 0) -> None:
        """
        Raises:
            BadInput: the mode needs training data, and the task has none.
        """
        self._evaluator = evaluator
        self._estimator = None
        task = evaluator.task
        training = [split for split in task.splits.values() if split.role == "train" and len(split)]
        if mode != "average" and training and isinstance(task, Trainable):
            self._estimator = _Estimator(evaluator, task, seed)
        if mode == "recalibrate" and self._estimator is None:
            raise BadInput(
                f"--bn recalibrate needs training data, which task {task.name!r} does not offer; "
                "add a split with the role train, or use --bn average"
            )
        self._mode = mode
        self._settled: dict[str, tuple[Checkpoint | None, dict[str, float]]] = {}
        # What passed a comparison, with the better of its statistics: enough for a hint.
        self._passed: dict[str, Soup] = {}

    def __call__(self, soup: Soup) -> float:
        statistics, scores = self._settle(soup)
        return scores["averaged" if statistics is None else "re-estimated"]

    def at_least(
        self, soup: Soup, bar: float, *, strict: bool = False, order_hint: Soup | None = None
    ) -> Verdict:
        """See `ladle.soup.Compares`: a soup falls short where it does with either statistics."""
        averaged = replace(soup, statistics=None)
        if averaged.digest in self._settled:
            return Verdict(self(soup))
        hint = order_hint and self._as_known(order_hint)
        ways = self._ways(averaged)
        verdicts = [
            self._evaluator.at_least(one, bar, strict=strict, order_hint=hint) for one in ways
        ]
        # What `_measure` would choose, which is the better: that one reaches the bar if any does.
        best = max(verdicts, key=lambda verdict: _or_least(verdict.score))
        dropped = [verdict for verdict in verdicts if verdict.score is None]
        if best.score is not None and reaches(best.score, bar, strict=strict):
            self._passed[averaged.digest] = ways[verdicts.index(best)]
            return best
        if not dropped:
            return best
        most = max(_or_least(v.bound if v.score is None else v.score) for v in verdicts)
        return replace(max(dropped, key=lambda verdict: _or_least(verdict.bound)), bound=most)

    def ensembles_of(self, members: Sequence[Soup]) -> Callable[[Sequence[int]], float]:
        """See `ladle.soup.Ensembles`; single models keep their own statistics."""
        return self._evaluator.ensembles_of(members)

    def gradients(self, pool: Pool, *, integers: Policy = "equal") -> HeldOutGradients:
        """See `Evaluator.gradients`; there, statistics are averaged."""
        return self._evaluator.gradients(pool, integers=integers)

    def settled(self, soup: Soup) -> Soup:
        """The soup with the statistics that it was scored with; scored only if it has a choice."""
        ways = self._ways(replace(soup, statistics=None))
        return ways[0] if len(ways) == 1 else replace(soup, statistics=self._settle(soup)[0])

    def describe(self, soup: Soup) -> dict[str, Any] | None:
        """What was done about the statistics of a soup, for the record; None without any."""
        statistics, scores = self._settle(soup)
        if not _differing(soup.pool):
            return None
        return {
            "statistics": "averaged" if statistics is None else "re-estimated",
            "held_out": {name: self._evaluator.task.metric.sign * s for name, s in scores.items()},
            "examples": _EXAMPLES if statistics else None,
        }

    def _settle(self, soup: Soup) -> tuple[Checkpoint | None, dict[str, float]]:
        averaged = replace(soup, statistics=None)
        key = averaged.digest
        if key not in self._settled:
            self._settled[key] = self._measure(averaged)
        return self._settled[key]

    def _as_known(self, soup: Soup) -> Soup:
        """With the statistics that it was measured with last, if it was; else averaged."""
        averaged = replace(soup, statistics=None)
        if averaged.digest in self._settled:
            return replace(averaged, statistics=self._settled[averaged.digest][0])
        return self._passed.get(averaged.digest, averaged)

    def _ways(self, averaged: Soup) -> list[Soup]:
        """The soup with each of the statistics that there are to choose from, new ones first."""
        names = _differing(averaged.pool) if self._estimator and len(averaged.pool) > 1 else []
        if not names or self._estimator is None:
            return [averaged]
        anew = replace(averaged, statistics=_Statistics(averaged, tuple(names), self._estimator))
        return [anew, averaged] if self._mode == "best" else [anew]

    def _measure(self, averaged: Soup) -> tuple[Checkpoint | None, dict[str, float]]:
        ways = self._ways(averaged)
        scores = {
            "averaged" if one.statistics is None else "re-estimated": self._evaluator(one)
            for one in ways
        }
        if "averaged" in scores and not (
            _or_least(scores.get("re-estimated")) > _or_least(scores["averaged"])
        ):
            return None, scores
        return ways[0].statistics, scores


def _or_least(score: float | None) -> float:
    """To compare by: what is unknown, or not a number, is worse than all that is known."""
    return -math.inf if score is None or math.isnan(score) else score


def _differing(pool: Pool) -> list[str]:
    """The running statistics that are not the same in all ingredients."""
    names = [name for name in pool.layout.tensors if name.rpartition(".")[2] in _STATISTICS]
    return [name for name in names if len({_content(one.checkpoint, name) for one in pool}) > 1]


def _content(checkpoint: Any, name: str) -> bytes:
    return read_bytes(checkpoint, name, 0, checkpoint.layout.tensors[name].numel).tobytes()


@dataclass(frozen=True)
class _Statistics:
    """The statistics of a soup as a checkpoint (see `Checkpoint`), estimated when first read."""

    soup: Soup
    names: tuple[str, ...]
    estimator: _Estimator
    metadata: Mapping[str, str] = field(default_factory=dict)
    envelope: Envelope = field(default_factory=Envelope)
    path: Path = Path("BatchNorm statistics")
    format: str = "estimated"
    files: tuple[Path, ...] = ()

    @cached_property
    def layout(self) -> Layout:
        known = self.soup.pool.layout.tensors
        return Layout({name: TensorSpec("float32", known[name].shape) for name in self.names})

    @cached_property
    def _values(self) -> MemoryCheckpoint:
        return MemoryCheckpoint(self.path, self.estimator(self.soup, self.names))

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        self._values.read_into(name, start, out)

    def hash_while_reading(self) -> None:
        """Their digest needs none of their values."""

    def digest(self) -> str:
        # What they follow from, so that a stored prediction is found without estimating anything.
        content = [self.soup.digest, list(self.names), self.estimator.identity]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class _Estimator:
    """Runs training data through soups, in a model of its own."""

    def __init__(self, evaluator: Evaluator, task: Trainable, seed: int) -> None:
        self._evaluator = evaluator
        self._task = task
        self._seed = seed
        self._live: tuple[nn.Module, torch.device] | None = None
        self._lock = threading.Lock()
        training = [split.digest for split in task.splits.values() if split.role == "train"]
        self.identity = [task.digest, *training, _EXAMPLES, evaluator.batch_size, seed]

    def __call__(self, soup: Soup, names: Sequence[str]) -> dict[str, Tensor]:
        """The statistics of these names, float32 on the CPU.

        Layers through which no example goes keep what they have.
        """
        with self._lock:
            model, device = self._model()
            soup.load_into(model)
            with running(f"estimating BatchNorm statistics for task {self._task.name!r}"):
                self._run(model, device)
            found = {
                name: tensor.detach().float().cpu().clone()
                for name, tensor in model.state_dict().items()
                if name.rpartition(".")[2] in _STATISTICS
            }
        called = {own: name for name, own in soup.names_in(model).items()}
        return {called[name]: tensor for name, tensor in found.items() if called[name] in names}

    def _model(self) -> tuple[nn.Module, torch.device]:
        if self._live is None:
            device = find_device(self._evaluator.device)
            self._live = self._task.build().to(device).eval(), device
        return self._live

    def _run(self, model: nn.Module, device: torch.device) -> None:
        import torch

        size = self._evaluator.batch_size
        generator = torch.Generator().manual_seed(self._seed)
        done = 0
        with torch.no_grad(), _measuring(model):
            for inputs, labels in self._task.batches(
                batch_size=size, augmentation=0.0, generator=generator
            ):
                # Batches count alike, so a small rest at the end would count too much.
                if done and len(labels) < size:
                    break
                self._task.logits(model, inputs)
                done += len(labels)
                if done >= _EXAMPLES:
                    break


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """While this lasts, BatchNorm layers forget what they know and average over what they see.

    Whatever mode the model is put in meanwhile: every layer is in training mode for its own
    forward pass, so that it normalises by the batch, and no other layer is.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [[value.clone() for value in _running(layer)] for layer in layers]
    momenta = [layer.momentum for layer in layers]
    hooks = []
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # A plain mean over the batches.
        hooks.append(layer.register_forward_pre_hook(_to_training))
        hooks.append(layer.register_forward_hook(_to_evaluation))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum, values in zip(layers, momenta, before, strict=True):
            layer.momentum = momentum
            if not layer.num_batches_tracked:
                for statistic, value in zip(_running(layer), values, strict=True):
                    statistic.copy_(value)


def _to_training(layer: nn.Module, inputs: object) -> None:
    layer.train()


def _to_evaluation(layer: nn.Module, inputs: object, outputs: object) -> None:
    layer.eval()


def _running(layer: nn.Module) -> list[Tensor]:
    return [layer.get_buffer(name) for name in _STATISTICS]
