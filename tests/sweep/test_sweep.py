"""A sweep's folder: what is in it, and how it is continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from safetensors.torch import load_file

import ladle
from ladle.errors import BadInput, BadTask
from ladle.recipes import window
from ladle.soup import uniform_soup
from ladle.sweep import Constant, Keeping, Space, Uniform, sweep
from ladle.sweep.finetune import _ORDER, _seed
from ladle.sweep.pause import Pause
from ladle.tasks import Trainable
from ladle.tasks.base import Split, no_progress
from toy_task import PointsTask

SPACE = Space(lr=Constant(0.05), epochs=Constant(2), batch_size=Constant(16))
"""Runs of 8 steps."""
KEEPING = Keeping(save_every=4, score_every=3, ema=(0.5,), swa=0.5)


def read(folder):
    return json.loads((folder / "run.json").read_text())


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_toy_is_trainable():
    assert isinstance(PointsTask(), Trainable)


def test_a_sweep_leaves_its_base_its_runs_and_its_record(tmp_path):
    steps = []
    out = tmp_path / "out"
    folders = sweep(PointsTask(), out, runs=2, space=SPACE, seed=4, on_step=steps.append)
    assert folders == [out / "run-0000", out / "run-0001"]
    assert sorted(path.name for path in out.iterdir()) == [
        "base", "optuna.journal", "run-0000", "run-0001", "sweep.json"
    ]  # fmt: skip
    assert sorted(path.name for path in folders[0].iterdir()) == ["model.safetensors", "run.json"]
    record = read(folders[1])
    assert record["run"] == vars(SPACE.runs(4, 2)[1])
    assert len(record["training_loss"]) == 2
    assert (record["step"], record["failed"]) == (8, None)
    task = PointsTask()
    ((last),) = record["scores"]
    model = uniform_soup(ladle.open(folders[1])).load_into(task.build())
    hits = task.predict(model, "dev", device=None, batch_size=1).argmax(1) == task.labels.numpy()
    assert last == {"step": 8, "split": "dev", "metric": "accuracy", "value": hits.mean()}
    assert record["task_digest"] == "points-1"
    assert record["base"] == ladle.open(out / "base").digests[0]
    assert set(record["versions"]) == {"ladle", "torch", "python"}
    assert read(out / "base")["run"] is None
    assert read(out / "base")["scores"][0]["step"] == 0
    assert json.loads((out / "sweep.json").read_text())["runs"] == 2
    names = [step.name for step in steps]
    assert names == ["base", *["run-0000"] * 10, *["run-0001"] * 10]
    assert [step.done for step in steps] == [0, *range(9), 8, 8, *range(9, 17), 16]
    assert {step.total for step in steps} == {16}
    assert steps[-1].score == last["value"]
    assert not same(weights(folders[0]), weights(folders[1]))
    assert torch.equal(weights(out / "base")["body.weight"], PointsTask().build().body.weight)


def test_the_same_sweep_gives_the_same_weights(tmp_path):
    first, second = (sweep(PointsTask(), tmp_path / x, runs=2, space=SPACE) for x in "ab")
    for one, other in zip(first, second, strict=True):
        assert same(weights(one), weights(other))


class Stopped(BaseException):
    """Like a kill: nothing is tidied up for it."""


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path):
    whole = sweep(PointsTask(), tmp_path / "whole", runs=3, space=SPACE, keeping=KEEPING)

    def stop(progress):
        if progress.name == "run-0001" and progress.moment and progress.moment.step == 5:
            raise Stopped

    cut = tmp_path / "cut"
    with pytest.raises(Stopped):
        sweep(PointsTask(), cut, runs=3, space=SPACE, keeping=KEEPING, on_step=stop)
    assert (cut / "run-0001.part" / "state.pt").is_file()
    (cut / "run-0001.part" / "model.safetensors").write_text("half")
    steps = []
    sweep(PointsTask(), cut, runs=3, space=SPACE, keeping=KEEPING, on_step=steps.append)
    first = next(step.moment.step for step in steps if step.name == "run-0001" and step.moment)
    assert 1 < first <= 6
    assert not list(cut.glob("*.part"))
    for one in whole:
        other = cut / one.name
        files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
        assert files == sorted(
            path.relative_to(other) for path in other.rglob("*") if path.is_file()
        )
        for file in files:
            if file.name == "run.json":
                mine, theirs = (json.loads((place / file).read_text()) for place in (one, other))
                assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}
            else:
                assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_ctrl_c_keeps_every_step(tmp_path):
    def stop(progress):
        if progress.moment and progress.moment.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        sweep(PointsTask(), tmp_path, runs=1, space=SPACE, on_step=stop)
    steps = []
    (folder,) = sweep(PointsTask(), tmp_path, runs=1, space=SPACE, on_step=steps.append)
    assert [step.moment.step for step in steps if step.moment] == [7, 8]
    assert folder.is_dir()


def test_a_state_of_other_work_is_not_taken_up(tmp_path):
    pause = Pause(tmp_path / "state.pt", "one")
    pause.keep({"done": 3})
    assert pause.read() == {"done": 3}
    assert Pause(tmp_path / "state.pt", "another").read() is None
    (tmp_path / "state.pt").write_bytes(b"half of it")
    assert pause.read() is None


def test_what_is_kept_beside_the_end(tmp_path):
    (folder,) = sweep(PointsTask(), tmp_path, runs=1, space=SPACE, keeping=KEEPING)
    scores = read(folder)["scores"]
    assert [score["step"] for score in scores] == [3, 6, 8]
    assert sorted(path.name for path in folder.iterdir()) == [
        "ema-0.5", "model.safetensors", "run.json", "steps", "swa"
    ]  # fmt: skip
    steps = folder / "steps"
    assert sorted(path.name for path in steps.iterdir()) == ["step-000004", "step-000008"]
    # The last checkpoint is the end, and the mean of a window of one step would be too.
    assert same(weights(steps / "step-000008"), weights(folder))
    assert not same(weights(steps / "step-000004"), weights(folder))
    assert not same(weights(folder / "swa"), weights(folder))
    assert read(steps / "step-000004")["step"] == 4
    assert read(folder / "ema-0.5")["name"] == "run-0000/ema-0.5"
    assert read(folder / "ema-0.5")["scores"][0]["split"] == "dev"
    # Of a sweep, each run is one ingredient; of its steps, each checkpoint.
    assert [one.name for one in ladle.open(tmp_path)] == ["run-0000"]
    pool = ladle.open(steps)
    assert [one.name for one in pool] == ["step-000004", "step-000008"]
    assert [one.facts.step for one in pool] == [4, 8]
    assert window(pool).weights == (0.5, 0.5)
    (end,) = ladle.open(tmp_path)
    assert end.facts.metrics == {"accuracy": scores[-1]["value"]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"save_every": 0}, "save_every is 0; give a number of steps from 1 on"),
        ({"score_every": -1}, "score_every is -1"),
        ({"ema": (1.0,)}, "ema is 1; a decay lies between 0 and 1"),
        ({"ema": (0.9, 0.9)}, "names a decay twice"),
        ({"swa": 1.5}, "swa is 1.5; give a part of the steps"),
    ],
)
def test_what_cannot_be_kept_is_refused(options, says):
    with pytest.raises(BadInput, match=says):
        Keeping(**options)


def test_more_runs_extend_and_fewer_make_nothing(tmp_path):
    first = sweep(PointsTask(), tmp_path, runs=1, space=SPACE)
    made = (first[0] / "run.json").read_bytes()
    assert len(sweep(PointsTask(), tmp_path, runs=3, space=SPACE)) == 3
    assert (first[0] / "run.json").read_bytes() == made
    assert len(sweep(PointsTask(), tmp_path, runs=2, space=SPACE)) == 2
    assert json.loads((tmp_path / "sweep.json").read_text())["runs"] == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "another sweep: seed is 0 there and 1 here; use another folder"),
        ({"space": Space()}, r"another sweep: space\.lr is 0.05 there and .*log_uniform.* here"),
        ({"keeping": KEEPING}, "save_every is null there and 4 here"),
        ({"points": "sobol"}, 'points is "random" there and "sobol" here'),
        ({"head": "as-is"}, 'head is "probe" there and "as-is" here'),
    ],
)
def test_another_sweep_does_not_fit_in_the_folder(change, says, tmp_path):
    sweep(PointsTask(), tmp_path, runs=1, space=SPACE)
    with pytest.raises(BadInput, match=says):
        sweep(PointsTask(), tmp_path, **{"runs": 1, "space": SPACE, **change})


def test_another_task_does_not_fit_in_the_folder(tmp_path):
    sweep(PointsTask(), tmp_path, runs=1, space=SPACE)
    other = PointsTask()
    other.digest = "points-2"
    with pytest.raises(BadInput, match='task_digest is "points-1" there and "points-2" here; use'):
        sweep(other, tmp_path, runs=1, space=SPACE)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match="not empty and not a sweep"):
        sweep(PointsTask(), tmp_path, runs=1, space=SPACE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_labels_have_to_fit_the_head(tmp_path):
    task = PointsTask()
    task.splits["dev"] = Split("dev", "held-out", task.labels.numpy() + 1, "dev-2")
    with pytest.raises(
        BadTask, match=r"labels of split dev go from 1 to 2, but the head 'head' .* has 2 outputs"
    ):
        sweep(task, tmp_path, runs=1, space=SPACE)


def test_a_task_brings_its_own_space(tmp_path):
    task = PointsTask()
    task.space = {"lr": 0.02, "epochs": 1}
    (folder,) = sweep(task, tmp_path, runs=1)
    run = json.loads((folder / "run.json").read_text())["run"]
    assert (run["lr"], run["epochs"]) == (0.02, 1)


@pytest.mark.slow
def test_a_sweep_of_a_real_transformer(tmp_path):
    from transformers import AutoModelForSequenceClassification

    from ladle.tasks.demo_text import _model_folder
    from ladle.tasks.text import TextClassification

    good = [f"{word} acting in a film to love" for word in ("warm", "fine", "great", "lovely")]
    bad = [f"{word} acting in a film to hate" for word in ("cold", "poor", "awful", "dull")]
    texts, labels = [*good, *bad], [1] * 4 + [0] * 4
    task = TextClassification(
        "tiny", _model_folder(), label_names=("bad", "good"), freeze=5,
        splits={"train": ("train", texts, labels), "dev": ("held-out", texts, labels)},
    )  # fmt: skip
    space = Space(
        lr=Constant(1e-4), epochs=Constant(4), batch_size=Constant(4), augmentation=Constant(0.0)
    )
    one, other = sweep(task, tmp_path, runs=2, space=space)
    base = weights(tmp_path / "base")
    assert not same(weights(one), weights(other))
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, base[name]) != task.trainable(name), name
    model = AutoModelForSequenceClassification.from_pretrained(one, local_files_only=True)
    logits = task.predict(model, "dev", device=torch.device("cpu"), batch_size=8)
    assert (logits.argmax(1) == labels).all()


class Sick(PointsTask):
    """A task that raises, or whose points become no numbers, in the second run."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error
        self.sick = True

    def batches(self, *, batch_size, augmentation, generator):
        ours = _seed(SPACE.runs(0, 2)[1].seed, _ORDER, 0)
        sick = self.sick and generator.initial_seed() == ours
        for points, labels in super().batches(
            batch_size=batch_size, augmentation=augmentation, generator=generator
        ):
            if sick and self.error:
                raise self.error
            yield points * (float("nan") if sick else 1.0), labels


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (None, "became nan; lr was 0.05; lower it in the space"),
        (torch.OutOfMemoryError("CUDA out of memory."), "not enough memory; lower batch_size"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough memory; lower batch_size",
        ),
    ],
)
def test_a_run_that_fails_is_recorded_and_left_out(error, says, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):  # a second call finds it recorded, and does not try again
        steps = []
        folders = sweep(Sick(error), out, runs=3, space=SPACE, on_step=steps.append)
        assert folders == [out / "run-0000", out / "run-0002"]
    assert says in read(out / "run-0001")["failed"]
    assert [step.failed is not None for step in steps if step.name == "run-0001"] == [True]
    assert [path.name for path in (out / "run-0001").iterdir()] == ["run.json"]
    assert [one.name for one in ladle.open(out)] == ["run-0000", "run-0002"]
    states = [trial.state.name for trial in trials(out)]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    well = Sick(error)
    well.sick = False
    assert len(sweep(well, out, runs=3, space=SPACE, retry_failed=True)) == 3
    assert [trial.state.name for trial in trials(out)] == ["COMPLETE"] * 3


def test_a_score_that_is_no_number_is_a_failure_to_the_study_alone(tmp_path):
    class Silent(PointsTask):
        def predict(self, model, split, *, device, batch_size, advance=no_progress):
            said = super().predict(model, split, device=device, batch_size=batch_size)
            return np.full_like(said, np.nan)

    (folder,) = sweep(Silent(), tmp_path, runs=1, space=SPACE)
    assert read(folder)["scores"][-1]["value"] is None
    (trial,) = trials(tmp_path)
    assert (trial.state.name, trial.user_attrs["failed"]) == ("FAIL", "its held-out score is nan")


@pytest.mark.slow
def test_bfloat16_is_a_matter_of_the_process(tmp_path):
    task = Path(__file__).parents[1] / "toy_task.py"
    for name, more in (("plain", []), ("amp", ["--amp"])):
        command = [
            sys.executable,
            "-m",
            "ladle",
            "sweep",
            "--task",
            f"{task}:PointsTask",
            "--runs",
            "1",
        ]
        subprocess.run([*command, "-o", tmp_path / name, *more], check=True, capture_output=True)
    plain, amp = (weights(tmp_path / name / "run-0000") for name in ("plain", "amp"))
    assert not same(plain, amp)
    for name, tensor in plain.items():
        assert amp[name].dtype == torch.float32
        torch.testing.assert_close(amp[name], tensor, rtol=0.05, atol=0.01)
    # accelerate keeps one precision for a process.
    sweep(PointsTask(), tmp_path / "here", runs=1, space=SPACE)
    with pytest.raises(BadInput, match=r"another device or precision already .*; start a new"):
        sweep(PointsTask(), tmp_path / "there", runs=1, space=SPACE, amp=True)


def test_other_errors_are_not_taken_for_want_of_memory(tmp_path):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        sweep(Sick(RuntimeError("mat1 and mat2 shapes cannot be multiplied")), tmp_path, runs=2,
              space=SPACE)  # fmt: skip


def trials(output):
    storage = JournalStorage(JournalFileBackend(str(output / "optuna.journal")))
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage).trials


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_reads_the_sweep_as_a_study(tmp_path):
    space = replace(SPACE, lr=Uniform(0.01, 0.1, log=True))
    folders = sweep(PointsTask(), tmp_path, runs=3, space=space, keeping=KEEPING)
    for folder, trial in zip(folders, trials(tmp_path), strict=True):
        record = read(folder)
        assert trial.params["lr"] == record["run"]["lr"]
        assert trial.value == record["scores"][-1]["value"]
        assert list(trial.intermediate_values) == [3, 6]
        assert trial.user_attrs["folder"] == folder.name
