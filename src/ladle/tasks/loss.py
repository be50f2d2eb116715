"""What a fine-tuning makes small: it follows from the kind of the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ladle.errors import BadTask


def loss_of(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """The mean loss of logits (B, C): cross-entropy, or for numbers (float) the squared error.

    Labels are (B,), on any device. Label smoothing spreads probability over classes, so it means
    nothing for numbers and is left out there.

    Raises:
        BadTask: if labels are numbers, and logits are not one number each.
    """
    if not labels.is_floating_point():
        return F.cross_entropy(logits, labels.to(logits.device), label_smoothing=label_smoothing)
    if logits.shape != (len(labels), 1):
        raise BadTask(
            f"labels are numbers, but the model gives {list(logits.shape)} for {len(labels)} "
            "examples; regression needs a head with one output"
        )
    return F.mse_loss(logits[:, 0], labels.to(logits.device, logits.dtype))
