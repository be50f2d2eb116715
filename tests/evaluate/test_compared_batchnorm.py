"""Comparisons of networks with BatchNorm: statistics are settled, and alike around a soup."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_batchnorm import TASK, sweep

from ladle.analysis import Comparison, Positions, Said, compare, plan
from ladle.evaluate import BatchNormMode, Evaluator
from ladle.soup import Pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return sweep(tmp_path_factory.mktemp("sweep"))


def compared(pool: Pool, bn: BatchNormMode) -> Comparison:
    said = Said(Evaluator(TASK), bn=bn)
    return compare(plan(pool, orders=1), said, Positions.of(pool))


def test_a_barrier_that_new_statistics_remove_is_none(pool: Pool) -> None:
    """Averaged statistics ruin the soups of this sweep; of each it is known which were better."""
    averaged, best = compared(pool, "average"), compared(pool, "best")
    for one, other in zip(averaged.pairs, best.pairs, strict=True):
        assert other.barrier < one.barrier
        assert other.on["held-out"].soup >= one.on["held-out"].soup
    assert (best.column("test", "soup") > averaged.column("test", "soup") + 0.03).any()


def test_soups_beside_the_middle_have_statistics_as_it_has(pool: Pool) -> None:
    said = Said(Evaluator(TASK), bn="best")
    planned = plan(pool, orders=1)
    for pair in planned.pairs:
        below, middle, above = said._settled(planned.around_the_middle(pair))
        assert (below.statistics is None) == (middle.statistics is None)
        assert (above.statistics is None) == (middle.statistics is None)


def test_frozen_statistics_cost_no_evaluation(tmp_path: Path) -> None:
    frozen = sweep(tmp_path, frozen=True)
    said = Said(Evaluator(TASK), bn="best")
    planned = plan(frozen, orders=1)
    compare(planned, said, Positions.of(frozen))
    assert all(soup.statistics is None for soup in map(said._taste.settled, planned.soups))
