from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ladle
from digits import Digits, make_runs
from ladle.errors import BadInput
from ladle.evaluate import Evaluator, Store
from ladle.predictions import METRICS, EnsembleScores, Predictions, accuracy, ensemble
from ladle.recipes import RECIPES
from ladle.soup import Soup
from toys import near, toy_pool


class Guessed:
    """Scores soups of numbers by how near their mean is to 0, and ensembles by a table."""

    def __init__(self, guesses: Callable[[Sequence[str]], float], target: float = 0.0) -> None:
        self.guesses = guesses
        self.score = near(target)
        self.measured: list[tuple[str, ...]] = []

    def __call__(self, soup: Soup) -> float:
        self.measured.append(soup.members)
        return self.score(soup)

    def ensembles_of(self, members: Sequence[Soup]) -> Callable[[Sequence[int]], float]:
        return lambda chosen: self.guesses(sorted(members[i].members[0] for i in chosen))


def test_the_first_soup_is_the_best_ensemble_and_then_come_its_neighbours() -> None:
    # Alone -2, -3, -4, -5: run0 is first. As ensembles, 0 with 2 is best, then with 3 as well.
    table = {"0": 1, "02": 3, "023": 4, "0123": 2, "03": 2, "23": 1, "01": 0}

    def guess(names: Sequence[str]) -> float:
        return table.get("".join(name[-1] for name in names), 0)

    evaluate = Guessed(guess)
    soup = ladle.screened(toy_pool(2.0, 3.0, -4.0, 5.0), evaluate, budget=7)
    assert evaluate.measured[4:] == [
        ("run0", "run2", "run3"),  # 1: better than 2, kept
        ("run0", "run2"),  # -1: as good, and kept
        ("run0", "run1", "run2"),  # 1/3, the neighbour that no guess speaks for: the first of rest
    ]
    assert soup.members == ("run0", "run1", "run2")
    assert [one.candidate for one in soup.tastings[4:]] == ["+ run2 + run3", "- run3", "+ run1"]
    assert soup.options == {"budget": 7, "strict": False}
    strict = ladle.screened(toy_pool(2.0, 3.0, -4.0, 5.0), Guessed(guess), budget=6, strict=True)
    assert strict.members == ("run0", "run2", "run3")


@given(
    st.lists(st.floats(-9, 9), min_size=1, max_size=6),
    st.integers(0, 12),
    st.randoms(use_true_random=False),
)
def test_it_keeps_to_its_budget_and_is_never_worse_than_the_best_alone(
    values: list[float], more: int, random: Any
) -> None:
    pool = toy_pool(*values)
    guesses = {
        some: random.choice([random.random(), float("nan")])
        for size in range(1, len(values) + 1)
        for some in combinations(sorted(one.name for one in pool), size)
    }
    evaluate = Guessed(lambda names: guesses[tuple(names)])
    soup = ladle.screened(pool, evaluate, budget=len(values) + more)
    assert len(evaluate.measured) <= len(values) + more
    assert len(set(evaluate.measured)) == len(evaluate.measured)
    score = near(0.0)
    assert score(soup) >= max(score(ladle.uniform(pool.subset([i]))) for i in range(len(pool)))


def test_the_budget_is_a_quarter_more_than_the_ingredients_unless_given() -> None:
    evaluate = Guessed(len)
    ladle.screened(toy_pool(1.0, 2.0, -1.0, 4.0, 5.0), evaluate)
    assert len(evaluate.measured) == 5 + 2


def test_a_budget_that_does_not_suffice_is_an_error() -> None:
    with pytest.raises(BadInput, match=r"--budget 2 does not suffice to measure the 3 checkpoints"):
        ladle.screened(toy_pool(1.0, 2.0, 3.0), Guessed(len), budget=2)


def test_scores_alone_do_not_do() -> None:
    measured: list[Soup] = []

    def evaluate(soup: Soup) -> float:
        measured.append(soup)
        return 0.0

    with pytest.raises(BadInput, match="looks at predictions, and the evaluation gives scores"):
        ladle.screened(toy_pool(1.0, 2.0), evaluate)
    assert measured == []


def test_ensembles_are_scored_as_they_are_made() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 60)
    members = [
        Predictions("dev", generator.normal(size=(60, 4)).astype(np.float32), labels)
        for _ in range(5)
    ]
    nll = METRICS["nll"]
    found = EnsembleScores(lambda: members, nll)
    # One after the other, from scratch, and the last one alone changed.
    for chosen in [[0], [0, 1], [0, 2], [0, 2, 3], [4, 1, 0], [4, 1, 2], [3], [4, 1, 2, 3]]:
        expected = nll(ensemble([members[i] for i in chosen]))
        assert found(chosen) == pytest.approx(expected, rel=1e-6)


def test_on_real_models_it_runs_each_of_them_once_and_few_soups(tmp_path: Any) -> None:
    passes: list[str] = []

    class Watched(Digits):
        def predict(self, model: Any, split: str, **options: Any) -> Any:
            passes.append(split)
            return super().predict(model, split, **options)

    pool = ladle.open(make_runs(tmp_path, 5))
    evaluate = Evaluator(Watched(), store=Store(None))
    soup = RECIPES["screened"](pool, evaluate, budget=8)
    assert len(passes) == 8
    singles = [evaluate(ladle.uniform(pool.subset([i]))) for i in range(5)]
    assert evaluate(soup) >= max(singles)
    said = [evaluate.predict(ladle.uniform(pool.subset([i])), "held-out") for i in (3, 1)]
    pair = evaluate.ensembles_of([ladle.uniform(pool.subset([i])) for i in (3, 1)])([0, 1])
    assert pair == accuracy(ensemble(said))
