"""Damaged files: each opens as what it says, or is refused. Nothing else may happen."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ladle.checkpoint import open_checkpoint
from ladle.errors import UnreadableCheckpoint
from states import State, read, save_shards

pytestmark = pytest.mark.slow

MANY = settings(max_examples=700)


def state() -> State:
    shared = torch.arange(12.0).view(3, 4)
    return {
        "body": shared,
        "head": torch.ones(2, 3, dtype=torch.bfloat16),
        "steps": torch.tensor(7),
    }


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """What to do to some places of a file; places are fractions of its length."""
    some = st.tuples(
        st.sampled_from(["replace", "insert", "cut", "end", "swap"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=9),
    )
    return draw(st.lists(some, min_size=1, max_size=4))


def damaged(whole: bytes, what: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, new in what:
        at = int(where * len(whole))
        if kind == "replace":
            whole = whole[:at] + new + whole[at + len(new) :]
        elif kind == "insert":
            whole = whole[:at] + new + whole[at:]
        elif kind == "cut":
            whole = whole[:at] + whole[at + len(new) :]
        elif kind == "end":
            whole = whole[:at]
        else:
            whole = whole[at:] + whole[:at]
    return whole


def training() -> dict[str, object]:
    """A state dict among what trainings keep beside it."""
    return {
        "state_dict": state(),
        "state_dict_ema": state(),
        "args": argparse.Namespace(lr=0.1, layers=[1, 2]),
        "optimizer": {"state": {0: {"m": torch.ones(5), "step": torch.tensor(3.0)}}},
        "metric": np.float64(0.5),
    }


def opens_or_is_refused(path: Path) -> None:
    try:
        checkpoint = open_checkpoint(path)
    except UnreadableCheckpoint:
        return
    for name, spec in checkpoint.layout.tensors.items():
        # Expanded tensors may be larger than any file, so a damaged stride makes anything.
        if spec.numel < 10_000:
            read(checkpoint, name)


@pytest.fixture(scope="module", autouse=True)
def _little_memory() -> Iterator[None]:
    """A size that a file invents must not be allocated: 4 GB more than now is the limit."""
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4_000_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@MANY
@given(what=damages(), header_only=st.booleans())
def test_damaged_safetensors(
    what: list[tuple[str, float, bytes]],
    header_only: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    save_file(state(), path, {"format": "pt", "alias": "body"})
    whole = path.read_bytes()
    if header_only:
        # The length stays right, so that the damage reaches the checks behind it.
        end = 8 + int.from_bytes(whole[:8], "little")
        header = damaged(whole[8:end], what)
        whole = len(header).to_bytes(8, "little") + header + whole[end:]
    else:
        whole = damaged(whole, what)
    path.write_bytes(whole)
    opens_or_is_refused(path)


@MANY
@given(what=damages(), nested=st.booleans())
def test_damaged_torch_files(
    what: list[tuple[str, float, bytes]], nested: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    torch.save(training() if nested else state(), path)
    path.write_bytes(damaged(path.read_bytes(), what))
    opens_or_is_refused(path)


@MANY
@given(
    where=st.floats(0, 1, exclude_max=True),
    new=st.binary(min_size=1, max_size=3),
    nested=st.booleans(),
)
def test_damaged_pickles_in_whole_zips(
    where: float, new: bytes, nested: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    torch.save(training() if nested else state(), path)
    whole = path.read_bytes()
    begin = whole.index(b"\x80\x02")
    end = whole.index(b"PK\x07\x08", begin)
    at = begin + int(where * (end - begin - len(new)))
    path.write_bytes(whole[:at] + new + whole[at + len(new) :])
    opens_or_is_refused(path)


@settings(max_examples=150)
@given(what=damages())
def test_damaged_indexes(
    what: list[tuple[str, float, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    index = save_shards(tmp_path_factory.getbasetemp() / "shards", state())
    index.write_bytes(damaged(index.read_bytes(), what))
    opens_or_is_refused(index)


@MANY
@given(what=damages(), which=st.sampled_from(["adapter_config.json", "adapter_model.safetensors"]))
def test_damaged_adapters(
    what: list[tuple[str, float, bytes]], which: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-adapter"
    folder.mkdir(exist_ok=True)
    factors = {"lora_A.weight": torch.ones(2, 3), "lora_B.weight": torch.ones(4, 2)}
    save_file(
        {f"base_model.model.layer.{name}": tensor for name, tensor in factors.items()},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"layer": 2}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / which).write_bytes(damaged((folder / which).read_bytes(), what))
    opens_or_is_refused(folder)
