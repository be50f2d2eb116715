"""BatchNorm statistics of soups: estimated as a loop by hand does it, and kept where they help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

import ladle
from digits import Digits
from ladle.cook import Kitchen, cook
from ladle.errors import BadInput
from ladle.evaluate import BatchNormTaster, Evaluator
from ladle.recipes import RECIPES
from ladle.soup import Pool, Soup
from states import same_bits


class NormalisedDigits(Digits):
    """The digits task with a network that has BatchNorm, and with training data."""

    name = "normalised digits"
    digest = "normalised-digits-1"
    head = "9"

    def build(self, *, dropout: float | None = None) -> nn.Module:
        hidden = [
            layer
            for width in (64, 48, 48)
            for layer in (nn.Linear(width, 48), nn.BatchNorm1d(48), nn.ReLU())
        ]
        return nn.Sequential(*hidden, nn.Linear(48, 10)).eval()

    def trainable(self, parameter: str) -> bool:
        return True

    def batches(self, *, batch_size: int, augmentation: float, generator: Any) -> Any:
        images = torch.from_numpy(self.images["train"])
        labels = torch.from_numpy(self.splits["train"].labels)
        for batch in torch.randperm(len(images), generator=generator).split(batch_size):
            yield images[batch], labels[batch]

    def logits(self, model: nn.Module, inputs: Any) -> torch.Tensor:
        return model(inputs)

    def save(self, model: nn.Module, folder: Any) -> None:
        save_file(model.state_dict(), Path(folder) / "model.safetensors")


TASK = NormalisedDigits()


def train(model: nn.Module, *, lr: float, seed: int, epochs: int, frozen: bool = False) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for images, labels in TASK.batches(batch_size=32, augmentation=0, generator=generator):
            model.train(not frozen)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


def sweep(folder: Path, *, frozen: bool = False) -> Pool:
    """Four fine-tunings of one network, far enough apart for their statistics to matter."""
    torch.manual_seed(0)
    base = TASK.build()
    train(base, lr=0.05, seed=0, epochs=2)
    for i in range(4):
        model = TASK.build()
        model.load_state_dict(base.state_dict())
        train(model, lr=0.05 if frozen else 0.3, seed=i + 1, epochs=6, frozen=frozen)
        save_file(model.state_dict(), folder / f"run{i}.safetensors")
    return ladle.open(str(folder / "run*.safetensors"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return sweep(tmp_path_factory.mktemp("sweep"))


def statistics_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t for n, t in model.state_dict().items() if "running_" in n}


def test_statistics_are_those_of_torchs_own_loop(pool: Pool) -> None:
    """`torch.optim.swa_utils.update_bn` over the same batches gives the same numbers."""
    taste = BatchNormTaster(Evaluator(TASK, batch_size=64), "recalibrate", seed=3)
    soup = taste.settled(ladle.uniform(pool))
    assert soup.statistics is not None
    by_hand = ladle.uniform(pool).load_into(TASK.build())
    generator = torch.Generator().manual_seed(3)
    batches = list(TASK.batches(batch_size=64, augmentation=0, generator=generator))
    update_bn([images for images, labels in batches if len(labels) == 64], by_hand)
    found = soup.load_into(TASK.build())
    assert same_bits(statistics_of(found), statistics_of(by_hand))
    others = [name for name in found.state_dict() if "running_" not in name]
    averaged = ladle.uniform(pool).state_dict()
    assert all(torch.equal(found.state_dict()[name], averaged[name]) for name in others)


def score(soup: Soup) -> float:
    return Evaluator(TASK)(soup)


def test_best_takes_what_scores_better_on_held_out(pool: Pool) -> None:
    averaged = ladle.uniform(pool)
    taste = BatchNormTaster(Evaluator(TASK), "best")
    anew = BatchNormTaster(Evaluator(TASK), "recalibrate").settled(averaged)
    assert score(anew) > score(averaged) + 0.02, "this sweep was made for statistics to matter"
    assert taste(averaged) == score(anew)
    assert taste.settled(averaged).digest == anew.digest
    about = taste.describe(averaged)
    assert about is not None
    assert about["statistics"] == "re-estimated"
    assert about["held_out"] == {"averaged": score(averaged), "re-estimated": score(anew)}


def test_average_leaves_them(pool: Pool) -> None:
    soup = BatchNormTaster(Evaluator(TASK), "average").settled(ladle.uniform(pool))
    assert soup.statistics is None
    assert soup.digest == ladle.uniform(pool).digest


@pytest.mark.parametrize("mode", ["recalibrate", "best"])
def test_a_model_alone_keeps_its_own(pool: Pool, mode: Literal["recalibrate", "best"]) -> None:
    alone = ladle.uniform(pool.subset([2]))
    assert BatchNormTaster(Evaluator(TASK), mode).settled(alone).statistics is None


def test_frozen_statistics_stay(tmp_path: Path) -> None:
    """All models agree in them, and were trained to go with them."""
    soup = ladle.uniform(sweep(tmp_path, frozen=True))
    taste = BatchNormTaster(Evaluator(TASK), "recalibrate")
    assert taste.settled(soup).statistics is None
    assert taste.describe(soup) is None


def test_recalibration_without_training_data_is_refused() -> None:
    with pytest.raises(BadInput, match="--bn recalibrate needs training data"):
        BatchNormTaster(Evaluator(Digits()), "recalibrate")


def test_cook_writes_the_statistics_it_judged(pool: Pool, tmp_path: Path) -> None:
    def open_evaluate(store: Any, workspace: Path) -> Evaluator:
        return Evaluator(TASK, store=store)

    out = tmp_path / "soup"
    done = cook(pool, RECIPES["uniform"], open_evaluate, out, Kitchen(bn="best"))
    record = json.loads((out / "soup.json").read_text())
    assert record["batchnorm"]["statistics"] == "re-estimated"
    model = TASK.build()
    model.load_state_dict(load_file(out / "model.safetensors"))
    said = TASK.predict(model, "held-out", device=torch.device("cpu"), batch_size=64)
    labels = TASK.splits["held-out"].labels
    found = float(np.mean(said.argmax(1) == labels))
    assert found == record["batchnorm"]["held_out"]["re-estimated"]
    rows = [row for row in done.evaluations if row["model"] == "uniform soup"]
    assert found in [row["value"] for row in rows if row["role"] == "held-out"]
