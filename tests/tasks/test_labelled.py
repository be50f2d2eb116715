"""Labelled batches of any split: what a model says of them is what it says in `predict`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ladle.tasks import Differentiable, demo_text
from ladle.tasks.text import TextClassification
from ladle.tasks.vision import ImageClassification

CPU = torch.device("cpu")
BATCHES = [np.array([4, 0, 3]), np.array([1]), np.array([5, 2])]
TEXTS = [
    "a joy",
    "warm, funny and wise from first to last",
    "good",
    "a bore",
    "dull",
    "awful acting",
]
LABELS = [1, 1, 1, 0, 0, 0]


def texts(freeze: int) -> TextClassification:
    splits: Any = {
        "train": ("train", TEXTS, LABELS),
        "dev": ("held-out", TEXTS[::-1], LABELS[::-1]),
    }
    folder = demo_text._model_folder()
    return TextClassification("reviews", folder, splits, label_names=("no", "yes"), freeze=freeze)


def images(freeze: int) -> ImageClassification:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 12), dtype=np.uint8)
    labels = np.arange(12) % 3
    splits: Any = {
        "train": ("train", pixels[:6], labels[:6]),
        "dev": ("held-out", pixels[6:], labels[6:]),
    }
    frozen = ["conv_stem"] if freeze else []
    return ImageClassification(
        "tiny", "timm:test_efficientnet", splits, label_names=["a", "b", "c"], image_size=32,
        frozen=frozen,
    )  # fmt: skip


def with_a_head(task: Any) -> nn.Module:
    model: nn.Module = task.build()
    torch.nn.init.normal_(
        model.get_submodule(task.head).weight, generator=torch.Generator().manual_seed(1)
    )
    return model


def said(task: Any, model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of all examples of BATCHES."""
    rows, labels = [], []
    for inputs, truth in task.labelled(model, "dev", BATCHES):
        rows.append(task.logits(model, inputs))
        labels.append(truth)
    return torch.cat(rows), torch.cat(labels).numpy()


@pytest.mark.parametrize("kind", [texts, images])
@pytest.mark.parametrize("freeze", [0, 5])
def test_any_examples_in_any_order_get_the_logits_of_predict(kind: Any, freeze: int) -> None:
    task = kind(freeze)
    assert isinstance(task, Differentiable)
    model = with_a_head(task)
    order = np.concatenate(BATCHES)
    whole = task.predict(model, "dev", device=CPU, batch_size=6)
    for asked in (True, False):
        with torch.set_grad_enabled(asked):
            logits, labels = said(task, model)
        np.testing.assert_allclose(logits.detach().numpy(), whole[order], atol=1e-4)
        assert np.array_equal(labels, task.splits["dev"].labels[order])
    assert np.ptp(whole) > 0.01


@pytest.mark.parametrize("lowest", ["bert.embeddings.LayerNorm.weight", "bert.encoder.layer.4"])
def test_gradients_reach_frozen_layers_that_ask_for_them(lowest: str) -> None:
    """What these layers say of a text is in memory, and nothing flows through that."""
    task, model = texts(5), with_a_head(texts(0))
    asked = {name: one for name, one in model.named_parameters() if name.startswith(lowest)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in asked)
    said(task, model)[0].square().sum().backward()
    assert asked
    assert all(one.grad is not None and one.grad.any() for one in asked.values())


def test_gradients_that_go_no_further_down_take_what_is_in_memory() -> None:
    """Seen by the inputs: hidden states, not the numbers of tokens."""
    task = texts(5)
    model = with_a_head(task)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(task.trainable(name))
    inputs, _ = next(task.labelled(model, "dev", BATCHES))
    assert "inputs_embeds" in inputs
    said(task, model)[0].square().sum().backward()
    whole = with_a_head(texts(0))
    said(texts(0), whole)[0].square().sum().backward()
    name = "bert.encoder.layer.5.attention.self.key.weight"
    ours, theirs = model.get_parameter(name).grad, whole.get_parameter(name).grad
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
