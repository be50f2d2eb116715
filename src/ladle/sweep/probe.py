"""The linear probe: the head alone, trained to its optimum before any fine-tuning starts.

Fine-tuning from a fitted head distorts the pre-trained features less than from a random one
(Kumar et al., ICLR 2022), and every run of a sweep starts from the same point.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle.errors import BadTask, LadleError, MissingExtra
from ladle.tasks.base import Trainable
from ladle.tasks.loss import loss_of

_BATCH_SIZE = 64
# Of half the squared norm of the weight beside the mean cross-entropy.
_PENALTY = 1e-3
_MOST_STEPS = 200
# What ridge regression chooses from, in units of the mean square of a principal component.
_PENALTIES = tuple(10.0**power for power in range(-8, 5))


def linear_probe(task: Trainable, model: nn.Module) -> float:
    """Fit the head of `model` in place, all else unchanged; the mean loss reached.

    The inputs of the head are read once, in eval mode and without augmentation. For classes,
    L-BFGS in float64 minimises cross-entropy plus a small L2 penalty, a convex problem. For
    numbers the head is a ridge regression, its penalty chosen by leaving out one example at a
    time: there are often fewer examples than features, and least squares would fit anything.

    Raises:
        BadTask: if the task's head is not a linear layer applied once per example.
    """
    head = model.get_submodule(task.head)
    if not isinstance(head, nn.Linear):
        raise BadTask(
            f"the head {task.head!r} of task {task.name} is a {type(head).__name__}; "
            f"name an nn.Linear"
        )
    features, labels = _features(task, model, head)
    loss = math.nan
    if features.isfinite().all():
        fit = _fit_numbers if labels.is_floating_point() else _fit_classes
        weight, bias = fit(features, labels, head)
        loss = float(loss_of(F.linear(features, weight, bias), labels))
    if not math.isfinite(loss):
        raise LadleError(
            f"the linear probe of task {task.name} did not converge; "
            f"look for huge or non-finite values in its inputs"
        )
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)
    return loss


def _fit_classes(features: Tensor, labels: Tensor, head: nn.Linear) -> tuple[Tensor, Tensor | None]:
    weight = head.weight.detach().cpu().double().requires_grad_()
    bias = None if head.bias is None else head.bias.detach().cpu().double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight] if bias is None else [weight, bias],
        max_iter=_MOST_STEPS,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(F.linear(features, weight, bias), labels)
        loss = loss + _PENALTY / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return weight.detach(), None if bias is None else bias.detach()


def _fit_numbers(features: Tensor, labels: Tensor, head: nn.Linear) -> tuple[Tensor, Tensor | None]:
    try:
        from sklearn.linear_model import RidgeCV
    except ImportError:
        raise MissingExtra("scikit-learn (for a linear probe of numbers)", "metrics") from None
    has_bias = head.bias is not None
    centre = features.mean(0) if has_bias else torch.zeros_like(features[0])
    unit = float((features - centre).square().sum() / features.shape[1]) or 1.0
    # Of penalties that leave equal errors the first is taken: the largest.
    penalties = [unit * factor for factor in reversed(_PENALTIES)]
    fit = RidgeCV(alphas=penalties, fit_intercept=has_bias)
    fit.fit(features.numpy(), labels.double().numpy())
    weight = torch.from_numpy(fit.coef_)[None]
    return weight, torch.tensor([fit.intercept_]) if has_bias else None


def _features(task: Trainable, model: nn.Module, head: nn.Linear) -> tuple[Tensor, Tensor]:
    """What reaches the head for the training split: (N, D) float64, and labels (N,)."""
    caught: list[Tensor] = []
    labels: list[Tensor] = []

    def catch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        caught.append(inputs[0].detach().cpu().double())

    handle = head.register_forward_pre_hook(catch)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for inputs, answers in task.batches(
                batch_size=_BATCH_SIZE, augmentation=0.0, generator=generator
            ):
                task.logits(model, inputs)
                labels.append(answers)
    finally:
        handle.remove()
        model.train(was_training)
    shapes = [tuple(features.shape) for features in caught]
    if shapes != [(len(answers), head.in_features) for answers in labels]:
        raise BadTask(
            f"the head {task.head!r} of task {task.name} is not applied once per example; "
            f"name the final linear layer"
        )
    return torch.cat(caught), torch.cat(labels)
