"""What a fine-tuning makes small: it follows from the kind of the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ladle.errors import BadTask


def loss_of(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """The mean loss of logits (B, C): cross-entropy, or for numbers the squared error.

    Labels, on any device, are classes (B,), whole; probabilities of classes (B, C), as mixing
    makes them; or numbers (B,), floating-point. Label smoothing spreads probability over classes,
    so it means nothing for numbers and is left out there.

    Raises:
        BadTask: if labels are numbers, and logits are not one number each; or if they are
            probabilities of another number of classes.
    """
    labels = labels.to(logits.device)
    if not labels.is_floating_point():
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if labels.ndim == 2:
        if logits.shape != labels.shape:
            raise BadTask(
                f"labels are probabilities {list(labels.shape)}, but the model gives "
                f"{list(logits.shape)}; its head needs one output per class"
            )
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if logits.shape != (len(labels), 1):
        raise BadTask(
            f"labels are numbers, but the model gives {list(logits.shape)} for {len(labels)} "
            "examples; regression needs a head with one output"
        )
    return F.mse_loss(logits[:, 0], labels.to(logits.dtype))
