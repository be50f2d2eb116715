from __future__ import annotations

import math

import pytest

import ladle
from ladle.errors import BadScore
from toys import near, toy_pool


def test_uniform_is_the_mean_of_all_and_looks_at_no_score() -> None:
    soup = ladle.uniform(toy_pool(1.0, 2.0, 6.0))
    assert float(soup.state_dict()["w"]) == 3.0
    assert soup.weights == (1 / 3, 1 / 3, 1 / 3)
    assert soup.tastings == ()


def test_best_is_the_single_with_the_highest_score() -> None:
    soup = ladle.best(toy_pool(1.0, 4.0, 2.5), near(2.0))
    assert soup.members == ("run2",)
    assert [one.kept for one in soup.tastings] == [False, False, True]


def test_of_equals_best_takes_the_first() -> None:
    assert ladle.best(toy_pool(3.0, 1.0), near(2.0)).members == ("run0",)


def test_best_needs_a_finite_score() -> None:
    with pytest.raises(BadScore):
        ladle.best(toy_pool(1.0), lambda soup: math.inf)
