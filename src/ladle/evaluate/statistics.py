"""BatchNorm statistics of a model, estimated on training data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ladle.tasks import Trainable

if TYPE_CHECKING:
    from torch import Tensor, nn

EXAMPLES = 5_000
"""Training examples that statistics are estimated on: more change nothing that can be measured."""

STATISTICS = ("running_mean", "running_var")


def estimated(
    task: Trainable, model: nn.Module, *, batch_size: int, seed: int
) -> dict[str, Tensor]:
    """The statistics of all layers by their names in the model, float32 on the CPU.

    The model is in eval mode, and is left with them. Layers through which no example goes keep what
    they have.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    done = 0
    with torch.no_grad(), _measuring(model):
        for inputs, labels in task.batches(
            batch_size=batch_size, augmentation=0.0, generator=generator
        ):
            # Batches count alike, so a small rest at the end would count too much.
            if done and len(labels) < batch_size:
                break
            task.logits(model, inputs)
            done += len(labels)
            if done >= EXAMPLES:
                break
    return {
        name: tensor.detach().float().cpu().clone()
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[2] in STATISTICS
    }


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """While this lasts, BatchNorm layers forget what they know and average over what they see.

    Whatever mode the model is put in meanwhile: every layer is in training mode for its own
    forward pass, so that it normalises by the batch, and no other layer is.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [[value.clone() for value in _running(layer)] for layer in layers]
    momenta = [layer.momentum for layer in layers]
    hooks = []
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # A plain mean over the batches.
        hooks.append(layer.register_forward_pre_hook(_to_training))
        hooks.append(layer.register_forward_hook(_to_evaluation))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum, values in zip(layers, momenta, before, strict=True):
            layer.momentum = momentum
            if not layer.num_batches_tracked:
                for statistic, value in zip(_running(layer), values, strict=True):
                    statistic.copy_(value)


def _to_training(layer: nn.Module, inputs: object) -> None:
    layer.train()


def _to_evaluation(layer: nn.Module, inputs: object, outputs: object) -> None:
    layer.eval()


def _running(layer: nn.Module) -> list[Tensor]:
    return [layer.get_buffer(name) for name in STATISTICS]
