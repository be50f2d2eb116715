"""A sweep's folder: what is in it, and how it is continued."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import ladle
from ladle.errors import BadInput
from ladle.sweep import Constant, Space, sweep
from ladle.tasks import Trainable
from toy_task import PointsTask

SPACE = Space(lr=Constant(0.05), epochs=Constant(2), batch_size=Constant(16))


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_toy_is_trainable():
    assert isinstance(PointsTask(), Trainable)


def test_a_sweep_leaves_its_base_its_runs_and_its_record(tmp_path):
    steps = []
    folders = sweep(
        PointsTask(), tmp_path / "out", runs=2, space=SPACE, seed=4,
        on_step=lambda *step: steps.append(step),
    )  # fmt: skip
    out = tmp_path / "out"
    assert folders == [out / "run-000", out / "run-001"]
    assert sorted(path.name for path in out.iterdir()) == [
        "base", "run-000", "run-001", "sweep.json"
    ]  # fmt: skip
    record = json.loads((out / "run-001" / "run.json").read_text())
    assert record["run"] == vars(SPACE.runs(4, 2)[1])
    assert len(record["training_loss"]) == 2
    assert record["task_digest"] == "points-1"
    assert json.loads((out / "base" / "run.json").read_text())["run"] is None
    assert json.loads((out / "sweep.json").read_text())["runs"] == 2
    assert steps[:3] == [("base", 0, 1), ("base", 1, 1), ("run-000", 1, 8)]
    assert steps[-1] == ("run-001", 8, 8)
    assert not same(weights(folders[0]), weights(folders[1]))
    assert torch.equal(weights(out / "base")["body.weight"], PointsTask().build().body.weight)


def test_the_same_sweep_gives_the_same_weights(tmp_path):
    first, second = (sweep(PointsTask(), tmp_path / x, runs=2, space=SPACE) for x in "ab")
    for one, other in zip(first, second, strict=True):
        assert same(weights(one), weights(other))


def test_an_interrupted_sweep_continues_where_it_was(tmp_path):
    whole = sweep(PointsTask(), tmp_path / "whole", runs=3, space=SPACE)

    def stop(name, done, total):
        if name == "run-001" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(PointsTask(), tmp_path / "cut", runs=3, space=SPACE, on_step=stop)
    (tmp_path / "cut" / "run-001.part").mkdir()
    (tmp_path / "cut" / "run-001.part" / "model.safetensors").write_text("half")
    names = []
    cut = sweep(
        PointsTask(), tmp_path / "cut", runs=3, space=SPACE,
        on_step=lambda name, done, total: names.append(name),
    )  # fmt: skip
    assert set(names) == {"run-001", "run-002"}
    assert not list((tmp_path / "cut").glob("*.part"))
    for one, other in zip(whole, cut, strict=True):
        assert same(weights(one), weights(other))


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
        ({"seed": 1}, "another seed; use another folder"),
        ({"space": Space()}, "another space; use another folder"),
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
    with pytest.raises(BadInput, match="another task_digest; use another folder"):
        sweep(other, tmp_path, runs=1, space=SPACE)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match="not empty and not a sweep"):
        sweep(PointsTask(), tmp_path, runs=1, space=SPACE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


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
    space = Space(lr=Constant(3e-4), epochs=Constant(2), batch_size=Constant(4))
    one, other = sweep(task, tmp_path, runs=2, space=space)
    base = weights(tmp_path / "base")
    assert not same(weights(one), weights(other))
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, base[name]) != task.trainable(name), name
    model = AutoModelForSequenceClassification.from_pretrained(one, local_files_only=True)
    logits = task.predict(model, "dev", device=torch.device("cpu"), batch_size=8)
    assert (logits.argmax(1) == labels).all()


def test_a_run_that_diverges_is_recorded_and_left_out(tmp_path):
    class Sick(PointsTask):
        def batches(self, *, batch_size, augmentation, generator):
            sick = generator.initial_seed() == SPACE.runs(0, 2)[1].seed
            for points, labels in super().batches(
                batch_size=batch_size, augmentation=augmentation, generator=generator
            ):
                yield points * (float("nan") if sick else 1.0), labels

    out = tmp_path / "out"
    for _ in range(2):  # a second call finds it recorded, and does not try again
        folders = sweep(Sick(), out, runs=3, space=SPACE)
        assert folders == [out / "run-000", out / "run-002"]
    assert "became nan" in json.loads((out / "run-001" / "run.json").read_text())["diverged"]
    assert [one.name for one in ladle.open(out)] == ["run-000", "run-002"]
