"""A mean of state dicts that come one after the other: the soup of the files, bit for bit."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate

import ladle
from ladle.errors import BadInput, LayoutMismatch, NonFiniteTensor, OutputExists
from ladle.merge import Linear
from ladle.soup import Soup
from states import State, pool_of, same_bits, small_state
from tiny import gpt2

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def running(*states: State, **options: Any) -> ladle.RunningSoup:
    soup = ladle.RunningSoup(**options)
    for state in states:
        soup.add(state)
    return soup


@st.composite
def sweeps(draw: st.DrawFn, dtype: torch.dtype, *, exponents: int) -> list[State]:
    """State dicts whose numbers differ by up to so many powers of two."""
    n = draw(st.integers(1, 7))
    number = st.builds(
        math.ldexp,
        st.floats(-2, 2, width=16, allow_subnormal=False),
        st.integers(-exponents, 0),
    )
    rows = draw(st.lists(st.lists(number, min_size=6, max_size=6), min_size=n, max_size=n))
    return [
        {"w": torch.tensor(row, dtype=torch.float64).to(dtype).view(2, 3), "n": torch.tensor(3)}
        for row in rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(data=st.data())
@settings(max_examples=80)
def test_it_has_the_bits_of_the_soup_of_the_files(
    tmp_path: Path, dtype: torch.dtype, data: st.DataObject
) -> None:
    """In whatever order, where sums in float64 are exact."""
    states = data.draw(sweeps(dtype, exponents=12))
    wanted = ladle.uniform(pool_of(tmp_path, *states)).state_dict()
    for order in (states, states[::-1]):
        assert same_bits(running(*order).state_dict(), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(data=st.data())
@settings(max_examples=80)
def test_in_the_order_of_the_soup_it_has_its_bits_whatever_the_numbers(
    tmp_path: Path, dtype: torch.dtype, data: st.DataObject
) -> None:
    """Also where additions round."""
    states = data.draw(sweeps(dtype, exponents=900 if dtype == torch.float64 else 120))
    soup = ladle.uniform(pool_of(tmp_path, *states))
    order = [ord(one.name[0]) - ord("a") for one in soup.in_fixed_order().pool]
    found = running(*[states[i] for i in order])
    assert same_bits(found.state_dict(), soup.state_dict())


def test_weights_count_as_in_a_soup_of_files(tmp_path: Path) -> None:
    states = [small_state(i) for i in range(3)]
    soup = ladle.RunningSoup()
    for state, weight in zip(states, (1, 3, 2.5), strict=True):
        soup.add(state, weight)
    wanted = Soup(pool_of(tmp_path, *states), Linear((1.0, 3.0, 2.5), 6.5))
    assert same_bits(soup.state_dict(), wanted.state_dict())
    assert len(soup) == 3


def test_slices_of_a_large_tensor_are_all_added() -> None:
    states = [{"w": torch.randn(2**20 + 7)} for _ in range(3)]
    wanted = (sum(state["w"].double() for state in states) / 3).float()
    assert torch.equal(running(*states).state_dict()["w"], wanted)


def test_what_was_added_may_change_afterwards() -> None:
    """A live model trains on."""
    model = nn.Linear(3, 2)
    first = copy.deepcopy(model.state_dict())
    soup = running(dict(model.state_dict()))
    with torch.no_grad():
        model.weight.zero_()
    assert same_bits(soup.state_dict(), dict(first))


def test_the_mean_of_copies_is_the_copy_in_every_dtype() -> None:
    for dtype in FLOATS:
        state = {"w": torch.randn(50).to(dtype)}
        assert same_bits(running(*[state] * 7).state_dict(), state)


def test_promoted_where_dtypes_differ(tmp_path: Path) -> None:
    states = [{"w": torch.randn(9).to(t)} for t in (torch.bfloat16, torch.float16, torch.float64)]
    found = running(*states).state_dict()
    assert found["w"].dtype == torch.float64
    assert same_bits(found, ladle.uniform(pool_of(tmp_path, *states)).state_dict())


def test_strange_shapes_and_strides() -> None:
    weights = torch.randn(2, 3, 4, 4)
    state = {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "channels_last": weights.to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 5).t(),
        "flag": torch.tensor(True),
        "none": torch.empty(0, dtype=torch.int64),
        "complex": torch.tensor([1 + 2j], dtype=torch.complex64),
    }
    found = running(state, state).state_dict()
    assert same_bits(found, state)


# --- what is not averaged -----------------------------------------------------------------


def test_batchnorms_counter_takes_the_maximum_and_its_statistics_the_mean() -> None:
    def trained(batches: int) -> State:
        norm = nn.BatchNorm1d(3)
        for i in range(batches):
            norm(torch.randn(4, 3, generator=torch.Generator().manual_seed(i)))
        return dict(norm.state_dict())

    states = [trained(5), trained(2)]
    found = running(*states).state_dict()
    assert int(found["num_batches_tracked"]) == 5
    mean = (states[0]["running_var"].double() + states[1]["running_var"].double()) / 2
    assert torch.equal(found["running_var"], mean.float())


@pytest.mark.parametrize(("policy", "wanted"), [("first", 4), ("max", 9)])
def test_integers_that_differ_need_a_policy(policy: Any, wanted: int) -> None:
    states = [{"steps": torch.tensor(n)} for n in (4, 9, 2)]
    assert int(running(*states, integers=policy).state_dict()["steps"]) == wanted
    soup = running(states[0])
    with pytest.raises(LayoutMismatch, match=r"'steps' is int64, .* state dict 2"):
        soup.add(states[1])


def test_ties_stay_ties(tmp_path: Path) -> None:
    models = [gpt2(seed) for seed in range(2)]
    soup = running(*[dict(model.state_dict()) for model in models])
    found = soup.state_dict()
    assert found["lm_head.weight"].data_ptr() == found["transformer.wte.weight"].data_ptr()
    restored = ladle.RunningSoup()
    restored.set_state(soup.get_state())
    again = restored.state_dict()
    assert again["lm_head.weight"].data_ptr() == again["transformer.wte.weight"].data_ptr()
    model = soup.load_into(gpt2(7))
    assert same_bits(dict(model.state_dict()), found)
    assert model.lm_head.weight is model.transformer.wte.weight
    names = load_file(soup.save(tmp_path / "soup.safetensors")).keys()
    assert found.keys() - names == {"lm_head.weight"}, "a tied tensor is in the file once"


# --- where it goes ------------------------------------------------------------------------


def test_into_a_live_model() -> None:
    models = [nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(3)]
    soup = running(*[dict(model.state_dict()) for model in models])
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert soup.load_into(other) is other
    assert same_bits(dict(other.state_dict()), soup.state_dict())
    with pytest.raises(LayoutMismatch, match="lacks"):
        soup.load_into(nn.Linear(2, 3))


@pytest.mark.parametrize("name", ["mean.safetensors", "mean.pt"])
def test_into_a_file(tmp_path: Path, name: str) -> None:
    soup = running(small_state(1), small_state(2))
    path = soup.save(tmp_path / "new" / name)
    found = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    assert same_bits(found, soup.state_dict())
    assert [one.name for one in path.parent.iterdir()] == [name]
    with pytest.raises(OutputExists, match="exists"):
        soup.save(path)
    soup.add(small_state(3))
    soup.save(path, overwrite=True)
    reread = ladle.uniform(ladle.open(path)).state_dict()
    assert same_bits(reread, soup.state_dict())
    with pytest.raises(BadInput, match=r"end in .safetensors"):
        soup.save(tmp_path / "mean.onnx")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_resumed_training_goes_on_with_the_same_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    states = [
        {n: t.to(dtype) if t.is_floating_point() else t for n, t in small_state(i).items()}
        for i in range(5)
    ]
    soup = running(*states[:3])
    torch.save({"swa": soup.get_state(), "step": 7}, tmp_path / "resume.pt")
    resumed = ladle.RunningSoup()
    resumed.set_state(torch.load(tmp_path / "resume.pt", weights_only=True)["swa"])
    assert len(resumed) == 3
    for state in states[3:]:
        soup.add(state)
        resumed.add(state)
    assert same_bits(resumed.state_dict(), soup.state_dict())
    assert same_bits(soup.state_dict(), running(*states).state_dict())


def test_a_state_that_was_set_is_a_copy() -> None:
    soup = running(small_state(1))
    other = ladle.RunningSoup()
    other.set_state(soup.get_state())
    other.add(small_state(2))
    assert same_bits(soup.state_dict(), small_state(1))


# --- what is refused, without harm to the mean --------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"head.weight": torch.full((3, 5), math.nan)}, NonFiniteTensor, "2 has NaN .*head.weight"),
        ({"head.weight": torch.zeros(3, 6)}, LayoutMismatch, "2 does not go .*head.weight has"),
        ({"more": torch.zeros(1)}, LayoutMismatch, "unexpected +more"),
        ({"steps": torch.tensor(18)}, LayoutMismatch, "'steps' is int64"),
        ({"steps": torch.tensor(17.0)}, LayoutMismatch, "steps is float32, expected int64"),
        ({"body._extra_state": {"a": 1}}, BadInput, "'body._extra_state' is a dict and no tensor"),
        ({"w": torch.empty(2, device="meta")}, BadInput, "'w' is on the meta device"),
        ({"w": torch.eye(2).to_sparse()}, BadInput, "'w' is a torch.sparse_coo tensor"),
    ],
)
def test_what_cannot_be_added_changes_nothing(
    change: dict[str, Any], error: type[Exception], said: str
) -> None:
    soup = running(small_state(1))
    with pytest.raises(error, match=said):
        soup.add(small_state(2) | change)
    assert len(soup) == 1
    assert same_bits(soup.state_dict(), small_state(1))


def test_half_of_a_tensor_is_refused(tmp_path: Path) -> None:
    """A shard would be averaged as if it were the whole."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        mesh = init_device_mesh("cpu", (1,))
        sharded = DTensor.from_local(torch.zeros(2), mesh, [Replicate()])
        with pytest.raises(BadInput, match="'w' is sharded over several processes"):
            running({"w": sharded})
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_weights_are_above_zero(weight: float) -> None:
    with pytest.raises(BadInput, match="above 0"):
        ladle.RunningSoup().add(small_state(), weight)


def test_nothing_has_no_mean(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="add one first"):
        ladle.RunningSoup().state_dict()
    with pytest.raises(BadInput, match="add one first"):
        ladle.RunningSoup().save(tmp_path / "a.pt")
    with pytest.raises(BadInput, match="no state of a RunningSoup"):
        ladle.RunningSoup().set_state(small_state())
    assert list(tmp_path.iterdir()) == []


def test_a_sum_too_large_for_float64_is_an_error() -> None:
    largest = {"w": torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)}
    with pytest.raises(NonFiniteTensor, match=r"the sum of 2 state dicts .*'w'"):
        running(largest, largest).state_dict()
