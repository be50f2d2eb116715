"""The records of a sweep's folder as plain values: `sweep.json` and the `run.json` of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ladle.errors import BadInput
from ladle.report.fields import Fields
from ladle.report.files import check_version, read_object
from ladle.report.record import Metric, Scalar
from ladle.runs import good

SWEEP_RECORD, _RUN_RECORD = "sweep.json", "run.json"
_VERSION = 2


@dataclass(frozen=True)
class Score:
    """What was measured at a step of a training; None where it was not finite."""

    step: int
    split: str
    metric: str
    value: float | None


@dataclass(frozen=True)
class Run:
    """One training of a sweep; `failed` says why it has no weights, and is empty otherwise.

    `losses` are the mean training losses of its epochs, and `scores` what was measured on the way,
    the last at its end.
    """

    name: str
    hyperparameters: Mapping[str, Scalar]
    scores: tuple[Score, ...]
    losses: tuple[float | None, ...]
    seconds: float | None
    failed: str

    @property
    def score(self) -> float | None:
        """That of the weights that it left."""
        return self.scores[-1].value if self.scores else None


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep that are there, in order, and what it was made with.

    `metric` is None where no run has a score; `facts` are settings for people. Which run is best
    is not known where the name of the metric does not tell whether a high score is good.
    """

    task: str
    metric: Metric | None
    split: str
    runs: tuple[Run, ...]
    facts: Mapping[str, str]
    space: Mapping[str, str]

    @property
    def best(self) -> Run | None:
        """The run with the best score; of equals the first."""
        if self.metric is None or good(self.metric.name) is None:
            return None
        sign = self.metric.sign
        scored = [run for run in self.runs if run.score is not None and not run.failed]
        return max(scored, key=lambda run: sign * (run.score or 0.0), default=None)


def read_sweep(folder: Path) -> Sweep:
    """The records of a sweep's folder, checked.

    Raises:
        BadInput: a record is damaged or of another version, or no run is there yet.
    """
    about = read_object(folder / SWEEP_RECORD)
    check_version(about, 1, _VERSION)
    # Names of runs have digits enough to sort by name.
    runs = tuple(
        _run(read_object(path))
        for path in sorted(folder.glob(f"run-*/{_RUN_RECORD}"))
        if path.parent.suffix != ".part"
    )
    if not runs:
        raise BadInput(f"{folder} has no finished run to report on; run its `ladle sweep` again")
    measured = [run.scores[-1] for run in runs if run.scores]
    return Sweep(
        task=about.text_or_empty("task"),
        metric=_metric(measured[0].metric, measured) if measured else None,
        split=measured[0].split if measured else "",
        runs=runs,
        facts=about.shown("version", "task", "task_digest", "training_digest", "space"),
        space=about.object("space").shown(),
    )


def _run(fields: Fields) -> Run:
    return Run(
        name=fields.text("name"),
        hyperparameters=fields.scalars("run"),
        scores=tuple(
            Score(
                one.integer("step"),
                one.text("split"),
                one.text("metric"),
                one.number_or_none("value"),
            )
            for one in fields.objects("scores")
        ),
        losses=fields.row("training_loss") if fields.has("training_loss") else (),
        seconds=fields.number_or_none("seconds"),
        failed=fields.text_or_empty("failed"),
    )


def _metric(name: str, measured: Sequence[Score]) -> Metric:
    fraction = all(0 <= one.value <= 1 for one in measured if one.value is not None)
    higher = good(name) != "min"
    return Metric(name, higher, percent=higher and fraction and name.endswith("accuracy"))
