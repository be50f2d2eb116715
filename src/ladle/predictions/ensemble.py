"""Ensembles of stored predictions, at no further forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ladle.predictions.base import Predictions
from ladle.predictions.metrics import Metric


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """The mean of the members' unnormalised logits (paper, section 2).

    Raises:
        ValueError: the members were not measured on the same examples.
    """
    (together,) = nested_ensembles(members, [len(members)])
    return together


def nested_ensembles(members: Iterable[Predictions], sizes: Sequence[int]) -> Iterator[Predictions]:
    """The ensembles of the first members, of these ascending sizes, from one sum of logits.

    Raises:
        ValueError: the members were not measured on the same examples.
    """
    first: Predictions | None = None
    total = np.zeros((), np.float64)
    for size, member in enumerate(members, start=1):
        if first is None:
            first, total = member, np.zeros(member.logits.shape, np.float64)
        if member.split != first.split or not np.array_equal(member.labels, first.labels):
            raise ValueError(f"predictions of different data: {first.split} and {member.split}")
        total += member.logits
        if size in sizes:
            yield Predictions(first.split, (total / size).astype(np.float32), first.labels)


class EnsembleScores:
    """Scores of ensembles by the numbers of their members, as `ensemble` makes them.

    The sum of the logits of all members but the last is kept, so that trying one more member with
    the same others costs one addition. `predictions` is called when the first score is asked for.
    """

    def __init__(
        self,
        predictions: Callable[[], Sequence[Predictions]],
        score: Callable[[Predictions], float],
    ) -> None:
        self._predictions = predictions
        self._score = score
        self._first: tuple[int, ...] = ()
        self._sum: npt.NDArray[np.float64] | float = 0.0

    @cached_property
    def _members(self) -> Sequence[Predictions]:
        return self._predictions()

    def __call__(self, chosen: Sequence[int]) -> float:
        *most, last = chosen
        first = tuple(most)
        if first != self._first:
            if first[:-1] != self._first:
                self._first, self._sum = (), 0.0
            for i in first[len(self._first) :]:
                self._sum = self._sum + self._members[i].logits.astype(np.float64)
            self._first = first
        one = self._members[last]
        mean = (self._sum + one.logits.astype(np.float64)) / len(chosen)
        return self._score(Predictions(one.split, mean.astype(np.float32), one.labels))


def greedy_ensemble(members: Sequence[Predictions], metric: Metric) -> list[int]:
    """Which of the members to ensemble: best first, each kept if the score does not fall.

    The greedy soup's rule on logits instead of weights (paper, section 2), so `members` are to be
    predictions of held-out data. Of equal scores the first counts as the better. A score that is
    not finite rejects the member.
    """
    scores = [metric.sign * metric(member) for member in members]
    finite = [i for i, score in enumerate(scores) if np.isfinite(score)]
    chosen: list[int] = []
    best = -np.inf
    for i in sorted(finite, key=lambda i: -scores[i]):
        score = metric.sign * metric(ensemble([members[j] for j in (*chosen, i)]))
        if score >= best:
            chosen, best = [*chosen, i], score
    return chosen
