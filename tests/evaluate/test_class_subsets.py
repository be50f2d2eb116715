"""Everything after the model works on what is projected to the classes of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ladle.checkpoint import MemoryCheckpoint
from ladle.errors import BadTask
from ladle.evaluate import Evaluator, Store, contestant, ensemble_of, judge
from ladle.predictions import ClassSubset, Metric, accuracy
from ladle.soup import Ingredient, Pool, Soup, uniform_soup
from ladle.tasks import Split

LABELS = np.array([0, 0], np.int64)
CLASSES = ClassSubset(((0, 1), (2,)))


class Constant(nn.Module):
    """Says the same of every example: its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.said = nn.Parameter(torch.zeros(3))


@dataclass
class Spoken:
    """A task whose test split has two classes, made of the model's three columns."""

    classes: ClassSubset | None = CLASSES
    name: str = "spoken"
    metric: Metric = accuracy
    digest: str = "spoken-1"
    passes: list[str] = field(default_factory=list)

    @property
    def splits(self) -> Mapping[str, Split]:
        return {
            "held-out": Split("held-out", "held-out", LABELS, "h"),
            "test": Split("test", "test", LABELS, "t", classes=self.classes),
        }

    def build(self) -> nn.Module:
        return Constant()

    def predict(self, model: Any, split: str, **_: Any) -> np.ndarray:
        self.passes.append(split)
        return model.said.detach().numpy()[None].repeat(2, axis=0)


def soups(*said: list[float]) -> list[Soup]:
    pool = Pool.of(
        Ingredient(f"run{i}", MemoryCheckpoint(Path(f"run{i}"), {"said": torch.tensor(values)}))
        for i, values in enumerate(said)
    )
    return [uniform_soup(Pool.of([one])) for one in pool]


def test_an_ensemble_averages_what_is_projected() -> None:
    """The mean of the maxima, 4 to 3, is right; the maximum of the means, 2 to 3, were wrong."""
    evaluator = Evaluator(Spoken())
    members = soups([4.0, 0.0, 3.0], [0.0, 4.0, 3.0])
    together = ensemble_of("both", members, evaluator)
    assert together.predict("test").logits.tolist() == [[4, 3], [4, 3]]
    assert together.predict("held-out").logits.tolist() == [[2, 2, 3], [2, 2, 3]]
    alone = contestant("one", "single", members[0], evaluator)
    rows = judge(evaluator.task, [together, alone], splits=[evaluator.task.splits["test"]])
    assert [row["value"] for row in rows] == [1.0, 1.0]


def test_the_store_keeps_what_is_projected_and_knows_the_classes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    (one,) = soups([4.0, 0.0, 3.0])
    task = Spoken()
    evaluator = Evaluator(task, store=store)
    found = [evaluator.predict(one, "test").logits.tolist() for _ in range(2)]
    assert found == [[[4, 3]] * 2] * 2
    assert task.passes == ["test"]
    for classes, expected in ((ClassSubset(((2,), (0,))), [3, 4]), (None, [4, 0, 3])):
        other = replace(task, classes=classes)
        assert Evaluator(other, store=store).predict(one, "test").logits.tolist() == [expected] * 2
    store.close()
    kept = [np.load(file).shape for file in (tmp_path / "store.predictions").glob("*.npy")]
    assert sorted(kept) == [(2, 2), (2, 2), (2, 3)]


def test_the_record_says_how_many_classes_a_split_has() -> None:
    splits = Evaluator(Spoken()).describe()["splits"]
    assert splits["test"] == {"role": "test", "n": 2, "digest": "t", "classes": 2}
    assert "classes" not in splits["held-out"]


@pytest.mark.parametrize("width", [1, 2])
def test_a_model_without_the_columns_is_refused(width: int) -> None:
    class Narrow(Spoken):
        predict: Callable[..., Any] = lambda *_, **__: np.zeros((2, width), np.float32)

    (one,) = soups([0.0, 0.0, 0.0])
    with pytest.raises(BadTask, match=f"logits of {width} columns, and the classes of 'test'"):
        Evaluator(Narrow()).predict(one, "test")
