"""Classes made of a model's columns, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ladle.predictions import ClassSubset


def test_a_class_is_its_largest_column() -> None:
    clocks_banana_pens = ClassSubset(((4, 1), (2,), (5, 0, 3)))
    logits = np.array([[0, 1, 2, 3, 4, 5], [9, -1, -2, -3, -4, -5]], np.float32)
    projected = clocks_banana_pens.project(logits)
    assert projected.tolist() == [[4, 2, 5], [-1, -2, 9]]
    assert projected.dtype == np.float32
    assert len(clocks_banana_pens) == 3


def test_what_is_not_a_number_stays_so_in_its_class_alone() -> None:
    logits = np.array([[np.nan, 1, 2, np.inf]], np.float32)
    assert np.isnan(ClassSubset(((2, 0), (1,))).project(logits)).tolist() == [[True, False]]


def test_the_digest_tells_subsets_apart() -> None:
    subsets = [((0, 1), (2,)), ((1, 0), (2,)), ((0,), (1, 2)), ((2,), (0, 1)), ((0,), (2,))]
    assert len({ClassSubset(columns).digest for columns in subsets}) == len(subsets)
    assert ClassSubset(((0, 1), (2,))).digest == ClassSubset(((0, 1), (2,))).digest


def test_too_few_columns_are_refused() -> None:
    subset = ClassSubset(((0,), (3,)))
    assert subset.width == 4
    assert subset.project(np.zeros((2, 4), np.float32)).shape == (2, 2)
    with pytest.raises(ValueError, match="3 columns of logits, where 4 are needed"):
        subset.project(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("columns", [(), ((0,), ()), ((0,), (-1,))])
def test_a_class_without_a_column_is_refused(columns: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="each of at least one column from 0 on"):
        ClassSubset(columns)
