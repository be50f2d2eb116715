"""The books of a sweep, read by Optuna itself, and kept through kills at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ladle.errors import BadInput, MissingExtra
from ladle.predictions import METRICS
from ladle.sweep import Choice, Constant, Off, Space, Study, Uniform, Whole
from ladle.sweep.space import PRESETS

SPACE = Space(
    lr=Uniform(1e-5, 1e-3, log=True),
    weight_decay=Off(0.5, Uniform(1e-4, 1e-1, log=True)),
    epochs=Whole(2, 5),
    augmentation=Off(0.5, Choice(("rand-m9-n2", 0.5, 0.5))),
    dropout=Choice((None, 0.1)),
    label_smoothing=Constant(0.1),
)
RUNS = SPACE.runs(0, 6)
ACCURACY = METRICS["accuracy"]


def open_study(folder: Path, runs=RUNS, metric=ACCURACY) -> Study:
    return Study(folder, "digits", metric, SPACE, runs)


def plain(folder: Path) -> optuna.Study:
    """The study as anybody opens it who has Optuna and not ladle."""
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name="digits", storage=storage)


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in plain(folder).trials]


def test_optuna_reads_what_ran_and_what_it_scored(tmp_path):
    study = open_study(tmp_path)
    scores = [0.5, 0.75, None, 0.625]
    for number, score in enumerate(scores):
        study.started(number)
        study.report(number, 10, 0.25)
        study.report(number, 20, 0.375)
        if score is None:
            study.failed(number, "the loss was nan in step 3")
        else:
            study.finished(number, score)
    study.started(4)

    found = plain(tmp_path)
    assert [trial.state for trial in found.trials] == [
        TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE,
        TrialState.RUNNING, TrialState.WAITING,
    ]  # fmt: skip
    assert found.direction.name == "MAXIMIZE"
    assert found.metric_names == ["accuracy"]
    assert found.best_trial.number == 1
    assert found.best_value == 0.75
    keys = ("lr", "weight_decay", "epochs", "dropout", "augmentation")
    for number, (trial, run) in enumerate(zip(found.trials, RUNS, strict=True)):
        assert trial.number == number
        assert trial.params == {key: getattr(run, key) for key in keys}
        assert trial.user_attrs["run"] == asdict(run)
        assert trial.user_attrs["folder"] == f"run-000{number}"
    assert found.trials[0].intermediate_values == {10: 0.25, 20: 0.375}
    assert found.trials[2].user_attrs["failed"] == "the loss was nan in step 3"
    assert found.trials[0].datetime_complete is not None


def test_pandas_shows_the_study(tmp_path):
    pytest.importorskip("pandas")
    study = open_study(tmp_path)
    for number in range(6):
        study.finished(number, number / 8)
    frame = plain(tmp_path).trials_dataframe()
    assert frame["params_lr"].tolist() == [run.lr for run in RUNS]
    assert frame["value_accuracy"].tolist() == [number / 8 for number in range(6)]


def test_distributions_are_those_of_the_space(tmp_path):
    open_study(tmp_path)
    assert plain(tmp_path).trials[0].distributions == {
        "lr": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True),
        # With 0 for off there is no logarithm.
        "weight_decay": optuna.distributions.FloatDistribution(0.0, 1e-1),
        "epochs": optuna.distributions.IntDistribution(2, 5),
        "augmentation": optuna.distributions.CategoricalDistribution((0.0, "rand-m9-n2", 0.5)),
        "dropout": optuna.distributions.CategoricalDistribution((None, 0.1)),
    }


@pytest.mark.parametrize("name", PRESETS)
def test_optuna_takes_every_run_of_the_presets(tmp_path, name):
    space = Space.named_or_read(name)
    runs = space.runs(0, 24)
    Study(tmp_path, "digits", ACCURACY, space, runs)
    for trial, run in zip(plain(tmp_path).trials, runs, strict=True):
        assert trial.params.items() <= asdict(run).items()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_ranks_what_matters(tmp_path):
    study = open_study(tmp_path, SPACE.runs(0, 40))
    for number, run in enumerate(SPACE.runs(0, 40)):
        study.finished(number, run.epochs / 8)
    found = optuna.importance.get_param_importances(
        plain(tmp_path), evaluator=optuna.importance.PedAnovaImportanceEvaluator()
    )
    assert max(found, key=found.__getitem__) == "epochs"


def test_a_metric_that_should_be_small_is_minimised(tmp_path):
    loss = replace(ACCURACY, name="loss", higher_is_better=False)
    study = open_study(tmp_path, metric=loss)
    for number, score in enumerate((3.0, 1.0, 2.0)):
        study.finished(number, score)
    assert plain(tmp_path).best_trial.number == 1


def test_runs_may_start_and_finish_in_any_order(tmp_path):
    study = open_study(tmp_path)
    for number in (3, 0, 5):
        study.started(number)
    for number in (5, 3):
        study.finished(number, number / 8)
    assert states(tmp_path) == ["RUNNING", *["WAITING"] * 2, "COMPLETE", "WAITING", "COMPLETE"]
    assert [plain(tmp_path).trials[number].value for number in (3, 5)] == [3 / 8, 5 / 8]


def test_a_study_is_continued_and_not_doubled(tmp_path):
    study = open_study(tmp_path, RUNS[:3])
    study.finished(0, 0.5)
    study.started(1)
    study.report(1, 10, 0.25)
    again = open_study(tmp_path)
    assert states(tmp_path) == ["COMPLETE", "RUNNING", *["WAITING"] * 4]
    again.started(1)
    again.report(1, 10, 0.375)  # from its beginning again, perhaps on another machine
    again.finished(1, 0.625)
    again.finished(0, 0.5)  # found on the disk
    again.started(0)
    again.report(0, 99, 0.1)
    again.failed(0, "no")
    fewer = open_study(tmp_path, RUNS[:2])
    fewer.finished(1, 0.75)
    found = plain(tmp_path).trials
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 2 + ["WAITING"] * 4
    assert [trial.value for trial in found[:2]] == [0.5, 0.625]
    assert found[0].intermediate_values == {}
    assert found[1].intermediate_values == {10: 0.375}
    assert "failed" not in found[0].user_attrs
    assert len(optuna.get_all_study_names(plain(tmp_path)._storage)) == 1


def test_a_score_that_is_no_number_is_a_failure(tmp_path):
    study = open_study(tmp_path)
    study.finished(0, float("nan"))
    study.finished(1, float("-inf"))
    trials = plain(tmp_path).trials[:2]
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL"]
    assert trials[0].user_attrs["failed"] == "its held-out score is nan"


def test_a_journal_of_another_sweep_is_refused(tmp_path):
    open_study(tmp_path)
    with pytest.raises(BadInput, match=r"optuna.journal has another trial 0 .* move it away"):
        open_study(tmp_path, SPACE.runs(1, 3))


def test_a_damaged_journal_is_refused_and_can_be_written_anew(tmp_path):
    open_study(tmp_path)
    path = tmp_path / "optuna.journal"
    for bad in ("{]\n", "{}\n", "[1]\n", '{"op_code": 99, "worker_id": "a"}\n'):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(lines[0] + bad + "".join(lines[1:]))
        with pytest.raises(BadInput, match=r"optuna.journal is damaged; move it away"):
            open_study(tmp_path)
        path.unlink()
        open_study(tmp_path).finished(0, 0.5)
        assert states(tmp_path) == ["COMPLETE", *["WAITING"] * 5]


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"ladle\[sweep\]"):
        open_study(tmp_path)


def test_bookkeeping_says_nothing(tmp_path):
    code = (
        "from sweep.test_study import *\n"
        "for _ in range(2):\n"
        f"    study = open_study(Path({str(tmp_path)!r}))\n"
        "    study.report(0, 1, 0.5)\n"
        "    study.finished(0, 0.5)\n"
        "    study.failed(1, 'no')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        check=False,
        cwd=TESTS,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert states(tmp_path)[:2] == ["COMPLETE", "FAIL"]


# ---- kills


@pytest.mark.parametrize("lost", [1, 2, 30])
def test_a_line_that_was_torn_is_dropped(tmp_path, lost):
    study = open_study(tmp_path)
    study.finished(0, 0.5)
    study.started(1)
    path = tmp_path / "optuna.journal"
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    again = open_study(tmp_path)
    assert states(tmp_path) == ["COMPLETE", *["WAITING"] * 5]
    again.started(1)
    again.finished(1, 0.75)
    assert plain(tmp_path).best_value == 0.75


@pytest.mark.slow
def test_a_lock_that_a_killed_process_left_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("sweep")  # with Optuna's own kind of lock, a relative path would wait for ever
    folder.mkdir()
    open_study(folder)
    (folder / "optuna.journal.lock").touch()
    began = time.monotonic()
    open_study(folder).finished(0, 0.5)
    assert 2 < time.monotonic() - began < 10
    assert [path.name for path in folder.iterdir()] == ["optuna.journal"]
    assert states(folder)[0] == "COMPLETE"


def test_a_lock_that_is_lost_on_a_slow_disk_stops_nothing(tmp_path, monkeypatch):
    study = open_study(tmp_path)
    study.started(0)
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        fsync(descriptor)
        (tmp_path / "optuna.journal.lock").unlink()  # as another does who has waited too long

    monkeypatch.setattr(os, "fsync", slow)
    study.finished(0, 0.5)
    assert states(tmp_path)[0] == "COMPLETE"


TESTS = Path(__file__).parents[1]
WORKER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from sweep.test_study import RUNS, open_study
print("ready", flush=True)
study = open_study(Path(sys.argv[1]))
for number in range(int(sys.argv[3]), len(RUNS), int(sys.argv[4])):
    study.started(number)
    for step in range(20):
        study.report(number, step, step / 8)
    study.finished(number, number / 8)
    print(number, flush=True)
while sys.argv[2] == "endless":
    open_study(Path(sys.argv[1]))
"""


def worker(folder: Path, mode: str, first: int, stride: int) -> subprocess.Popen[str]:
    given = [str(folder), mode, str(first), str(stride)]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *given], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_tell_of_their_runs_at_the_same_time(tmp_path):
    open_study(tmp_path)
    both = [worker(tmp_path, "once", first, 2) for first in (0, 1)]
    for process in both:
        process.communicate()
        assert process.returncode == 0
    found = plain(tmp_path).trials
    assert [trial.value for trial in found] == [number / 8 for number in range(len(RUNS))]
    assert all(trial.intermediate_values[19] == 19 / 8 for trial in found)


@pytest.mark.slow
def test_no_kill_costs_more_than_the_line_under_way(tmp_path):
    moments = np.random.default_rng(0).uniform(0, 0.15, 15)
    told: set[int] = set()
    for moment in (*moments, None):
        mode = "endless" if moment is not None else "once"
        process = worker(tmp_path, mode, 0, 1)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if moment is not None:
            time.sleep(moment)
            process.kill()
        told |= {int(number) for number in process.communicate()[0].split()}
        assert process.returncode == (0 if moment is None else -signal.SIGKILL)
        if told:
            trials = plain(tmp_path).trials
            assert len(trials) == len(RUNS)
            assert all(trials[number].value == number / 8 for number in told)
    assert states(tmp_path) == ["COMPLETE"] * len(RUNS)
    for line in (tmp_path / "optuna.journal").read_text().splitlines():
        json.loads(line)
