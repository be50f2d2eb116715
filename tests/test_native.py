"""The compiled kernel and numpy compute the same bytes, and the kernel is there where it can be."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ladle import native
from ladle.checkpoint.numbers import Float64, decode, encode, packed
from ladle.merge.kernel import weighted_sum

EVERY_16_BITS = np.arange(2**16, dtype=np.uint16).view(np.uint8)


def by_numpy(work: Callable[[], np.ndarray]) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        for functions in ("_start", "_add", "_encode"):
            patch.setattr(native, functions, {})
        return work()


def there_and_back(numbers: Float64, dtype: str) -> Float64:
    with np.errstate(invalid="ignore"):
        return decode(encode(numbers, dtype), dtype).astype(np.float64)


def same_numbers(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit, but any NaN for any other."""
    neither = np.isnan(one) & np.isnan(other)
    return bool(((one.view(np.uint64) == other.view(np.uint64)) | neither).all())


@pytest.mark.skipif(sys.platform == "win32", reason="not built there")
def test_it_is_built_wherever_there_is_a_compiler() -> None:
    assert native.is_built() == bool(shutil.which("cc") or shutil.which("gcc"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("weight", [1.0, -0.3])
@pytest.mark.parametrize("starting", [True, False])
def test_every_number_of_16_bits_is_added_alike(dtype: str, weight: float, starting: bool) -> None:
    def added(numbers: np.ndarray) -> Float64:
        total = np.linspace(-3, 3, 2**16)
        rows = [numbers] if starting else [np.ones(2**16, np.float32), numbers]
        weights = [weight] if starting else [0.7, weight]
        with np.errstate(invalid="ignore"):
            weighted_sum(rows, weights, divisor=1.0, out=total)
        return total

    ours = added(
        packed(EVERY_16_BITS, dtype) if native.is_built() else decode(EVERY_16_BITS, dtype)
    )
    theirs = by_numpy(lambda: added(decode(EVERY_16_BITS, dtype)))
    assert same_numbers(ours, theirs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@given(data=st.data())
def test_any_float64_is_rounded_alike(dtype: str, data: st.DataObject) -> None:
    numbers = data.draw(arrays.arrays(np.float64, 40, elements=st.floats(width=64)))
    at = data.draw(st.integers(0, 2**16 - 41))
    with np.errstate(invalid="ignore"):
        halves = decode(EVERY_16_BITS, dtype)[at : at + 41].astype(np.float64)
        near = (halves[:-1] + halves[1:]) / 2  # Half-way between neighbours.
    nudged = np.nextafter(near, data.draw(st.sampled_from([-np.inf, 0.0, np.inf])))
    for given_ in (numbers, near, nudged, numbers * 2.0**-1000):
        assert same_numbers(
            there_and_back(given_, dtype), by_numpy(partial(there_and_back, given_, dtype))
        )


@given(
    data=st.data(),
    weights=st.lists(st.sampled_from([1.0, -1.0, 0.25, 1 / 3]), min_size=1, max_size=5),
)
def test_sums_of_float32_are_alike(data: st.DataObject, weights: list[float]) -> None:
    """Also where they are not exact, so that the order and every rounding show."""
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False)
    rows = [data.draw(arrays.arrays(np.float32, 19, elements=elements)) for _ in weights]

    def summed() -> Float64:
        total = np.empty(19)
        weighted_sum(rows, weights, divisor=3.0, out=total)
        return total

    assert same_numbers(summed(), by_numpy(summed))


def test_arrays_with_gaps_are_refused() -> None:
    if native.is_built():
        with pytest.raises(ValueError, match="without gaps"):
            native.add(np.zeros(3), np.zeros(6, np.float32)[::2], 1.0)
