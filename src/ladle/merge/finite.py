"""Looking for values that no average survives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ladle.checkpoint import Checkpoint
from ladle.checkpoint.dtypes import AVERAGED, ITEMSIZE
from ladle.merge.slices import read_numbers, slices


def count_non_finite(
    checkpoint: Checkpoint, *, advance: Callable[[int], None] = lambda nbytes: None
) -> dict[str, int]:
    """How many NaN or infinite values each tensor has; tensors without any are left out."""
    found: dict[str, int] = {}
    for name, spec in checkpoint.layout.tensors.items():
        if spec.dtype not in AVERAGED:
            continue
        for start, stop in slices(spec):
            numbers = read_numbers(checkpoint, name, start, stop)
            bad = int(np.count_nonzero(~np.isfinite(numbers)))
            if bad:
                found[name] = found.get(name, 0) + bad
            advance((stop - start) * ITEMSIZE[spec.dtype])
    return found
