"""BatchNorm statistics of soups: averaged like weights, or estimated anew on training data.

The running mean and variance of a BatchNorm layer belong to the weights before it. Those of
averaged weights are not the average of statistics, so they may be measured instead (Izmailov et
al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018). Whether that
helps depends on the sweep: models that were trained with frozen statistics are ruined by it, so the
default measures both.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ladle.checkpoint import (
    Bytes,
    Checkpoint,
    Envelope,
    Layout,
    MemoryCheckpoint,
    TensorSpec,
)
from ladle.errors import BadInput
from ladle.evaluate.evaluator import Evaluator
from ladle.evaluate.statistics import EXAMPLES, STATISTICS
from ladle.merge.slices import read_bytes
from ladle.soup import Apart, Policy, Pool, Soup, Verdict, reaches
from ladle.tasks import Trainable

if TYPE_CHECKING:
    from torch import Tensor

    from ladle.evaluate.crew import CrewGradients
    from ladle.evaluate.gradients import HeldOutGradients

BatchNormMode = Literal["average", "recalibrate", "best"]


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
        self._settled: ChainMap[str, tuple[Checkpoint | None, dict[str, float]]] = ChainMap({})
        # What passed a comparison, with the better of its statistics: enough for a hint.
        self._passed: ChainMap[str, Soup] = ChainMap({})

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

    def apart(self) -> Apart:
        """See `ladle.soup.Speculates`."""
        inner = self._evaluator.apart()
        view = copy.copy(self)
        view._evaluator = cast(Evaluator, inner.evaluate)
        view._settled, view._passed = self._settled.new_child(), self._passed.new_child()

        def keep() -> None:
            inner.keep()
            self._settled.update(view._settled.maps[0])
            self._passed.update(view._passed.maps[0])

        return Apart(view, keep, inner.drop)

    def ensembles_of(self, members: Sequence[Soup]) -> Callable[[Sequence[int]], float]:
        """See `ladle.soup.Ensembles`; single models keep their own statistics."""
        return self._evaluator.ensembles_of(members)

    def gradients(
        self, pool: Pool, *, integers: Policy = "equal"
    ) -> HeldOutGradients | CrewGradients:
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
            "examples": EXAMPLES if statistics else None,
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
    names = [name for name in pool.layout.tensors if name.rpartition(".")[2] in STATISTICS]
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

    def __reduce__(self) -> tuple[object, ...]:
        # Who gets them elsewhere needs the numbers alone, under the same digest.
        return _Estimated, (self.path, self._values, self.digest())

    def digest(self) -> str:
        # What they follow from, so that a stored prediction is found without estimating anything.
        content = [self.soup.digest, list(self.names), self.estimator.identity]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class _Estimated:
    """Statistics that were estimated, as a checkpoint (see `Checkpoint`)."""

    format = "estimated"

    def __init__(self, path: Path, values: MemoryCheckpoint, digest: str) -> None:
        self.path, self._values, self._digest = path, values, digest
        self.files: tuple[Path, ...] = ()
        self.metadata: Mapping[str, str] = {}
        self.envelope = Envelope()

    @property
    def layout(self) -> Layout:
        return self._values.layout

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        self._values.read_into(name, start, out)

    def hash_while_reading(self) -> None:
        """Their digest needs none of their values."""

    def digest(self) -> str:
        return self._digest


class _Estimator:
    """Lets training data go through soups."""

    def __init__(self, evaluator: Evaluator, task: Trainable, seed: int) -> None:
        self._forward = evaluator.forward
        self._seed = seed
        training = [split.digest for split in task.splits.values() if split.role == "train"]
        self.identity = [task.digest, *training, EXAMPLES, evaluator.batch_size, seed]

    def __call__(self, soup: Soup, names: Sequence[str]) -> dict[str, Tensor]:
        """The statistics of these names, float32 on the CPU."""
        return self._forward.statistics(soup, names, seed=self._seed)
