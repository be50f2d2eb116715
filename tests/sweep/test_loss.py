"""The loss follows from the labels; the probe of numbers is ridge regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ladle.errors import BadTask
from ladle.sweep.loss import loss_of
from ladle.sweep.probe import linear_probe
from ladle.tasks.base import Split
from toy_task import Net, PointsTask


class HeightsTask(PointsTask):
    """The same points, with a number each, of the size of house prices in thousands."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = 300 + 100 * self.points.double().sum(1)
        self.splits = {"train": Split("train", "train", self.labels.numpy(), "train-2")}

    def build(self, *, dropout=None):
        net: Net = super().build(dropout=dropout)
        net.head = torch.nn.Linear(8, 1)
        for parameter in net.head.parameters():
            torch.nn.init.zeros_(parameter)
        return net.eval()


def test_classes_have_the_cross_entropy():
    logits, labels = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([1, 1])
    by_hand = np.mean([np.log1p(np.exp(-2)), np.log1p(np.exp(2))])
    assert loss_of(logits, labels).item() == pytest.approx(by_hand)
    # Smoothing gives half of 0.2 to the class that is not the label.
    other = np.mean([2 + np.log1p(np.exp(-2)), np.log1p(np.exp(-2))])
    smoothed = 0.9 * by_hand + 0.1 * other
    assert loss_of(logits, labels, label_smoothing=0.2).item() == pytest.approx(smoothed)


def test_numbers_have_the_squared_error_in_the_dtype_of_the_model():
    logits = torch.tensor([[1.0], [2.0]], requires_grad=True)
    loss = loss_of(logits, torch.tensor([3.0, 2.5], dtype=torch.float64), label_smoothing=0.2)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((4 + 0.25) / 2)
    loss.backward()
    assert logits.grad.tolist() == [[-2.0], [-0.5]]


def test_numbers_need_one_output():
    with pytest.raises(BadTask, match=r"gives \[3, 2\] for 3 examples; regression needs a head"):
        loss_of(torch.zeros(3, 2), torch.zeros(3))


def test_the_probe_of_numbers_is_ridge_regression():
    task = HeightsTask()
    model = task.build()
    loss = linear_probe(task, model)
    with torch.no_grad():
        features = torch.tanh(model.body(task.points)).double()
    # Minimise mean (Xw + b - y)^2 + 1e-3 / 2 |w|^2: solve with the centred columns.
    centred, labels = features - features.mean(0), task.labels - task.labels.mean()
    gram = centred.T @ centred / 50 + 1e-3 / 2 * torch.eye(8, dtype=torch.float64)
    weight = torch.linalg.solve(gram, centred.T @ labels / 50)
    torch.testing.assert_close(model.head.weight[0].double(), weight, rtol=1e-3, atol=1e-2)
    assert loss == pytest.approx(((centred @ weight - labels) ** 2).mean().item(), rel=1e-3)
