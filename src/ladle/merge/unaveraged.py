"""Tensors that are never averaged: integers, masks, counters, and dtypes without arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ladle.checkpoint import Bytes
from ladle.checkpoint.dtypes import INTEGERS
from ladle.errors import LayoutMismatch

Policy = Literal["equal", "first", "max"]
"""What to do where integer tensors differ: refuse, take the first ingredient's, or the maximum."""


def common_value(
    name: str, dtype: str, values: Sequence[Bytes], names: Sequence[str], policy: Policy
) -> Bytes:
    """The one value of a tensor that cannot be averaged.

    BatchNorm's `num_batches_tracked` takes the maximum under every policy.

    Raises:
        LayoutMismatch: the values differ and no policy settles it.
    """
    first = values[0]
    other = next((i for i, value in enumerate(values) if not np.array_equal(value, first)), None)
    if other is None:
        return first
    if dtype in INTEGERS and (policy == "max" or name.endswith("num_batches_tracked")):
        numbers = [value.view(np.dtype(dtype).newbyteorder("<")) for value in values]
        largest: Bytes = np.maximum.reduce(numbers).view(np.uint8)
        return largest
    if policy == "first":
        return first
    raise LayoutMismatch(
        f"tensor {name!r} is {dtype}, which is never averaged, and differs between {names[0]} and "
        f"{names[other]}; say what to do with --integers first or --integers max"
    )
