"""A soup poured into a live module."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from ladle.errors import LayoutMismatch, NonFiniteTensor
from ladle.soup import Pool, uniform_soup
from states import State, pool_of, same_bits


class Net(nn.Module):
    """A bit of everything: convolution, BatchNorm with its counter, tied weights, a scalar."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.tensor(float(seed)))
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.num_batches_tracked.fill_(seed)


def by_hand(n: int = 3) -> State:
    states = [Net(i).state_dict() for i in range(n)]
    mean = {
        name: (sum(s[name].double() for s in states) / n).to(tensor.dtype)
        for name, tensor in states[0].items()
        if tensor.is_floating_point()
    }
    return {n_: mean.get(n_, states[-1][n_]) for n_ in states[0]}


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return pool_of(tmp_path, *[Net(i).state_dict() for i in range(3)], suffix="pt")


def test_the_models_tensors_become_the_soups(pool: Pool) -> None:
    model = Net(99)
    assert uniform_soup(pool).load_into(model) is model
    assert same_bits(model.state_dict(), by_hand())
    assert int(model.norm.num_batches_tracked) == 2


def test_the_models_tensors_stay_the_same_objects(pool: Pool) -> None:
    """An optimizer holds them, and weights that are tied have to stay so."""
    model = Net(99)
    before = dict(model.named_parameters())
    uniform_soup(pool).load_into(model)
    assert all(p is before[name] for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert model.head.weight is model.embed.weight


def test_loading_twice_is_loading_once(pool: Pool) -> None:
    model = Net(99)
    soup = uniform_soup(pool)
    once = copy.deepcopy(soup.load_into(model).state_dict())
    assert same_bits(soup.load_into(model).state_dict(), once)


def test_channels_last_weights_keep_their_layout_and_get_the_right_values(pool: Pool) -> None:
    model = Net(99).to(memory_format=torch.channels_last)
    strides = model.conv.weight.stride()
    assert not model.conv.weight.is_contiguous()
    uniform_soup(pool).load_into(model)
    assert model.conv.weight.stride() == strides
    assert same_bits(model.state_dict(), by_hand())


def test_a_model_in_another_dtype_gets_the_soup_in_its_own(pool: Pool) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        model = uniform_soup(pool).load_into(Net(99).to(dtype))
        assert model.conv.weight.dtype == dtype
        wanted = {n: t.to(model.state_dict()[n].dtype) for n, t in by_hand().items()}
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, wanted[name])


def test_a_half_model_gets_the_sum_rounded_once(tmp_path: Path) -> None:
    # The mean of 1 + 2^-8 and 1 + 2^-8 + 2^-31 (float64) is just above half-way between the
    # bfloat16 numbers 1 and 1 + 2^-7; through float32 it would become half-way, and go to 1.
    states = [{"w": torch.tensor([1 + 2.0**-8 + x], dtype=torch.float64)} for x in (0.0, 2.0**-31)]
    model = nn.ParameterDict({"w": nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))})
    uniform_soup(pool_of(tmp_path, *states)).load_into(model)
    assert model["w"].item() == 1 + 2.0**-7


def test_a_soup_too_large_for_the_models_dtype_is_an_error(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, {"w": torch.tensor([1e6])}, {"w": torch.tensor([1e6])})
    model = nn.ParameterDict({"w": nn.Parameter(torch.zeros(1, dtype=torch.float16))})
    with pytest.raises(NonFiniteTensor, match="'w'"):
        uniform_soup(pool).load_into(model)


def test_an_untied_model_gets_the_tied_value_twice(pool: Pool) -> None:
    model = Net(99)
    model.head.weight = nn.Parameter(torch.zeros(6, 4))
    uniform_soup(pool).load_into(model)
    assert same_bits(model.state_dict(), by_hand())


def test_a_tied_model_takes_a_file_that_leaves_the_copy_out(tmp_path: Path) -> None:
    """As transformers saves them: the tie is in the model's code, not in the file."""
    states = [Net(i).state_dict() for i in range(3)]
    for state in states:
        del state["head.weight"]
    model = uniform_soup(pool_of(tmp_path, *states)).load_into(Net(99))
    assert same_bits(model.state_dict(), by_hand())


def test_a_tied_model_refuses_two_values_for_one_weight(tmp_path: Path) -> None:
    """Otherwise a race would decide which of them it gets."""
    states = [Net(i).state_dict() for i in range(2)]
    for state in states:
        state["head.weight"] = state["head.weight"].clone() + 1
    soup = uniform_soup(pool_of(tmp_path, *states))
    with pytest.raises(LayoutMismatch, match=r"ties head.weight to embed.weight"):
        soup.load_into(Net(99))


def test_a_tied_model_takes_two_equal_copies(tmp_path: Path) -> None:
    states = [{n: t.clone() for n, t in Net(i).state_dict().items()} for i in range(3)]
    model = uniform_soup(pool_of(tmp_path, *states)).load_into(Net(99))
    assert same_bits(model.state_dict(), by_hand())


def test_all_that_does_not_fit_is_named_and_nothing_is_changed(pool: Pool) -> None:
    model = Net(99)
    model.embed = nn.Embedding(8, 4)
    model.more = nn.Linear(2, 2, bias=False)
    del model.scale
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LayoutMismatch) as caught:
        uniform_soup(pool).load_into(model)
    for part in (
        "does not fit into Net",
        "the soup lacks more.weight",
        "the model lacks scale",
        "embed.weight has shape [6, 4] in the soup, [8, 4] in the model",
    ):
        assert part in str(caught.value)
    assert same_bits(model.state_dict(), before)


def test_numbers_are_not_cut_to_integers(tmp_path: Path) -> None:
    model = nn.Module()
    model.register_buffer("w", torch.zeros(2, dtype=torch.int64))
    soup = uniform_soup(pool_of(tmp_path, {"w": torch.tensor([1.5, 2.5])}))
    with pytest.raises(LayoutMismatch, match=r"w is float32 in the soup, torch.int64 in the model"):
        soup.load_into(model)


def test_a_frozen_model_in_inference_mode_is_filled_too(pool: Pool) -> None:
    model = Net(99).eval().requires_grad_(False)
    with torch.inference_mode():
        uniform_soup(pool).load_into(model)
    assert same_bits(model.state_dict(), by_hand())


def test_a_state_dict_keeps_ties(pool: Pool) -> None:
    state = uniform_soup(pool).state_dict()
    assert state["head.weight"].data_ptr() == state["embed.weight"].data_ptr()
    assert same_bits(state, by_hand())
    Net(99).load_state_dict(state)
