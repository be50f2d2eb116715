"""The linear probe and the fine-tuning that starts from it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from ladle.errors import BadTask, LadleError
from ladle.sweep.finetune import _rate, finetune
from ladle.sweep.probe import linear_probe
from ladle.sweep.space import Run
from toy_task import PointsTask

RUN = Run(
    lr=0.05, weight_decay=0.01, epochs=3, label_smoothing=0.1, dropout=None, augmentation=0.5,
    batch_size=16, seed=5,
)  # fmt: skip


def test_the_probe_is_the_optimum_of_the_head_alone():
    task = PointsTask()
    model = task.build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = linear_probe(task, model)
    assert model.training
    assert torch.equal(model.body.weight, before["body.weight"])
    assert not torch.equal(model.head.weight, before["head.weight"])
    model.eval()
    objective = F.cross_entropy(model(task.points), task.labels)
    assert objective.item() == pytest.approx(loss, abs=1e-6)
    # At the optimum of a convex function the gradient is zero.
    (objective + 1e-3 / 2 * model.head.weight.square().sum()).backward()
    assert model.head.weight.grad.abs().max() < 1e-4
    assert model.head.bias.grad.abs().max() < 1e-4


def test_the_probe_needs_a_linear_head():
    task = PointsTask()
    task.head = "dropout"
    with pytest.raises(BadTask, match=r"'dropout' of task points is a Dropout; name an nn\.Linear"):
        linear_probe(task, task.build())


def test_the_probe_refuses_features_that_are_not_finite():
    task = PointsTask()
    task.points[3] = float("nan")
    with pytest.raises(LadleError, match="did not converge"):
        linear_probe(task, task.build())


def test_a_run_gives_the_same_bytes_twice_and_leaves_the_global_generator():
    states, steps = [], []
    for noise in (0, 1):
        torch.manual_seed(noise)
        before = torch.random.get_rng_state()
        model = PointsTask().build()
        losses = finetune(PointsTask(), model, RUN, lambda *step: steps.append(step))
        assert torch.equal(before, torch.random.get_rng_state())
        assert not model.training
        states.append(model.state_dict())
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert steps[:12] == [(done, 12) for done in range(1, 13)]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name


@pytest.mark.parametrize(
    "change",
    [{"seed": 6}, {"lr": 0.02}, {"weight_decay": 0.3}, {"label_smoothing": 0.0},
     {"augmentation": 0.0}, {"batch_size": 8}, {"epochs": 2}],
)  # fmt: skip
def test_every_hyper_parameter_matters(change):
    ends = []
    for run in (RUN, replace(RUN, **change)):
        model = PointsTask().build()
        finetune(PointsTask(), model, run)
        ends.append(model.body.weight)
    assert not torch.equal(*ends)


def test_what_is_not_trainable_stays():
    task = PointsTask(frozen=("body",))
    model, start = task.build(), task.build()
    finetune(task, model, RUN)
    assert torch.equal(model.body.weight, start.body.weight)
    assert not torch.equal(model.head.weight, start.head.weight)


def test_a_loss_that_is_not_finite_ends_the_run():
    task = PointsTask()
    task.points[:] = float("inf")
    model = task.build()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(LadleError, match=r"became nan in epoch 1 with lr = 0\.05; lower lr"):
        finetune(task, model, RUN)


def test_the_rate_rises_for_a_tenth_and_falls_to_zero():
    rates = [_rate(step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
