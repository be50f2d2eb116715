"""LoRA adapters in a landscape are the models that they make of their base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

import tiny
from bowls import ROLES
from ladle.analysis import Grid, Survey, lay_out, looked_at
from ladle.checkpoint import open_checkpoint
from ladle.errors import BadInput
from ladle.evaluate import Evaluator
from ladle.predictions import METRICS
from ladle.soup import Ingredient, Pool
from ladle.tasks import Split

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about models without a name


class Texts:
    name, digest, metric = "texts", "texts", METRICS["accuracy"]

    def __init__(self) -> None:
        self.splits = {
            name: Split(name, role, np.array([0, 1]), name)  # type: ignore[arg-type]
            for name, role in ROLES.items()
        }

    def build(self) -> Any:
        return tiny.bert(spread=0.5)

    def predict(self, model: Any, split: str, **_: Any) -> Any:
        return model(tiny.IDS).logits.numpy()


def adapter(folder: Path, seed: int) -> Path:
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    model = peft.get_peft_model(tiny.bert(spread=0.5), config)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder / f"run{seed}")
    return folder / f"run{seed}"


def merged(path: Path) -> dict[str, torch.Tensor]:
    """What PEFT makes of an adapter and its base."""
    model = peft.PeftModel.from_pretrained(tiny.bert(spread=0.5).double(), path).double()
    state: dict[str, torch.Tensor] = model.merge_and_unload().state_dict()
    return state


def test_adapters_span_the_plane_of_the_models_that_they_make(tmp_path: Path) -> None:
    tiny.bert(spread=0.5).save_pretrained(tmp_path / "base")
    paths = [adapter(tmp_path, seed) for seed in (1, 2)]
    pool = Pool.of(Ingredient(path.name, open_checkpoint(path)) for path in paths)
    base = Ingredient("base", open_checkpoint(tmp_path / "base"))
    grid = Grid(3, 3)
    with pytest.raises(BadInput, match="an adapter is no model without its base; give it with"):
        lay_out(pool, grid=grid)
    ground = lay_out(pool, base=base, grid=grid)
    task = Texts()
    found = ground.survey(Survey(Evaluator(task), looked_at(task)))

    start = {name: one.double() for name, one in tiny.bert(spread=0.5).state_dict().items()}
    states = [start, *map(merged, paths)]
    moved = [
        torch.cat([(state[name] - start[name]).ravel() for name in start]).numpy()
        for state in states
    ]
    lengths = [np.linalg.norm(change) for change in moved]
    assert found.distances[0] == pytest.approx(lengths, rel=1e-5, abs=1e-5)
    assert found.distances[1, 2] == pytest.approx(np.linalg.norm(moved[1] - moved[2]), rel=1e-5)
    plane = ground.plane
    assert plane is not None
    loss = next(one for one in found.curves if one.group.name == "test")
    for row, b in enumerate(found.b):
        for column, a in enumerate(found.a):
            shares = plane.weights(a, b)
            model = tiny.bert(spread=0.5).double()
            model.load_state_dict(
                {n: sum(w * s[n] for w, s in zip(shares, states, strict=True)) for n in start}
            )
            with torch.no_grad():
                logits = model(tiny.IDS).logits
            expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).item()
            assert loss.values[row, column] == pytest.approx(expected, abs=1e-4)
