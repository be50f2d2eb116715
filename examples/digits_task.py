"""A task of one's own in plain PyTorch: a small network on scikit-learn's handwritten digits.

    ladle cook runs/*.pt --task examples/digits_task.py:task --output soup

Anything with these members is a task; nothing has to be inherited.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from ladle.predictions import Metric, accuracy
from ladle.tasks import Split


class Digits:
    """Ten digits at 8 x 8 pixels; held-out, test, and a shift of noisy images."""

    name = "digits"
    metric: Metric = accuracy
    digest = "digits, version 1"

    def __init__(self) -> None:
        data = load_digits()
        images = (data.data / 16).astype(np.float32)
        order = np.random.default_rng(0).permutation(len(images))
        noise = np.random.default_rng(1).normal(0, 0.4, images.shape).astype(np.float32)
        rows = {
            "train": ("train", order[:600], images),
            "held-out": ("held-out", order[600:1100], images),
            "test": ("test", order[1100:], images),
            "noisy": ("shift", order[1100:], images + noise),
        }
        self.images = {name: pixels[index] for name, (_, index, pixels) in rows.items()}
        self.splits: Mapping[str, Split] = {
            name: Split(
                name,
                role,
                data.target[index].astype(np.int64),
                hashlib.sha256(self.images[name].tobytes()).hexdigest(),
            )
            for name, (role, index, _) in rows.items()
        }

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()

    def predict(
        self,
        model: nn.Module,
        split: str,
        *,
        device: torch.device,
        batch_size: int,
        advance: Callable[[int], None] = lambda finished: None,
    ) -> np.ndarray:
        images = torch.from_numpy(self.images[split])
        logits = []
        with torch.inference_mode():
            for batch in images.split(batch_size):
                logits.append(model(batch.to(device)).float().cpu())
                advance(len(batch))
        return torch.cat(logits).numpy()

    # These two are for `--recipe learned` alone, which needs gradients.

    def labelled(
        self, model: nn.Module, split: str, batches: Sequence[np.ndarray]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        labels = torch.from_numpy(self.splits[split].labels)
        for batch in batches:
            yield torch.from_numpy(self.images[split][batch]), labels[batch]

    def logits(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return model(inputs.to(next(model.parameters()).device))


def task() -> Digits:
    """What `--task examples/digits_task.py:task` calls."""
    return Digits()
