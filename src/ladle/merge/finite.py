"""Looking for values that no average survives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ladle.checkpoint import Checkpoint
from ladle.checkpoint.dtypes import AVERAGED, ITEMSIZE
from ladle.merge.kernel import decode
from ladle.merge.stream import SLICE


def count_non_finite(
    checkpoint: Checkpoint, *, advance: Callable[[int], None] = lambda nbytes: None
) -> dict[str, int]:
    """How many NaN or infinite values each tensor has; tensors without any are left out."""
    found: dict[str, int] = {}
    for name, spec in checkpoint.layout.tensors.items():
        if spec.dtype not in AVERAGED:
            continue
        for start in range(0, spec.numel, SLICE):
            count = min(SLICE, spec.numel - start)
            raw = np.empty(count * ITEMSIZE[spec.dtype], np.uint8)
            checkpoint.read_into(name, start, raw)
            bad = int(np.count_nonzero(~np.isfinite(decode(raw, spec.dtype))))
            if bad:
                found[name] = found.get(name, 0) + bad
            advance(raw.nbytes)
    return found
