"""One fine-tuning: AdamW, a warm-up, a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from ladle.errors import BadTask, Diverged
from ladle.sweep.space import Run
from ladle.tasks.base import Trainable
from ladle.tasks.loss import loss_of

_WARM_UP = 0.1
_GRADIENT_NORM = 1.0


def finetune(
    task: Trainable,
    model: nn.Module,
    run: Run,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """Train `model` in place, on the device it is on; the mean training loss of each epoch.

    The learning rate rises over the first 10 % of the steps and falls to 0 along a cosine;
    gradients are clipped at norm 1; tensors of one dimension (biases, norms) do not decay. All
    that is random comes from the run's seed, so one machine gives the same bytes twice.
    `on_step` hears (steps done, steps in all). The model is left in eval mode.

    Raises:
        Diverged: when the loss stops being finite.
    """
    examples = next((len(s) for s in task.splits.values() if s.role == "train"), 0)
    if not examples:
        raise BadTask(f"task {task.name} has no split with the role train; add one")
    total = run.epochs * math.ceil(examples / run.batch_size)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(task.trainable(name))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": run.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=run.lr,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total))
    losses = []
    done = 0
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(run.seed)
        generator = torch.Generator().manual_seed(run.seed)
        model.train()
        for epoch in range(run.epochs):
            sum_of_losses = 0.0
            for inputs, labels in task.batches(
                batch_size=run.batch_size, augmentation=run.augmentation, generator=generator
            ):
                loss = loss_of(
                    task.logits(model, inputs), labels, label_smoothing=run.label_smoothing
                )
                value = loss.item()
                if not math.isfinite(value):
                    raise Diverged(
                        f"the training loss became {value} in epoch {epoch + 1} with "
                        f"lr = {run.lr:g}; lower lr in the space"
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(trained, _GRADIENT_NORM)
                optimizer.step()
                schedule.step()
                sum_of_losses += value * len(labels)
                done += 1
                on_step(done, max(total, done))
            losses.append(sum_of_losses / examples)
    model.eval()
    return losses


def _rate(step: int, total: int) -> float:
    """The share of the peak learning rate at a step, counted from 0."""
    warm_up = max(1, round(_WARM_UP * total))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, total - warm_up))))
