"""Decoding is exact; encoding rounds once, to nearest even, from the exact number."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ladle.checkpoint.numbers import decode, encode
from ladle.merge.kernel import weighted_sum

# Bits of the significand with the hidden one, least exponent, largest finite number.
FORMATS = {
    "bfloat16": (8, -126, float(torch.finfo(torch.bfloat16).max)),
    "float16": (11, -14, 65504.0),
    "float32": (24, -126, float(np.finfo(np.float32).max)),
}
NARROW = list(FORMATS)


def rounded(number: float, dtype: str) -> float:
    """To nearest even, by rational arithmetic alone."""
    bits, least, largest = FORMATS[dtype]
    if number == 0:
        return number
    exact = Fraction(number)
    exponent = max(math.frexp(number)[1] - 1, least)
    unit = Fraction(2) ** (exponent - bits + 1)
    result = round(exact / unit) * unit  # Python rounds a half to even.
    if abs(result) > Fraction(largest):
        return math.copysign(math.inf, number)
    return math.copysign(float(result), number)


def encoded(number: float, dtype: str) -> float:
    raw = encode(np.array([number, 1.0, number]), dtype)
    values = decode(raw, dtype)
    assert values[1] == 1.0
    assert values[0].tobytes() == values[2].tobytes()
    return float(values[0])


def same(one: float, other: float) -> bool:
    """Equal, and of one sign if both are zero."""
    return struct.pack("<d", one) == struct.pack("<d", other)


@pytest.mark.parametrize("dtype", NARROW)
@given(number=st.floats(allow_nan=False, allow_infinity=False))
@example(number=-0.0)
@example(number=5e-324)
@example(number=-5e-324)
@example(number=1.7976931348623157e308)
def test_any_number_is_rounded_to_nearest_even(dtype: str, number: float) -> None:
    assert same(encoded(number, dtype), rounded(number, dtype))


@pytest.mark.parametrize("dtype", NARROW)
@given(data=st.data())
def test_numbers_around_a_tie_go_the_right_way(dtype: str, data: st.DataObject) -> None:
    """Half-way between two neighbours, and as little above and below as float64 can tell."""
    bits, least, _ = FORMATS[dtype]
    exponent = data.draw(st.integers(least - bits, 127 if dtype != "float16" else 15))
    mantissa = data.draw(st.integers(0, 2**bits))
    tie = math.ldexp(2 * mantissa + 1, exponent - bits)
    number = data.draw(
        st.sampled_from([tie, math.nextafter(tie, math.inf), math.nextafter(tie, 0.0)])
    )
    number *= data.draw(st.sampled_from([1.0, -1.0]))
    assert same(encoded(number, dtype), rounded(number, dtype))


@given(pattern=st.integers(0, 2**16 - 1), nudge=st.integers(-2, 2))
def test_bfloat16_does_not_round_twice(pattern: int, nudge: int) -> None:
    """Through float32 a number just above a tie would become the tie, and then go down."""
    low = struct.unpack("<f", struct.pack("<I", pattern << 16))[0]
    high = struct.unpack("<f", struct.pack("<I", min(pattern + 1, 0xFFFF) << 16))[0]
    if not (math.isfinite(low) and math.isfinite(high)):
        return
    number = (low + high) / 2
    for _ in range(abs(nudge)):
        number = math.nextafter(number, math.inf if nudge > 0 else -math.inf)
    assert same(encoded(number, "bfloat16"), rounded(number, "bfloat16"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_pattern_of_16_bits_survives_decoding_and_encoding(dtype: str) -> None:
    raw = np.arange(2**16, dtype=np.uint16).view(np.uint8)
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        numbers = decode(raw, dtype).astype(np.float64)
    theirs = (
        torch.from_numpy(raw.copy()).view(getattr(torch, dtype)).double().numpy()  # all 65536
    )
    np.testing.assert_array_equal(numbers, theirs)
    finite = np.isfinite(numbers)
    again = encode(numbers, dtype).view(np.uint16)
    np.testing.assert_array_equal(again[finite], np.arange(2**16)[finite])
    infinite = np.isinf(numbers)
    np.testing.assert_array_equal(again[infinite], np.arange(2**16)[infinite])


@pytest.mark.parametrize(
    ("dtype", "largest", "first_too_large"),
    [
        # Half a unit beyond the largest finite number is the first that rounds to infinity.
        ("float16", 65504.0, 65520.0),
        ("bfloat16", (2 - 2**-7) * 2.0**127, (2 - 2**-8) * 2.0**127),
        ("float32", (2 - 2**-23) * 2.0**127, (2 - 2**-24) * 2.0**127),
    ],
)
def test_overflow_begins_half_a_unit_beyond_the_largest(
    dtype: str, largest: float, first_too_large: float
) -> None:
    for sign in (1.0, -1.0):
        assert encoded(sign * largest, dtype) == sign * largest
        below = math.nextafter(first_too_large, 0.0)
        assert encoded(sign * below, dtype) == sign * largest
        assert encoded(sign * first_too_large, dtype) == sign * math.inf


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("bits", [0x7FF8 << 48, 2**63 - 1, 2**64 - 1, (0x7FF0 << 48) + 1])
def test_no_bits_make_a_number_of_what_is_none(dtype: str, bits: int) -> None:
    """Whatever else a NaN says: rounding its digits up must not carry it over to zero."""
    numbers = np.array([1.0, 0.0, 2.0])
    numbers.view(np.uint64)[1] = bits
    found = decode(encode(numbers, dtype), dtype)
    assert np.isnan(found).tolist() == [False, True, False]


def test_float64_is_left_alone() -> None:
    numbers = np.array([0.1, -0.0, 5e-324, 1e308])
    assert encode(numbers, "float64").tobytes() == numbers.tobytes()


def summed(
    readings: Sequence[np.ndarray], weights: Sequence[float], divisor: float = 1.0
) -> np.ndarray:
    out = np.full(readings[0].shape, np.nan)
    weighted_sum(readings, weights, divisor=divisor, out=out)
    return out


def test_a_mean_by_hand() -> None:
    # (1 + 2 + 4) / 3 = 7/3, whose nearest float64 is what Python's division gives.
    readings = [np.array([value], np.float32) for value in (1.0, 2.0, 4.0)]
    assert summed(readings, [1.0] * 3, divisor=3.0).tolist() == [7 / 3]


def test_a_weighted_sum_by_hand() -> None:
    # 0.5·2 - 0.25·8 + 0·7 = -1
    readings = [np.array([value], np.float16) for value in (2.0, 8.0, 7.0)]
    assert summed(readings, [0.5, -0.25, 0.0]).tolist() == [-1.0]


def test_a_sum_leaves_its_inputs_alone() -> None:
    readings = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    summed(readings, [2.0, 1.0], divisor=2.0)
    assert [one.tolist() for one in readings] == [[1.0, 2.0], [3.0, 4.0]]


def test_a_sum_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no tensors"):
        weighted_sum([], [], divisor=1.0, out=np.empty(1))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0]])
def test_a_weight_too_many_or_too_few_is_an_error(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="zip"):
        summed([np.ones(2), np.ones(2)], weights)


@given(
    values=st.lists(
        st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=9
    )
)
def test_a_uniform_soup_of_float16_is_the_correctly_rounded_mean(values: list[float]) -> None:
    readings = [np.array([value], np.float16) for value in values]
    found = summed(readings, [1.0] * len(values), divisor=float(len(values)))
    exact = sum(Fraction(value) for value in values) / len(values)
    wanted = float(exact) or 0.0
    assert encoded(float(found[0]), "float16") == rounded(wanted, "float16")


@given(
    st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=40),
    st.integers(-100, 60),
)
def test_a_uniform_soup_of_like_float32_is_the_correctly_rounded_mean(
    integers: list[int], exponent: int
) -> None:
    values = [math.ldexp(i, exponent) for i in integers]
    readings = [np.array([value], np.float32) for value in values]
    found = float(summed(readings, [1.0] * len(values), divisor=float(len(values)))[0])
    exact = Fraction(sum(integers), len(integers)) * Fraction(2) ** exponent
    assert found == float(exact)
