"""What a soup's numbers are, seen through `Soup.state_dict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ladle.checkpoint import MemoryCheckpoint
from ladle.errors import BadInput, LayoutMismatch, NonFiniteTensor
from ladle.merge import Ingredients, Linear, Policy, mean, stream
from ladle.soup import Ingredient, Pool, Soup, uniform_soup
from ladle.soup.live import StateDictSink
from states import State, data_of, generator, pool_of, same_bits, small_state

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def in_memory(*states: Mapping[str, Tensor]) -> Pool:
    return Pool.of(
        Ingredient(f"run{i}", MemoryCheckpoint(Path(f"run{i}"), state))
        for i, state in enumerate(states)
    )


def soup_of(states: Sequence[Mapping[str, Tensor]], *weights: float) -> Soup:
    return Soup(in_memory(*states), Linear(weights))


def numbers(*values: float, dtype: torch.dtype = torch.float32) -> State:
    return {"w": torch.tensor(values, dtype=dtype)}


@st.composite
def adversarial(draw: st.DrawFn, dtype: torch.dtype, n: int) -> list[State]:
    """n states whose numbers differ by hundreds of orders of magnitude, zeros of both signs too."""
    largest = torch.finfo(dtype).max / (2 * n)
    number = st.one_of(
        st.floats(-largest, largest),
        st.sampled_from([0.0, -0.0, largest, -largest, torch.finfo(dtype).tiny, 1.0, -1.0]),
    )
    rows = draw(st.lists(st.lists(number, min_size=5, max_size=5), min_size=n, max_size=n))
    return [{"w": torch.tensor(row, dtype=torch.float64).to(dtype)} for row in rows]


# --- identities ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(data=st.data())
@settings(max_examples=60)
def test_the_mean_of_copies_is_bit_identical(dtype: torch.dtype, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    state = data.draw(adversarial(dtype, n))[0]
    assert same_bits(uniform_soup(in_memory(*[state] * n)).state_dict(), state)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 10, 11, 24, 49, 72])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_mean_of_many_random_copies_is_bit_identical(dtype: torch.dtype, n: int) -> None:
    state = {"w": torch.randn(5000, dtype=torch.float64, generator=generator(n)).to(dtype)}
    assert same_bits(uniform_soup(in_memory(*[state] * n)).state_dict(), state)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(data=st.data())
@settings(max_examples=40)
def test_all_the_weight_on_one_ingredient_returns_it_bit_for_bit(
    dtype: torch.dtype, data: st.DataObject
) -> None:
    states = data.draw(adversarial(dtype, 3))
    i = data.draw(st.integers(0, 2))
    soup = soup_of(states, *[float(j == i) for j in range(3)])
    assert same_bits(soup.state_dict(), states[i])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(data=st.data())
@settings(max_examples=40)
def test_the_order_of_the_pool_changes_no_byte(dtype: torch.dtype, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 6))
    states = data.draw(adversarial(dtype, n))
    weights = data.draw(st.lists(st.floats(-1, 1), min_size=n, max_size=n))
    order = data.draw(st.permutations(range(n)))
    one = soup_of(states, *weights)
    other = soup_of([states[i] for i in order], *[weights[i] for i in order])
    assert same_bits(one.state_dict(), other.state_dict())
    assert one.digest == other.digest


def test_the_order_matters_to_a_plain_sum_of_these_numbers() -> None:
    """The property above is not empty: these are numbers whose float64 sum depends on order."""
    a, b, c = 1e30, 1.0, -1e30
    assert (a + b) + c != (a + c) + b
    soups = {
        data_of(uniform_soup(in_memory(*map(numbers, order))).state_dict()["w"])
        for order in [(a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a)]
    }
    assert len(soups) == 1


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_threads_and_slices_change_no_byte(dtype: torch.dtype, tmp_path: Path) -> None:
    states = [
        {
            "big": torch.randn(700, 13, generator=generator(seed)).to(dtype),
            "small": torch.randn(3, generator=generator(seed)).to(dtype),
            "scalar": torch.tensor(float(seed), dtype=dtype),
            "empty": torch.empty(0, 4, dtype=dtype),
            "counter.num_batches_tracked": torch.tensor(seed),
        }
        for seed in range(5)
    ]
    pool = pool_of(tmp_path, *states)
    ingredients = Ingredients([one.checkpoint for one in pool], [one.name for one in pool])
    weights = Linear((0.1, 0.3, -0.2, 0.5, 0.3))
    found = []
    for threads, elements in [(1, 2**18), (1, 1000), (4, 7), (3, 64), (8, 9099)]:
        sink = StateDictSink(pool.layout)
        stream(ingredients, weights, pool.layout, sink, threads=threads, slice_elements=elements)
        found.append(sink.state)
    assert all(same_bits(found[0], other) for other in found[1:])
    assert int(found[0]["counter.num_batches_tracked"]) == 4


# --- against a slow reference -------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=80)
def test_a_soup_is_the_float64_sum_rounded_once(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 5))
    dtypes = data.draw(st.lists(st.sampled_from(FLOATS), min_size=n, max_size=n))
    shape = data.draw(st.lists(st.integers(0, 5), max_size=3))
    weights = data.draw(
        st.lists(st.floats(-2, 2).map(lambda w: round(w, 3)), min_size=n, max_size=n)
    )
    seed = data.draw(st.integers(0, 1000))
    states = [
        {"w": torch.randn(shape, generator=generator(seed + i)).to(dtype)}
        for i, dtype in enumerate(dtypes)
    ]
    soup = soup_of(states, *weights)
    found = soup.state_dict()["w"]
    # The widest of all; half and brain float together need float32.
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    assert found.dtype == (dtypes[0] if len(set(dtypes)) == 1 else wide)
    assert found.shape == torch.Size(shape)
    # In the soup's own order of additions, which is by content.
    order = sorted(range(n), key=lambda i: (soup.pool.order[i], weights[i]))
    total = torch.zeros(shape, dtype=torch.float64)
    for i in order:
        total += weights[i] * states[i]["w"].double()
    if found.dtype == torch.bfloat16:
        unit = 2.0 ** (torch.frexp(total.abs().clamp(min=1e-30))[1].double() - 8)
        assert torch.all((found.double() - total).abs() <= unit / 2)
    else:
        assert torch.equal(found, total.to(found.dtype))


def test_a_uniform_soup_divides_once() -> None:
    # 1/3 as a weight: 0.333..·(1+1+1) may miss 1; the sum 3 divided by 3 may not.
    third = uniform_soup(in_memory(numbers(0.1), numbers(0.7), numbers(0.4))).state_dict()["w"]
    exact = (
        np.float64(np.float32(0.1)) + np.float64(np.float32(0.7)) + np.float64(np.float32(0.4))
    ) / 3
    assert third.numpy()[0] == np.float32(exact)


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (torch.float16, torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float64, torch.float64),
        (torch.float32, torch.float64, torch.float64),
    ],
    ids=str,
)
def test_mixed_dtypes_become_the_smallest_that_holds_both(
    one: torch.dtype, other: torch.dtype, wanted: torch.dtype
) -> None:
    states = [numbers(1.5, 2.0, dtype=one), numbers(0.5, 4.0, dtype=other)]
    for order in (states, states[::-1]):
        found = uniform_soup(in_memory(*order)).state_dict()["w"]
        assert found.dtype == wanted
        assert found.tolist() == [1.0, 3.0]


def test_a_part_of_a_pool_keeps_the_pools_dtypes() -> None:
    pool = in_memory(numbers(1.0, dtype=torch.float16), numbers(3.0, dtype=torch.float32))
    assert uniform_soup(pool.subset([0])).state_dict()["w"].dtype == torch.float32


# --- what is not averaged -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "wanted"), [("first", [3, 7, 1]), ("max", [3, 9, 2])], ids=["first", "max"]
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.int32], ids=str)
def test_integers_that_differ_follow_the_policy(
    policy: Policy, wanted: list[int], dtype: torch.dtype
) -> None:
    states = [
        {"n": torch.tensor(values, dtype=dtype), "w": torch.tensor([float(i)])}
        for i, values in enumerate([[3, 7, 1], [3, 9, 1], [2, 8, 2]])
    ]
    soup = uniform_soup(in_memory(*states), integers=policy)
    assert soup.state_dict()["n"].tolist() == wanted


@pytest.mark.parametrize("seed", range(4))
def test_the_first_is_the_first_of_the_pool_as_the_user_gave_it(seed: int) -> None:
    """Not the first in the order of the sum, which is by content."""
    values = torch.randperm(6, generator=generator(seed)).tolist()
    states = [{"n": torch.tensor([v]), "w": torch.tensor([float(v)])} for v in values]
    found = uniform_soup(in_memory(*states), integers="first").state_dict()["n"]
    assert found.tolist() == values[:1]


def test_integers_that_differ_are_refused_by_name() -> None:
    states = [{"vocab.ids": torch.tensor([1, i])} for i in (5, 5, 6)]
    with pytest.raises(LayoutMismatch, match=r"'vocab.ids' is int64.*differs.*--integers first"):
        uniform_soup(in_memory(*states)).state_dict()


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.uint8,
        torch.int16,
        torch.int64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.complex64,
    ],
    ids=str,
)
def test_what_is_not_averaged_is_copied_if_equal(dtype: torch.dtype) -> None:
    same = torch.tensor([0, 1, 1, 0, 1]).to(dtype)
    soup = uniform_soup(in_memory(*[{"x": same, "w": torch.tensor([i])} for i in (1.0, 2.0)]))
    found = soup.state_dict()["x"]
    assert found.dtype == dtype
    assert data_of(found) == data_of(same)


@pytest.mark.parametrize("policy", ["equal", "max"])
@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64], ids=str
)
def test_dtypes_without_arithmetic_are_refused_if_they_differ(
    dtype: torch.dtype, policy: Policy
) -> None:
    states = [{"x": torch.tensor([0, i]).to(dtype)} for i in (1, 2)]
    with pytest.raises(LayoutMismatch, match="'x'"):
        uniform_soup(in_memory(*states), integers=policy).state_dict()


def test_masks_that_differ_are_refused_or_joined() -> None:
    states = [{"mask": torch.tensor(m)} for m in ([True, False, False], [False, False, True])]
    with pytest.raises(LayoutMismatch, match="'mask' is bool"):
        uniform_soup(in_memory(*states)).state_dict()
    joined = uniform_soup(in_memory(*states), integers="max").state_dict()["mask"]
    assert joined.tolist() == [True, False, True]


@pytest.mark.parametrize("policy", ["equal", "first", "max"])
def test_num_batches_tracked_takes_the_maximum_under_every_policy(policy: Policy) -> None:
    states = [{"bn.num_batches_tracked": torch.tensor(n)} for n in (70, 300, 5)]
    found = uniform_soup(in_memory(*states), integers=policy).state_dict()
    assert int(found["bn.num_batches_tracked"]) == 300


def test_the_maximum_of_unsigned_and_negative_numbers_is_by_value() -> None:
    wide = [{"n": torch.tensor([v], dtype=torch.uint64)} for v in (2**63 + 5, 7)]
    assert uniform_soup(in_memory(*wide), integers="max").state_dict()["n"].tolist() == [2**63 + 5]
    signed = [{"n": torch.tensor([v])} for v in (-5, -300, -4)]
    assert uniform_soup(in_memory(*signed), integers="max").state_dict()["n"].tolist() == [-4]


def test_a_kind_for_a_kind() -> None:
    with pytest.raises(LayoutMismatch, match="w is int64, expected float32"):
        in_memory(numbers(1.0), numbers(1, dtype=torch.int64))
    with pytest.raises(LayoutMismatch, match="w is float8_e5m2, expected float8_e4m3fn"):
        in_memory(numbers(1, dtype=torch.float8_e4m3fn), numbers(1, dtype=torch.float8_e5m2))


# --- what no average survives -------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_number_that_is_none_is_named_with_its_file(
    bad: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    states = [{"layer.weight": torch.ones(50, dtype=dtype)} for _ in range(3)]
    for i, state in enumerate(states):
        state["layer.weight"][0] = i
    states[1]["layer.weight"][33] = bad
    soup = uniform_soup(pool_of(tmp_path, *states))
    with pytest.raises(NonFiniteTensor, match=r"b.safetensors has NaN or infinity.*'layer.weight'"):
        soup.state_dict()


def test_infinities_that_cancel_are_found() -> None:
    states = [numbers(1.0, float("inf")), numbers(1.0, float("-inf"))]
    with pytest.raises(NonFiniteTensor, match=r"run[01] has NaN or infinity in tensor 'w'"):
        uniform_soup(in_memory(*states)).state_dict()


def test_an_ingredient_of_weight_0_is_not_looked_at() -> None:
    states = [numbers(1.0), numbers(float("nan")), numbers(3.0)]
    found = soup_of(states, 0.5, 0.0, 0.5).state_dict()["w"]
    assert found.tolist() == [2.0]


def test_an_ingredient_of_weight_0_may_have_other_counters() -> None:
    states = [{"w": torch.tensor([v]), "n": torch.tensor(n)} for v, n in [(1.0, 5), (2.0, 6)]]
    assert int(soup_of(states, 1.0, 0.0).state_dict()["n"]) == 5


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 40000.0), ("bfloat16", 2e38), ("float32", 2e38)]
)
def test_a_soup_too_large_for_its_dtype_is_an_error(dtype: str, value: float) -> None:
    states = [numbers(value, dtype=getattr(torch, dtype))] * 2
    with pytest.raises(NonFiniteTensor, match=f"'w' of the soup is too large for {dtype}"):
        soup_of(states, 1.0, 1.0).state_dict()


def test_a_mean_does_not_overflow_on_the_way() -> None:
    largest = torch.finfo(torch.float16).max
    states = [numbers(largest, -largest, dtype=torch.float16) for _ in range(5)]
    assert same_bits(uniform_soup(in_memory(*states)).state_dict(), states[0])


def test_a_sum_beyond_float64_is_an_error_of_the_soup() -> None:
    states = [numbers(1.5e308, dtype=torch.float64), numbers(1.6e308, dtype=torch.float64)]
    with pytest.raises(NonFiniteTensor, match="'w' of the soup overflows float64"):
        soup_of(states, 1.0, 1.0).state_dict()


@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.5, 0.5), (float("nan"), 1.0), ()], ids=str)
def test_weights_that_do_not_fit_the_pool_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="weights"):
        Soup(in_memory(numbers(1.0), numbers(2.0)), Linear(weights)).state_dict()


def test_a_soup_of_a_soup_is_the_soup_of_all() -> None:
    # Powers of two: (((1+2)/2) + ((3+4)/2)) / 2 = (1+2+3+4) / 4 without rounding.
    inner = [
        uniform_soup(in_memory(numbers(a), numbers(b))).state_dict() for a, b in [(1, 2), (3, 4)]
    ]
    outer = uniform_soup(in_memory(*inner)).state_dict()
    assert outer["w"].tolist() == [2.5]


def test_shares_are_what_people_expect() -> None:
    assert mean(4).weights_of() == (0.25,) * 4
    assert Linear((1.0, 3.0), 4.0).weights_of() == (0.25, 0.75)


def test_a_soup_leaves_its_ingredients_alone(tmp_path: Path) -> None:
    states = [small_state(i) for i in range(3)]
    before = [{n: t.clone() for n, t in state.items()} for state in states]
    uniform_soup(in_memory(*states)).state_dict()
    assert all(same_bits(a, b) for a, b in zip(before, states, strict=True))
