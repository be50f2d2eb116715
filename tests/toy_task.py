"""A `Trainable` that trains in milliseconds: a two-layer net on points in the plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from ladle.predictions import accuracy
from ladle.sweep import Run
from ladle.tasks.base import Split, no_progress

RUN = Run(
    lr=0.05, weight_decay=0.01, epochs=3, batch_size=16, label_smoothing=0.1, dropout=None,
    augmentation=0.5, mixup=0.0, cutmix=0.0, layer_decay=1.0, warm_up=0.1, schedule="cosine",
    clip=1.0, accumulate=1, sam=0.0, seed=5,
)  # fmt: skip
"""A fine-tuning of `PointsTask`: 12 steps."""


class Net(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Linear(2, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 2)

    def forward(self, points):
        return self.head(self.dropout(torch.tanh(self.body(points))))


class PointsTask:
    name = "points"
    metric = accuracy
    digest = "points-1"
    head = "head"

    def __init__(self, *, scale: float = 1.0, frozen: tuple[str, ...] = ()) -> None:
        self.frozen = frozen
        generator = torch.Generator().manual_seed(0)
        self.points = scale * torch.randn(50, 2, generator=generator)
        self.labels = (self.points.prod(1) > 0).long()
        labels = self.labels.numpy().astype(np.int64)
        self.splits = {
            "train": Split("train", "train", labels, "train-1"),
            "dev": Split("dev", "held-out", labels, "dev-1"),
        }

    def build(self, *, dropout=None):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = Net(0.1 if dropout is None else dropout)
        for parameter in net.head.parameters():
            nn.init.zeros_(parameter)
        return net.eval()

    def trainable(self, parameter):
        return not parameter.startswith(self.frozen) if self.frozen else True

    def batches(self, *, batch_size, augmentation, generator):
        for batch in torch.randperm(50, generator=generator).split(batch_size):
            noise = torch.randn(len(batch), 2, generator=generator)
            yield self.points[batch] + 0.1 * augmentation * noise, self.labels[batch]

    def logits(self, model, inputs):
        return model(inputs)

    def predict(self, model, split, *, device, batch_size, advance=no_progress):
        return model.eval()(self.points).detach().numpy()

    def save(self, model, folder):
        save_file(model.state_dict(), Path(folder) / "model.safetensors")
