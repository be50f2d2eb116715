"""The compiled kernel, numpy and torch at the arithmetic of a merge: float64 sums of other dtypes,
in the cache, on one core; prints JSON.

    python benchmarks/kernels.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import torch

from ladle import native
from ladle.checkpoint.numbers import decode, packed
from ladle.merge.slices import SLICE

REPEATS, ROUNDS = 40, 7


def nanoseconds(work: Callable[[], object]) -> float:
    """Per element, the best of some rounds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(REPEATS):
            work()
        times.append(time.perf_counter() - begin)
    return min(times) / REPEATS / SLICE * 1e9


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps({dtype: both(dtype) for dtype in ("float32", "bfloat16", "float16")}))


def both(dtype: str) -> dict[str, float | None]:
    """Nanoseconds of each; None for the compiled one where there was no compiler."""
    tensor = (0.02 * torch.randn(SLICE)).to(getattr(torch, dtype))
    raw = tensor.view(torch.uint8).numpy()
    total, scratch = np.zeros(SLICE), np.empty(SLICE, np.float32)
    sums = torch.zeros(SLICE, dtype=torch.float64)
    numbers = packed(raw, dtype)
    compiled = None
    if native.is_built():
        compiled = nanoseconds(lambda: native.add(total, numbers, 1.0))
    return {
        "compiled": compiled,
        "numpy": nanoseconds(lambda: np.add(total, decode(raw, dtype, scratch=scratch), out=total)),
        "torch": nanoseconds(lambda: sums.add_(tensor)),
    }


if __name__ == "__main__":
    main()
