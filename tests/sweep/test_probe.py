"""The linear probe."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ladle.errors import BadTask, LadleError
from ladle.sweep.probe import linear_probe
from toy_task import PointsTask


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
