"""Inner products with checkpoints, streamed, and what differs between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ladle import native
from ladle.checkpoint import MemoryCheckpoint, open_checkpoint
from ladle.checkpoint.numbers import decode, packed
from ladle.merge import differing, inner_products
from ladle.merge.kernel import inner_product
from ladle.merge.slices import SLICE
from states import generator


def by_numpy(numbers: Any, slope: Any) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_dot", {})
        return inner_product(numbers, slope)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_and_size_gives_the_inner_product(tmp_path: Path, dtype: str) -> None:
    """Against torch in float64, on files: tensors of several slices, of none, and of no axis."""
    shapes = {"large": (3, SLICE // 2 + 7), "small": (5,), "empty": (0, 4), "number": ()}
    states = [
        {
            n: torch.randn(s, generator=generator(i)).to(getattr(torch, dtype))
            for n, s in shapes.items()
        }
        for i in range(3)
    ]
    for i, state in enumerate(states):
        torch.save(state, tmp_path / f"{i}.pt")
    checkpoints = [open_checkpoint(tmp_path / f"{i}.pt") for i in range(3)]
    slopes = {n: torch.randn(s, generator=generator(9)) for n, s in shapes.items()}
    flat = {n: s.reshape(-1).numpy() for n, s in slopes.items()}
    found = inner_products(checkpoints, flat)
    assert found.keys() == shapes.keys()
    for name, slope in slopes.items():
        wanted = [(state[name].double() * slope.double()).sum().item() for state in states]
        np.testing.assert_allclose(found[name], wanted, rtol=1e-12, atol=1e-9)
    for threads in (1, 3):
        again = inner_products(checkpoints, flat, threads=threads)
        assert all(np.array_equal(again[name], found[name]) for name in shapes)


@given(data=st.data(), size=st.integers(0, 50))
def test_the_compiled_kernel_and_numpy_agree_bit_for_bit(data: st.DataObject, size: int) -> None:
    elements = st.floats(-(2.0**99), 2.0**99, width=32)
    slope = data.draw(arrays.arrays(np.float32, size, elements=elements))
    numbers = data.draw(arrays.arrays(np.float32, size, elements=elements))
    assert inner_product(numbers, slope) == by_numpy(numbers, slope)
    halves = data.draw(arrays.arrays(np.float16, size, elements=st.floats(-60000, 60000, width=16)))
    assert inner_product(halves, slope) == by_numpy(halves, slope)


def test_every_number_of_16_bits_counts_as_what_it_is() -> None:
    raw = np.arange(2**16, dtype=np.uint16).view(np.uint8)
    slope = np.linspace(-1, 1, 2**16, dtype=np.float32)
    for dtype in ("bfloat16", "float16"):
        numbers = decode(raw, dtype)
        fine = np.isfinite(numbers) & (np.abs(numbers) < 1e30)
        kept = packed(raw, dtype)[fine].copy() if native.is_built() else numbers[fine]
        assert inner_product(kept, slope[fine]) == by_numpy(numbers[fine], slope[fine])


def test_what_differs_is_found_wherever_it_is() -> None:
    def checkpoint(**changes: torch.Tensor) -> MemoryCheckpoint:
        state = {
            "same": torch.ones(SLICE + 5),
            "late": torch.ones(SLICE + 5),
            "count": torch.tensor([1, 2]),
            "mask": torch.tensor([True]),
        }
        return MemoryCheckpoint(Path("x"), state | changes)

    late = torch.ones(SLICE + 5)
    late[-1] += 2**-23
    names = ["same", "late", "count", "mask"]
    ours = [checkpoint(), checkpoint(), checkpoint(late=late, mask=torch.tensor([False]))]
    assert differing(ours, names) == ["late", "mask"]
    assert differing(ours[:2], names) == []
    narrow = checkpoint(
        same=torch.ones(SLICE + 5, dtype=torch.bfloat16), count=torch.tensor([1, 3])
    )
    assert differing([checkpoint(), narrow], names) == ["count"]
