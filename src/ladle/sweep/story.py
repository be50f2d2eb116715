"""How far a sweep is, told to who watches and to Optuna's study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladle.runs.records import BASE, RUN_RECORD, Score, read_record, run_name

if TYPE_CHECKING:
    from ladle.sweep.finetune import Moment
    from ladle.sweep.study import Study


@dataclass(frozen=True)
class Progress:
    """Where a sweep is: in run `name`, the `number`th of `runs`, counted from 1; 0 is the base.

    `done` of `total` steps of all runs together are over. `moment` tells of the last one, None
    where a run begins or ends; `score` is the last on held-out examples, None before there is one;
    `failed` says why a run that ended has no weights.

    Several runs may be under way at the same time.
    """

    name: str
    number: int
    runs: int
    done: int
    total: int
    moment: Moment | None = None
    score: float | None = None
    failed: str | None = None


OnStep = Callable[[Progress], None]


def no_step(progress: Progress) -> None:
    """An `OnStep` that says nothing."""


class Story:
    """Tells of the runs of a sweep, in whatever order they begin and end.

    Runs are numbered from 1, the base is number 0; `steps` are those of each run.
    """

    def __init__(self, steps: Sequence[int], study: Study | None, on_step: OnStep) -> None:
        self._steps, self._study, self._on_step = steps, study, on_step
        self._done = [0] * len(steps)
        self._reported: set[tuple[int, int]] = set()

    def begins(self, number: int) -> None:
        """A run, or the base."""
        if number and self._study is not None:
            self._study.started(number - 1)
        self._tell(number)

    def goes_on(self, number: int, moment: Moment, scores: Sequence[Score]) -> None:
        """A step of a run is over."""
        self._done[number - 1] = moment.step
        self._tell(number, moment=moment, score=scores[-1].value if scores else None)
        self._report(number, scores)

    def ends(self, number: int, folder: Path) -> None:
        """A run is there, made now or earlier."""
        record = read_record(folder / RUN_RECORD)
        failed: str | None = record["failed"]
        scores = [Score(**_known(score)) for score in record["scores"]]
        self._report(number, scores[:-1] if failed is None else scores)
        if self._study is not None and failed is None:
            self._study.finished(number - 1, scores[-1].value)
        elif self._study is not None:
            self._study.failed(number - 1, str(failed))
        self._done[number - 1] = self._steps[number - 1]
        self._tell(number, score=scores[-1].value if scores else None, failed=failed)

    def _report(self, number: int, scores: Sequence[Score]) -> None:
        for score in scores:
            if self._study is not None and (number, score.step) not in self._reported:
                self._study.report(number - 1, score.step, score.value)
                self._reported.add((number, score.step))

    def _tell(self, number: int, **more: Any) -> None:
        name = run_name(number - 1) if number else BASE
        runs, done, total = len(self._steps), sum(self._done), sum(self._steps)
        self._on_step(Progress(name, number, runs, done, total, **more))


def _known(score: Mapping[str, Any]) -> Mapping[str, Any]:
    # What is not finite is null in a record.
    return {**score, "value": float("nan") if score["value"] is None else score["value"]}
