"""A learned soup is on held-out no worse than the best single, whatever its loss says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ladle
from digits import Digits, make_runs
from ladle.errors import BadScore
from ladle.evaluate import Evaluator
from ladle.soup import Pool, Soup
from score_tables import table
from toys import near, toy_pool


@dataclass
class Slope:
    loss: float
    factor: float
    weights: dict[str, np.ndarray]


class TowardsANumber:
    """Scores as they come, and the squared distance of a soup's number from another as the loss."""

    split, identity, workspace, tensors = "held-out", "", None, {"w": "w"}
    labels = np.arange(50.0)

    def __init__(self, score: Callable[[Soup], float], target: float) -> None:
        self._score = score
        self._target = target

    def gradients(self, pool: Pool, *, integers: str = "equal") -> TowardsANumber:
        return self

    def batches(self, steps: list[Any]) -> Iterator[int]:
        yield from map(len, steps)

    def best_factor(self, soup: Soup, examples: Any) -> float:
        return 1.0

    def taste(self, soup: Soup, examples: Any, factor: float) -> tuple[float, float]:
        distance = float(soup.state_dict()["w"]) - self._target
        return distance**2, -abs(distance)

    def __call__(self, soup: Soup, *step: Any) -> Any:
        if not step:
            return self._score(soup)
        distance = float(soup.state_dict()["w"]) - self._target
        return Slope(distance**2, 0.0, {"w": np.array([2 * distance], np.float32)})


def singles(pool: Pool) -> list[Soup]:
    return [ladle.uniform(pool.subset([i])) for i in range(len(pool))]


@pytest.mark.slow
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 5),
    affine=st.booleans(),
    start=st.sampled_from(["uniform", "greedy"]),
    nan=st.sampled_from([0.0, 0.4]),
)
def test_on_any_table_of_scores_it_is_no_worse_than_the_best_single(
    seed: int, n: int, affine: bool, start: Any, nan: float
) -> None:
    pool, score = toy_pool(*map(float, range(n))), table(seed, nan=nan)
    evaluate = TowardsANumber(score, 0.7)
    known = [score(one) for one in singles(pool) if not math.isnan(score(one))]
    if not known:
        with pytest.raises(BadScore, match="none of the"):
            ladle.learned(pool, evaluate, affine=affine, start=start, epochs=2)
        return
    soup = ladle.learned(pool, evaluate, affine=affine, start=start, epochs=2, examples_per_step=10)
    assert score(soup) >= max(known)
    last = soup.tastings[-1]
    assert last.kept
    assert last.score == score(soup)
    assert sum(share for share in soup.weights if share is not None) == pytest.approx(1)


def test_a_step_that_is_good_enough_is_left_alone() -> None:
    evaluate = TowardsANumber(lambda soup: 0.5, 2.5)
    soup = ladle.learned(toy_pool(0.0, 1.0, 3.0), evaluate, epochs=30, examples_per_step=10)
    assert soup.options["pulled"] is None
    assert float(soup.state_dict()["w"]) == pytest.approx(2.5, abs=0.05)
    steps, last = soup.tastings[:-1], soup.tastings[-1]
    best = soup.options["best_step"]
    assert last.candidate == f"step {best}, on all of held-out"
    assert last.reason.endswith("against the best alone, run0: no change")
    assert all(one.examples == 10 for one in steps)
    assert last.examples is None


def test_otherwise_it_goes_towards_the_best_single_as_far_as_it_must() -> None:
    # The loss wants 3; at 2 and below, scores are as good as that of the best alone, 0.
    pool = toy_pool(0.0, 2.6, 3.4)
    evaluate = TowardsANumber(lambda soup: float(float(soup.state_dict()["w"]) < 2.2), 3.0)
    soup = ladle.learned(pool, evaluate, epochs=30, examples_per_step=10, patience=30)
    # The start is the mean, 2, and good enough, so that is where the way leads.
    assert soup.options["pulled"] == {"towards": "start", "share": 0.9}
    assert 2.0 < float(soup.state_dict()["w"]) < 2.2
    names = [one.candidate for one in soup.tastings if one.examples is None]
    assert names[1:4] == [
        "start, on all of held-out",
        "0.1 of the way to start",
        "0.2 of the way to start",
    ]
    assert names[-1] == "0.9 of the way to start"
    assert soup.options["kept_back_loss"] == pytest.approx(
        (float(soup.state_dict()["w"]) - 3) ** 2, abs=1e-5
    )
    # A start that is worse, too, is no place to go to.
    strict = TowardsANumber(lambda soup: float(float(soup.state_dict()["w"]) < 1.2), 3.0)
    soup = ladle.learned(pool, strict, epochs=30, examples_per_step=10, patience=30)
    assert soup.options["pulled"]["towards"] == "run0"
    assert 0.9 < float(soup.state_dict()["w"]) < 1.2


def test_of_the_way_it_takes_the_lowest_loss_that_is_good_enough() -> None:
    """Not the first: a loss may fall on the way."""
    pool = toy_pool(0.0, 4.0)
    # From the start, 2, to the best alone, 0, the loss is lowest at 0.5.
    evaluate = TowardsANumber(lambda soup: float(float(soup.state_dict()["w"]) < 1.9), 0.5)
    soup = ladle.learned(pool, evaluate, lr=1e-9, epochs=1)
    assert soup.options["pulled"]["towards"] == "run0"
    assert float(soup.state_dict()["w"]) == pytest.approx(0.5, abs=0.11)


def test_where_nothing_is_as_good_it_is_the_best_single_and_says_so() -> None:
    pool = toy_pool(1.0, 4.0)
    evaluate = TowardsANumber(near(1.0), 3.0)
    soup = ladle.learned(pool, evaluate, epochs=3, examples_per_step=10)
    assert soup.members == ("run0",)
    assert soup.options["pulled"] == {"towards": "run0", "share": 1.0}
    assert soup.tastings[-1].candidate == "run0"
    assert soup.caveats == ()  # Its weights were not learned.


@pytest.mark.parametrize("affine", [False, True])
def test_of_real_models_too(tmp_path: Path, affine: bool) -> None:
    """One of these digit models is on held-out better than any mixture with much of the others."""
    pool, evaluate = ladle.open(make_runs(tmp_path)), Evaluator(Digits())
    best = max(map(evaluate, singles(pool)))
    assert evaluate(ladle.uniform(pool)) < best
    soup = ladle.learned(pool, evaluate, affine=affine, by_layer=True, epochs=3)
    assert soup.options["pulled"] is not None
    assert evaluate(soup) >= best
