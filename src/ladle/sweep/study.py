"""The books of a sweep, kept by Optuna: what ran, what it scored.

They are a study in the journal `optuna.journal` of the sweep's folder, for optuna-dashboard, plots
and data frames. Nothing of a sweep depends on it: the journal may be deleted, and is written anew
from the runs in their folders.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ladle.errors import BadInput
from ladle.predictions import Metric
from ladle.runs.records import run_name
from ladle.sweep.distributions import Constant, Distribution, Uniform, Whole
from ladle.sweep.quiet_optuna import quiet_optuna
from ladle.sweep.space import Run, Space

JOURNAL = "optuna.journal"
# Writing a line takes milliseconds, so a lock this old is of a process that was killed over it.
# Optuna then takes it, by default after 30.
_LOCK_SECONDS = 3


class Study:
    """Optuna's study of a sweep. Trial i is run i, in whatever order runs start and finish.

    A trial's parameters are the values of all hyper-parameters that the space leaves open; its user
    attributes `run` and `folder` are the whole run and the name of its folder. Its value is the
    held-out score.
    """

    def __init__(
        self, folder: Path, name: str, metric: Metric, space: Space, runs: Sequence[Run]
    ) -> None:
        """The study `name` in `folder`, begun, continued or extended to `runs`.

        What a killed process left unfinished goes on as it was. One process opens it first; then
        others may open it too, for the same runs, and tell of them at the same time.

        Raises:
            BadInput: the journal there is damaged, or has trials that are not of these runs.
            MissingExtra: Optuna is not installed.
        """
        self._path = folder / JOURNAL
        with quiet_optuna() as optuna:
            self._storage = _open_journal(optuna, self._path)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="maximize" if metric.higher_is_better else "minimize",
                load_if_exists=True,
            )
            if self._study.metric_names is None:
                self._study.set_metric_names([metric.name])
            self._add(optuna, space, runs)
            self._study_id = self._storage.get_study_id_from_name(name)

    def started(self, number: int) -> None:
        """Run `number` is under way. One that was already, or is finished, stays so."""
        with quiet_optuna():
            self._trial(number)

    def report(self, number: int, step: int, score: float) -> None:
        """The held-out score of run `number` after so many steps; the last one told counts."""
        with quiet_optuna():
            trial = self._trial(number)
            if trial is not None:
                self._storage.set_trial_intermediate_value(trial, step, float(score))

    def finished(self, number: int, score: float) -> None:
        """Run `number` has this held-out score. What was finished already stays as it is.

        A score that is no finite number counts as a failure.
        """
        if not math.isfinite(score):
            self.failed(number, f"its held-out score is {score}")
            return
        with quiet_optuna():
            if self._trial(number) is not None:
                self._study.tell(number, float(score), skip_if_finished=True)

    def failed(self, number: int, reason: str) -> None:
        """Run `number` gave no model, and would not if it were repeated."""
        with quiet_optuna() as optuna:
            trial = self._trial(number)
            if trial is not None:
                self._storage.set_trial_user_attr(trial, "failed", reason)
                state = optuna.trial.TrialState.FAIL
                self._study.tell(number, state=state, skip_if_finished=True)

    def _add(self, optuna: Any, space: Space, runs: Sequence[Run]) -> None:
        """Have the trials begin with `runs`; those that are new wait."""
        known = self._study.get_trials(deepcopy=False)
        for trial, run in zip(known, runs, strict=False):
            if trial.user_attrs.get("run") != asdict(run):
                raise BadInput(
                    f"{self._path} has another trial {trial.number} than this sweep; "
                    f"move it away, and the same command writes it anew"
                )
        sides = {
            key: _optuna_distribution(optuna, distribution)
            for key, distribution in space.distributions.items()
            if not isinstance(distribution, Constant)
        }
        for number, run in enumerate(runs[len(known) :], len(known)):
            values = asdict(run)
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.WAITING,
                    params={key: values[key] for key in sides},
                    distributions=sides,
                    user_attrs={"run": values, "folder": run_name(number)},
                )
            )

    def _trial(self, number: int) -> int | None:
        """Optuna's id of a trial that runs from now on if it did not; None if it is finished."""
        trial: int = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        state = self._storage.get_trial(trial).state
        if state.is_finished():
            return None
        if state.name == "WAITING":
            self._storage.set_trial_state_values(trial, type(state).RUNNING)
        return trial


@dataclass(frozen=True)
class _Lock:
    """One of Optuna's locks, but if it was taken from us meanwhile, on a slow disk, so be it.

    Lines are written whole and at the end, with or without a lock; what it keeps apart for certain
    are writing and the mending of a torn line.
    """

    lock: Any

    def acquire(self) -> bool:
        return bool(self.lock.acquire())

    def release(self) -> None:
        with suppress(RuntimeError):
            self.lock.release()


def _open_journal(optuna: Any, path: Path) -> Any:
    journal = optuna.storages.journal
    # Of Optuna's two locks the one that is a plain file. The other is a link to the journal, and
    # where a process was killed over it and the path was relative, waiting for it never ends.
    lock = _Lock(journal.JournalFileOpenLock(str(path), grace_period=_LOCK_SECONDS))
    backend = journal.JournalFileBackend(str(path), lock_obj=lock)
    lock.acquire()
    try:
        _drop_torn_line(path)
    finally:
        lock.release()
    try:
        return optuna.storages.JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise BadInput(
            f"{path} is damaged; move it away, and the same command writes it anew"
        ) from error


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed process wrote of a last line.

    Optuna passes over it when it reads, but would write its next line right behind it, and from
    then on could not read any further.
    """
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _optuna_distribution(optuna: Any, distribution: Distribution) -> Any:
    """What Optuna writes down of where values come from: their kind and range.

    Where 0 stands for off it is among them, and so a logarithm is not.
    """
    kinds = optuna.distributions
    if isinstance(distribution, Whole):
        return kinds.IntDistribution(distribution.low, distribution.high, log=distribution.log)
    if distribution.options is not None:
        return kinds.CategoricalDistribution(distribution.options)
    numbers: Sequence[Any] = distribution.extremes
    log = isinstance(distribution, Uniform) and distribution.log
    return kinds.FloatDistribution(min(numbers), max(numbers), log=log)
