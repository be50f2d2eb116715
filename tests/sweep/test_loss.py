"""The loss follows from the labels; the probe of numbers is ridge regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV

from ladle.errors import BadTask
from ladle.sweep.probe import _PENALTIES, linear_probe
from ladle.tasks.base import Split
from ladle.tasks.loss import loss_of
from toy_task import Net, PointsTask


class HeightsTask(PointsTask):
    """The same points, with a number each, of the size of house prices in thousands."""

    width = 8

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.bias = bias
        self.labels = 300 + 100 * self.points.double().sum(1)
        self.splits = {"train": Split("train", "train", self.labels.numpy(), "train-2")}

    def build(self, *, dropout=None):
        net: Net = super().build(dropout=dropout)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net.body = torch.nn.Linear(2, self.width)
        net.head = torch.nn.Linear(self.width, 1, bias=self.bias)
        for parameter in net.head.parameters():
            torch.nn.init.zeros_(parameter)
        return net.eval()


def test_classes_have_the_cross_entropy():
    logits, labels = torch.tensor([[0.0, 2.0], [0.0, -1.0]]), torch.tensor([1, 1])
    by_hand = np.mean([np.log1p(np.exp(-2)), np.log1p(np.exp(1))])
    assert loss_of(logits, labels).item() == pytest.approx(by_hand)
    # Smoothing gives half of 0.2 to the class that is not the label.
    other = np.mean([np.log1p(np.exp(2)), np.log1p(np.exp(-1))])
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


@pytest.mark.parametrize("bias", [True, False])
def test_the_probe_of_numbers_is_the_ridge_regression_of_scikit_learn(bias: bool):
    task = HeightsTask(bias)
    model = task.build()
    loss = linear_probe(task, model)
    with torch.no_grad():
        features = torch.tanh(model.body(task.points)).double()
    centred = features - features.mean(0) if bias else features
    unit = centred.square().sum(0).mean().item()
    ridge = RidgeCV(unit * np.array(_PENALTIES), fit_intercept=bias).fit(features, task.labels)
    np.testing.assert_allclose(model.head.weight[0].detach(), ridge.coef_, rtol=1e-4)
    if bias:
        assert model.head.bias.item() == pytest.approx(ridge.intercept_, rel=1e-4)
    errors = ridge.predict(features) - task.labels.numpy()
    assert loss == pytest.approx(np.mean(errors**2), rel=1e-4)


def test_the_probe_does_not_fit_what_is_only_noise():
    """With as many features as examples, least squares would have no error at all."""
    task = HeightsTask()
    generator = torch.Generator().manual_seed(0)
    task.labels = torch.randn(50, generator=generator, dtype=torch.float64)
    task.width = 60
    loss = linear_probe(task, task.build())
    assert loss > 0.5 * task.labels.var()
