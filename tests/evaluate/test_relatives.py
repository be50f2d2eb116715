"""What soups of the same models share is loaded once, and nothing that is said changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bowls import Bowl, ingredient
from ladle.evaluate import Evaluator
from ladle.evaluate.relatives import Relatives
from ladle.merge import Linear, mean
from ladle.soup import Ingredient, Pool, Soup


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 4), nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.tanh(self.body(inputs)))
        return found


def family(dtype: Any = torch.float32) -> Pool:
    """Three models with one body and heads of their own."""
    generator = np.random.default_rng(0)
    shared = {"body.weight": generator.normal(size=(4, 5)), "body.bias": generator.normal(size=4)}
    return Pool.of(
        ingredient(
            f"m{i}",
            dtype,
            **shared,
            **{"head.weight": generator.normal(size=(1, 4)), "head.bias": generator.normal(size=1)},
        )
        for i in range(3)
    )


def soup(pool: Pool, *weights: float, divisor: float = 1.0) -> Soup:
    return Soup(pool, Linear(weights, divisor))


def loads(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str] | None]:
    """What every load of a model was limited to."""
    found: list[Sequence[str] | None] = []
    load = Soup.load_into

    def noted(self: Soup, model: Any, *, only: Any = None) -> Any:
        found.append(only)
        return load(self, model, only=only)

    monkeypatch.setattr(Soup, "load_into", noted)
    return found


def test_only_what_differs_is_loaded_again_and_the_logits_are_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = family()
    sharing, plain = (Evaluator(Bowl(lambda: Net().eval())) for _ in range(2))
    sharing.sharing(pool)
    soups = [soup(pool, 0.1 * i, 0.3, 0.7 - 0.1 * i) for i in range(-4, 9)]
    soups += [Soup(pool.subset([1]), mean(1)), Soup(pool, mean(3))]
    expected = [plain.predict(one, "test").logits for one in soups]
    seen = loads(monkeypatch)
    for one, logits in zip(soups, expected, strict=True):
        assert np.array_equal(sharing.predict(one, "test").logits, logits)
    assert seen == [None] + [("head.weight", "head.bias")] * (len(soups) - 1)


@pytest.mark.parametrize(
    "stranger",
    [
        lambda pool: soup(pool, 1.0, 1.0, 1.0),  # Twice as large, what is shared too.
        lambda pool: Soup(pool, Linear((1.0, 0.0, 0.0), 1.0, {"body.bias": (2.0, 0.0, 0.0)})),
        lambda pool: soup(pool, 1e9, -1e9, 1.0),  # Cancels to fewer digits than there are.
        lambda pool: Soup(pool, mean(3), dtype="float16"),
        lambda pool: Soup(Pool.of([*pool, other()]), mean(4)),
    ],
    ids=["sum", "by tensor", "cancelling", "rounded", "another model"],
)
def test_other_soups_are_loaded_in_full_and_so_is_what_comes_after(
    stranger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = family()
    one, last = soup(pool, 0.5, 0.25, 0.25), soup(pool, 0.25, 0.5, 0.25)
    between = stranger(pool)
    evaluator, plain = (Evaluator(Bowl(lambda: Net().eval())) for _ in range(2))
    evaluator.sharing(pool)
    expected = [plain.predict(each, "test").logits for each in (one, between, last)]
    seen = loads(monkeypatch)
    found = [evaluator.predict(each, "test").logits for each in (one, between, last)]
    assert seen == [None, None, None]
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours, theirs)


def other() -> Ingredient:
    generator = np.random.default_rng(9)
    return ingredient(
        "other",
        **{"body.weight": generator.normal(size=(4, 5)), "body.bias": generator.normal(size=4)},
        **{"head.weight": generator.normal(size=(1, 4)), "head.bias": generator.normal(size=1)},
    )


def test_float64_has_no_digits_to_spare() -> None:
    pool = family(torch.float64)
    assert not Relatives.of(pool).include(Soup(pool, mean(3)))


def test_a_load_that_fails_leaves_nothing_to_build_upon(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = family()
    one, last = soup(pool, 0.5, 0.25, 0.25), soup(pool, 0.25, 0.5, 0.25)
    evaluator, plain = (Evaluator(Bowl(lambda: Net().eval())) for _ in range(2))
    evaluator.sharing(pool)
    evaluator.predict(one, "test")
    with monkeypatch.context() as patch:
        patch.setattr(Soup, "stream_into", lambda self, *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluator.predict(last, "test")
    seen = loads(monkeypatch)
    assert np.array_equal(
        evaluator.predict(last, "test").logits, plain.predict(last, "test").logits
    )
    assert seen[0] is None
