"""One fine-tuning: what its hyper-parameters mean, and that it can be put down and taken up."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from ladle.errors import BadTask, Diverged
from ladle.sweep.finetune import _ORDER, FineTuning, _seed
from ladle.sweep.optimise import rate
from ladle.tasks.base import Split
from toy_task import RUN, PointsTask

PLAIN = replace(RUN, augmentation=0.0, dropout=0.0, label_smoothing=0.0)


def begun(run=RUN, task=None, **options):
    task = task or PointsTask()
    return FineTuning(task, task.build(dropout=run.dropout), run, Accelerator(cpu=True), **options)


def trained(run=RUN, task=None, **options):
    training = begun(run, task, **options)
    for _ in training.train():
        pass
    return training


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_gives_the_same_bytes_twice_and_leaves_the_global_generator():
    ends = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        before = torch.random.get_rng_state()
        training = begun()
        moments = list(training.train())
        assert torch.equal(before, torch.random.get_rng_state())
        assert not training.model.training
        ends.append(training.model)
    assert same(*ends)
    assert [(m.step, m.steps, m.epoch) for m in moments[:5]] == [
        (1, 12, 1), (2, 12, 1), (3, 12, 1), (4, 12, 1), (5, 12, 2)
    ]  # fmt: skip
    assert len(moments) == training.steps == training.done == 12
    assert len(training.losses) == 3
    assert training.losses[-1] < training.losses[0]


def test_a_plain_run_is_a_plain_loop():
    """AdamW, warm-up and cosine, clipping: written again, with PyTorch alone."""
    task = PointsTask()
    model = task.build(dropout=0.0)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.05,
    )
    # The first step of 12 warms up, the others are half a cosine.
    shares = [1.0, *(0.5 * (1 + np.cos(np.pi * step / 11)) for step in range(11))]
    step = 0
    for epoch in range(3):
        order = torch.Generator().manual_seed(_seed(5, _ORDER, epoch))
        for points, labels in task.batches(batch_size=16, augmentation=0.0, generator=order):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * shares[step]
            optimizer.zero_grad()
            F.cross_entropy(model(points), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
    ours = trained(PLAIN).model
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, msg=name)


def test_what_the_test_above_takes_for_the_schedule():
    assert [rate(step, 12, warm_up=0.1, schedule="cosine") for step in range(2)] == [1.0, 1.0]


@pytest.mark.parametrize(
    "change",
    [{"seed": 6}, {"lr": 0.02}, {"weight_decay": 0.3}, {"label_smoothing": 0.0}, {"dropout": 0.5},
     {"augmentation": 0.0}, {"batch_size": 8}, {"epochs": 2}, {"warm_up": 6},
     {"schedule": "linear"}, {"clip": 0.01}, {"accumulate": 2}, {"layer_decay": 0.5},
     {"sam": 0.1}],
)  # fmt: skip
def test_every_hyper_parameter_matters(change):
    assert not same(trained().model, trained(replace(RUN, **change)).model)


def test_batches_of_one_step_count_by_their_examples():
    """50 points in batches of 8, two a step: the same steps as batches of 16, the last of 2."""
    whole = trained(PLAIN).model.state_dict()
    parts = trained(replace(PLAIN, batch_size=8, accumulate=2))
    assert parts.steps == 12
    for name, tensor in parts.model.state_dict().items():
        torch.testing.assert_close(tensor, whole[name], msg=name)


def test_what_is_not_trainable_stays():
    task = PointsTask(frozen=("body",))
    start = task.build()
    end = trained(task=task).model
    assert torch.equal(end.body.weight, start.body.weight)
    assert not torch.equal(end.head.weight, start.head.weight)
    with pytest.raises(BadTask, match="trains no parameter of its model; freeze less"):
        begun(task=PointsTask(frozen=("body", "head")))


def test_something_to_train_on_is_needed():
    task = PointsTask()
    del task.splits["train"]
    with pytest.raises(BadTask, match="no split with the role train; add one"):
        begun(task=task)


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_run_that_is_put_down_after_any_step_makes_the_same_bytes(stop):
    run = replace(RUN, sam=0.05, accumulate=1)
    options = {"ema": (0.9, 0.99), "swa": 0.5}
    whole = trained(run, **options)
    first = begun(run, **options)
    steps = first.train()
    for _ in range(stop):
        next(steps)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = begun(run, **options)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert [moment.step for moment in second.train()] == list(range(stop + 1, 13))
    assert same(whole.model, second.model)
    assert second.losses == whole.losses
    for name in whole.averages.names():
        with whole.averages.in_place(name), second.averages.in_place(name):
            assert same(whole.model, second.model), name


def test_the_model_may_be_used_between_steps():
    training = begun()
    for _ in training.train():
        training.model.eval()
        torch.rand(3)
    assert same(training.model, trained().model)


def test_averages_are_those_of_the_weights_after_each_step():
    training = begun(ema=(0.9,), swa=0.25)
    ema = training.model.body.weight.detach().double().clone()
    last = []
    for moment in training.train():
        now = training.model.body.weight.detach().double().clone()
        ema = 0.9 * ema + 0.1 * now
        if moment.step > 9:  # a quarter of 12 steps
            last.append(now)
    end = training.model.body.weight.detach().clone()
    assert training.averages.names() == ["ema-0.9", "swa"]
    with training.averages.in_place("ema-0.9"):
        torch.testing.assert_close(
            training.model.body.weight.detach().double(), ema, rtol=1e-5, atol=1e-6
        )
    with training.averages.in_place("swa"):
        mean = torch.stack(last).mean(0)
        torch.testing.assert_close(
            training.model.body.weight.detach().double(), mean, rtol=1e-5, atol=1e-6
        )
    assert torch.equal(training.model.body.weight, end)


def test_averages_do_not_change_the_run():
    assert same(trained().model, trained(ema=(0.9,), swa=0.5).model)


def test_a_loss_that_is_not_finite_ends_the_run():
    task = PointsTask()
    task.points[:] = float("inf")
    with pytest.raises(Diverged, match=r"loss became nan; lr was 0\.05; lower it in the space"):
        trained(task=task)


def test_a_loss_far_above_that_of_knowing_nothing_ends_the_run():
    """It is finite all the way, as a clipped gradient keeps it."""
    with pytest.raises(Diverged, match=r"rose to .*, where .* have .*; lr was 300; lower it"):
        trained(replace(PLAIN, lr=300.0, epochs=20, warm_up=0.5))


def test_a_run_of_numbers_may_have_losses_of_any_size():
    task = PointsTask()
    task.labels = 300 + 100 * task.points.double().sum(1)
    task.splits = {**task.splits, "train": Split("train", "train", task.labels.numpy(), "train-2")}
    plain = task.build

    def build(*, dropout=None):
        model = plain(dropout=dropout)
        model.head = torch.nn.Linear(8, 1)
        return model

    task.build = build
    training = trained(PLAIN, task)
    assert training.losses[0] > 1000
