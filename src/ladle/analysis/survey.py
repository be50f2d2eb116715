"""Measuring many soups on the same examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ladle.analysis.measures import Group, Measure, Measured, groups_of, measures_of
from ladle.analysis.positions import Float64
from ladle.errors import BadInput
from ladle.evaluate import MEAN_OF_SHIFTS, Evaluator
from ladle.predictions import ExampleNumbers, Predictions
from ladle.soup import Soup
from ladle.tasks import PredictsSome, Split, Task


@dataclass(frozen=True, eq=False)
class Curve:
    """One quantity on one split, or on the mean of the shifts, over a path or a plane.

    `values` is (points,) on a path and (rows, columns) on a plane, NaN where a model says nothing
    finite. `standard_error`, of the same shape, is that of choosing the `n` examples at random, as
    if from infinitely many; None for what is no mean over examples. All points see the same
    examples, so that their differences are less noisy than that.
    """

    group: Group
    measure: Measure
    n: int
    values: Float64
    standard_error: Float64 | None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        errors = self.standard_error
        return {
            "split": self.group.name,
            "role": self.group.role,
            "quantity": self.measure.name,
            "higher_is_better": self.measure.metric.higher_is_better,
            "n": self.n,
            "values": self.values.tolist(),
            "standard_error": None if errors is None else errors.tolist(),
        }


class Survey:
    """Soups on some splits of a task, on `samples` random examples of each, or on all.

    The examples follow from `seed`, and are the same for every soup. Of a split with fewer, all
    are taken.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        splits: Sequence[Split],
        *,
        samples: int | None = None,
        seed: int = 0,
        advance: Callable[[int], None] = lambda evaluations: None,
    ) -> None:
        """`advance` is called after each evaluation of a soup on a split."""
        regression = evaluator.held_out.labels.dtype.kind == "f"
        self.evaluator = evaluator
        self.splits = tuple(splits)
        self.samples = samples
        self.seed = seed
        self.groups = groups_of(splits, MEAN_OF_SHIFTS)
        self.measures = measures_of(evaluator.task.metric, regression=regression)
        self._examples = {one.name: drawn(one, samples, seed) for one in splits}
        self._advance = advance

    @property
    def kinds(self) -> list[tuple[Group, Measure]]:
        """What `of` measures, in this order."""
        return [(group, measure) for group in self.groups for measure in self.measures]

    def of(self, soup: Soup) -> list[Measured]:
        """Every quantity on every split, and on the mean of the shifts."""
        said = {}
        for split in self.splits:
            said[split.name] = self._said(soup, split)
            self._advance(1)
        return [measure([said[name] for name in group.splits]) for group, measure in self.kinds]

    def curves(self, found: Sequence[Sequence[Measured]], shape: tuple[int, ...]) -> list[Curve]:
        """What was measured of many soups, in row-major order, as arrays."""
        curves = []
        for number, (group, measure) in enumerate(self.kinds):
            column = [one[number] for one in found]
            errors = [one.standard_error for one in column]
            # Where only some are missing, they are those of models that say nothing finite.
            known = any(error is not None for error in errors)
            spread = np.array([np.nan if e is None else e for e in errors]) if known else None
            curves.append(
                Curve(
                    group,
                    measure,
                    column[0].n,
                    np.array([one.value for one in column]).reshape(shape),
                    None if spread is None else spread.reshape(shape),
                )
            )
        return curves

    def _said(self, soup: Soup, split: Split) -> Predictions:
        examples = self._examples[split.name]
        if examples is None:
            return self.evaluator.predict(soup, split.name)
        return self.evaluator.predict_some(soup, split.name, examples)


def drawn(split: Split, samples: int | None, seed: int) -> ExampleNumbers | None:
    """Rising numbers of so many random examples; None for all.

    More samples are the same ones and others. Splits with equally many examples, such as several
    corruptions of one set, do not get the same ones.
    """
    if samples is None or samples >= len(split):
        return None
    salt = int.from_bytes(hashlib.sha256(split.name.encode()).digest()[:8], "little")
    # What `Generator.choice` gives may change between versions of numpy; these bits may not.
    bits = np.random.PCG64(np.random.SeedSequence([seed, salt])).random_raw(len(split))
    return np.sort(np.argsort(bits, kind="stable")[:samples]).astype(np.int64)


def looked_at(task: Task, names: Sequence[str] = (), *, samples: int | None = None) -> list[Split]:
    """Splits of these names; without any, the training split, test and shifts.

    What recipes choose by stands in where there are neither test nor shifts.

    Raises:
        BadInput: the task has no split of this name, or cannot predict `samples` of it alone.
    """
    if samples is not None and not isinstance(task, PredictsSome):
        raise BadInput(
            f"task {task.name} cannot predict some examples alone, so leave out --samples; or add "
            "`arranged` and `predict_some` to it"
        )
    unknown = [name for name in names if name not in task.splits]
    if unknown:
        raise BadInput(f"--split {unknown[0]!r}: task {task.name} has {', '.join(task.splits)}")
    every = list(task.splits.values())
    if names:
        return [split for split in every if split.name in names]
    judged = [split for split in every if split.role in ("test", "shift")]
    return [split for split in every if split.role != "held-out" or not judged]
