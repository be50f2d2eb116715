"""What a comparison evaluates, said before anything is."""

from __future__ import annotations

from itertools import combinations

import pytest

from ladle.analysis import plan
from ladle.errors import BadInput
from ladle.soup import uniform_soup
from toys import toy_pool

POOL = toy_pool(*map(float, range(1, 9)))


def value(soup) -> float:
    return float(soup.state_dict()["w"])


def test_all_pairs_of_a_few_models_are_taken() -> None:
    assert list(plan(POOL).pairs) == list(combinations(range(8), 2))
    assert len(plan(toy_pool(*map(float, range(13)))).pairs) == 66  # of 78
    assert len(plan(toy_pool(*map(float, range(13))), pairs=78).pairs) == 78


def test_some_pairs_are_drawn_by_the_seed() -> None:
    drawn = [plan(POOL, pairs=6, seed=seed).pairs for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 6
    assert set(drawn[0]) < set(combinations(range(8), 2))
    assert list(drawn[0]) == sorted(drawn[0])


def test_around_the_middle_are_four_five_and_six_tenths_of_the_second() -> None:
    below, middle, above = plan(toy_pool(1.0, 2.0)).around_the_middle((0, 1))
    assert [value(one) for one in (below, middle, above)] == pytest.approx([1.4, 1.5, 1.6])
    # What other commands call the soup of two: the store knows it.
    assert middle.digest == uniform_soup(toy_pool(1.0, 2.0)).digest


def test_soups_of_an_order_are_nested() -> None:
    planned = plan(POOL, orders=3)
    assert planned.sizes == (2, 3, 4, 5, 6, 7, 8)
    assert len(planned.orders) == 3
    for order in planned.orders:
        assert sorted(order) == list(range(8))
        for size in planned.sizes:
            mean = sum(i + 1 for i in order[:size]) / size
            assert value(planned.grown(order, size)) == pytest.approx(mean)


def test_many_models_are_added_several_at_a_time() -> None:
    sizes = plan(toy_pool(*map(float, range(72)))).sizes
    assert sizes == (2, 3, 4, 5, 6, 7, 8, 12, 18, 27, 40, 60, 72)


def test_each_soup_is_evaluated_once() -> None:
    planned = plan(POOL, orders=5)
    digests = [soup.digest for soup in planned.soups]
    assert len(digests) == len(set(digests))
    # Soups of two are middles of pairs, the soup of all is one, whatever the order.
    grown = {frozenset(order[:size]) for order in planned.orders for size in range(3, 9)}
    assert len(digests) == 8 + 3 * 28 + len(grown)
    assert [soup.members for soup in planned.soups[:8]] == [(f"run{i}",) for i in range(8)]


def test_two_models_have_one_order_where_it_does_not_matter() -> None:
    planned = plan(toy_pool(1.0, 2.0), orders=5)
    assert planned.pairs == ((0, 1),)
    assert planned.sizes == (2,)
    assert len(planned.soups) == 2 + 3


def test_one_model_is_refused() -> None:
    with pytest.raises(BadInput, match="run0 is the only model left, and comparing takes two"):
        plan(toy_pool(1.0))
