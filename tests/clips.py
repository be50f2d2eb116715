"""A small CLIP of open_clip with random weights, trained checkpoints of it, and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import nn

CLASSES = ("cat", "dog", "traffic light")
SIZE = 32
VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 12, "width": 16, "heads": 2, "layers": 1},
}
RESNET = {
    **VIT,
    "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
}
TEMPLATES = ("a photo of a {}.", "a drawing of the {}.")


def build(config: dict[str, Any] = VIT, seed: int = 0) -> nn.Module:
    """Not so random that all images look alike to it."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3 if "embedding" in name else parameter.shape[-1] ** -0.5)
    return model.eval()


def tuned(base: nn.Module, seed: int, config: dict[str, Any] = VIT) -> nn.Module:
    """As after a fine-tuning of both towers."""
    model = build(config)
    model.load_state_dict(base.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model


def save_as_training(models: list[nn.Module], run: Path) -> Path:
    """The checkpoints of `open_clip_train`, under DistributedDataParallel."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True)
    (run / "params.txt").write_text("lr: 1e-05\nmodel: small\n")
    for epoch, model in enumerate(models, 1):
        state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        content = {"epoch": epoch, "name": "run", "state_dict": state, "optimizer": {"state": {}}}
        torch.save(content, folder / f"epoch_{epoch}.pt")
    return run


class Official(nn.Module):
    """The classifier of the model soups paper's code, whose state dicts its files hold."""

    def __init__(self, clip: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.model = clip
        del self.model.transformer
        generator = torch.Generator().manual_seed(seed)
        self.classification_head = nn.Linear(16, len(CLASSES))
        with torch.no_grad():
            self.classification_head.weight.normal_(generator=generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.model.encode_image(images)
        return self.classification_head(features / features.norm(dim=-1, keepdim=True))


def draw_pictures(folder: Path, splits: tuple[str, ...], each: int = 8, size: int = SIZE) -> None:
    """Trees of CLASS/IMAGE; each class has a colour, and no picture is there twice."""
    generator = np.random.default_rng(0)
    for split in splits:
        for number, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i in range(each):
                pixels = generator.integers(0, 120, (size, size, 3), dtype=np.uint8)
                pixels[..., number] += 100
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def write_task(folder: Path, *lines: str, config: dict[str, Any] = VIT) -> Path:
    """`task.toml` on pictures, with the configuration of the model beside it."""
    if not (folder / "valid").exists():
        draw_pictures(folder, ("train", "valid", "test"))
    (folder / "clip.json").write_text(json.dumps(config))
    text = "\n".join(
        [
            'kind = "image"',
            'model = "open_clip:clip.json"',
            *lines,
            "[splits]",
            *(f'{role} = "{name}"' for role, name in
              (("train", "train"), ("held-out", "valid"), ("test", "test"))),
            "[space]",
            "lr = 1e-3",
            "epochs = 2",
            "batch_size = 8",
            "augmentation = 0.0",
        ]
    )  # fmt: skip
    (folder / "task.toml").write_text(text)
    return folder / "task.toml"
