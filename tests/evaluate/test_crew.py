"""Learned soups by several models: the numbers of one, whoever computed what."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ladle
from digits import Digits, make_runs
from ladle.errors import BadInput, Diverged
from ladle.evaluate import Evaluator
from ladle.soup import Soup


class Wrinkled(Digits):
    """Lays its model out anew when it first learns, as tasks of images do.

    A convolution, for its last bits depend on that.
    """

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Flatten(),
            nn.Linear(1024, 10),
        ).eval()

    def logits(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            model.to(memory_format=torch.channels_last)
        return super().logits(model, inputs)


class Half(Digits):
    """In bfloat16, where every sum of two slopes is rounded."""

    def build(self) -> nn.Module:
        return super().build().bfloat16()

    def logits(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return super().logits(model, inputs.bfloat16())

    def predict(self, model: nn.Module, split: str, **given: Any) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(self.images[split]).bfloat16()).float().numpy()


class Hands:
    """A crew of models in this process; work and results travel as between machines."""

    def __init__(self, task: type[Digits], workers: int, order: int = 0, **given: Any) -> None:
        self.evaluators = [Evaluator(task(), **given) for _ in range(workers)]
        self._draw = np.random.default_rng(order)
        self.done: list[int] = []

    def share(self, value: Any) -> Callable[[], Any]:
        return Shared(value)

    def each(self, work: Callable[[Evaluator, Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        def do(item: Any) -> Any:
            who = int(self._draw.integers(len(self.evaluators)))
            self.done.append(who)
            return pickle.loads(pickle.dumps(work(self.evaluators[who], item)))  # noqa: S301

        # All at once, in any order.
        items = list(items)
        results = {i: do(items[i]) for i in self._draw.permutation(len(items))}
        return iter([results[i] for i in range(len(items))])


class Shared:
    """The value, where a pickle would be another one each time."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return self.value


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def wrinkled(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("wrinkled")
    start = Wrinkled().build().state_dict()
    for i in range(4):
        draw = torch.Generator().manual_seed(i)
        noise = {n: torch.randn(v.shape, generator=draw) for n, v in start.items()}
        torch.save({n: v + 0.05 * noise[n] for n, v in start.items()}, folder / f"{i}.pt")
    return sorted(folder.iterdir())


def said(soup: Soup) -> list[Any]:
    return [soup.merge.record(), soup.tastings, dict(soup.options), soup.caveats]


WAYS: list[dict[str, Any]] = [
    {},
    {"by_layer": True, "epochs": 2},
    {"affine": True, "ingredients_per_step": 2, "examples_per_step": 50, "epochs": 2},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_crew_learns_what_one_learns(runs: list[Path], workers: int, way: dict[str, Any]) -> None:
    alone = ladle.learned(ladle.open(runs), Evaluator(Digits()), **way)
    hands = Hands(Digits, workers)
    together = ladle.learned(ladle.open(runs), Evaluator(Digits(), crew=hands), **way)
    assert said(together) == said(alone)
    assert set(hands.done) == set(range(workers))


@pytest.mark.parametrize("task", [Wrinkled, Half])
def test_nor_does_the_task_give_it_away(
    runs: list[Path], wrinkled: list[Path], task: type[Digits]
) -> None:
    pool = ladle.open(wrinkled if task is Wrinkled else runs)
    alone = ladle.learned(pool, Evaluator(task()), by_layer=True, epochs=2)
    for seed in range(3):
        crew = Hands(task, 3, seed)
        together = ladle.learned(pool, Evaluator(task(), crew=crew), by_layer=True, epochs=2)
        assert said(together) == said(alone)


def test_pieces_are_of_one_size_whatever_the_number_of_workers(runs: list[Path]) -> None:
    pool = ladle.open(runs)
    crew = Evaluator(Digits(), crew=Hands(Digits, 7)).gradients(pool)
    (batch,) = crew.batches([np.arange(128)])
    assert [len(piece) for piece in batch] == [32] * 4
    (alone,) = Evaluator(Digits()).gradients(pool).batches([np.arange(128)])
    assert [len(labels) for _, labels in alone.parts] == [32] * 4
    small = Evaluator(Digits(), batch_size=10, crew=Hands(Digits, 1, batch_size=10))
    (batch,) = small.gradients(pool).batches([np.arange(25)])
    assert [len(piece) for piece in batch] == [9, 8, 8]


def test_what_is_known_of_the_examples_is_the_same(runs: list[Path]) -> None:
    pool = ladle.open(runs)
    alone = Evaluator(Digits()).gradients(pool)
    crew = Evaluator(Digits(), crew=Hands(Digits, 2)).gradients(pool)
    assert (crew.split, crew.identity, crew.tensors) == (
        alone.split,
        alone.identity,
        alone.tensors,
    )
    assert np.array_equal(crew.labels, alone.labels)
    soup = ladle.uniform(pool)
    assert crew.best_factor(soup, np.arange(200)) == alone.best_factor(soup, np.arange(200))
    assert crew.taste(soup, np.arange(200), 1.5) == alone.taste(soup, np.arange(200), 1.5)


@pytest.mark.parametrize("task", [Digits, Wrinkled, Half])
def test_slopes_are_added_up_as_one_model_does_to_the_last_bit(
    runs: list[Path], wrinkled: list[Path], task: type[Digits]
) -> None:
    pool = ladle.open(wrinkled if task is Wrinkled else runs)
    soup, step = ladle.uniform(pool), np.arange(17, 145)
    alone = Evaluator(task()).gradients(pool)
    (batch,) = alone.batches([step])
    expected = alone(soup, batch, 1.3)
    crew = Evaluator(task(), crew=Hands(task, 3)).gradients(pool)
    (pieces,) = crew.batches([step])
    found = crew(soup, pieces, 1.3)
    assert (found.loss, found.factor) == (expected.loss, expected.factor)
    assert found.weights.keys() == expected.weights.keys()
    for name, slope in expected.weights.items():
        assert found.weights[name].tobytes() == slope.tobytes()


def test_a_tasting_does_not_tell_whether_there_was_a_slope_before_it(wrinkled: list[Path]) -> None:
    pool = ladle.open(wrinkled)
    gradients = Evaluator(Wrinkled()).gradients(pool)
    before = gradients.predicted(ladle.uniform(pool), np.arange(300))[0]
    (batch,) = gradients.batches([np.arange(64)])
    gradients(ladle.uniform(pool), batch, 1.0)
    assert torch.equal(gradients.predicted(ladle.uniform(pool), np.arange(300))[0], before)


def test_a_slope_that_is_not_finite_is_told(runs: list[Path]) -> None:
    pool = ladle.open(runs)
    gradients = Evaluator(Digits(), crew=Hands(Digits, 2)).gradients(pool)
    (batch,) = gradients.batches([np.arange(64)])
    with pytest.raises(Diverged, match="the loss on held-out or its gradient"):
        gradients(ladle.uniform(pool), batch, float("inf"))


def test_a_checkpoint_that_a_worker_cannot_read_is_named(runs: list[Path], tmp_path: Path) -> None:
    state = torch.load(runs[0], weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, tmp_path / "gone.pt")
    pool = ladle.open([*runs, tmp_path / "gone.pt"])
    (tmp_path / "gone.pt").unlink()
    with pytest.raises(BadInput, match=rf"cannot read {tmp_path}/gone.pt \(No such file"):
        Evaluator(Digits(), crew=Hands(Digits, 1)).gradients(pool)
