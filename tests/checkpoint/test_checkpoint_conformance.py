"""What every checkpoint promises, whatever its format. See the `Checkpoint` protocol."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ladle.checkpoint import Checkpoint, MemoryCheckpoint, open_checkpoint, renamed_as
from ladle.errors import UnreadableCheckpoint
from states import State, data_of, generator, read, save_shards

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.uint32,
    torch.int64,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
]


def of_every_kind() -> State:
    """Every dtype, and the shapes that are easily forgotten."""
    noise = generator(1)
    state = {
        f"kind.{str(dtype).removeprefix('torch.')}": torch.randint(
            0, 2, (24,), generator=noise, dtype=torch.uint8
        ).to(dtype)
        for dtype in DTYPES
    }
    state["shape.scalar"] = torch.tensor(2.5)
    state["shape.counter"] = torch.tensor(3)
    state["shape.empty"] = torch.empty(0)
    state["shape.empty_3d"] = torch.empty(2, 0, 3, dtype=torch.float16)
    state["shape.one"] = torch.ones(1, 1, 1, dtype=torch.uint8)
    state["shape.odd"] = torch.randn(3, 5, 7, generator=noise).to(torch.bfloat16)
    return state


def as_safetensors(folder: Path, state: State) -> Checkpoint:
    save_file(state, folder / "one.safetensors")
    return open_checkpoint(folder / "one.safetensors")


def as_shards(folder: Path, state: State) -> Checkpoint:
    return open_checkpoint(save_shards(folder, state, 3))


def as_folder(folder: Path, state: State) -> Checkpoint:
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return open_checkpoint(folder)


def as_folder_of_shards(folder: Path, state: State) -> Checkpoint:
    save_shards(folder, state, 2)
    return open_checkpoint(folder)


def as_torch_file(folder: Path, state: State) -> Checkpoint:
    torch.save(state, folder / "one.pt")
    return open_checkpoint(folder / "one.pt")


def as_folder_of_bin(folder: Path, state: State) -> Checkpoint:
    torch.save(state, folder / "pytorch_model.bin")
    return open_checkpoint(folder)


def as_shards_of_bin(folder: Path, state: State) -> Checkpoint:
    names = sorted(state)
    weight_map = {}
    for i in range(3):
        file = f"pytorch_model-{i + 1:05d}-of-00003.bin"
        torch.save({name: state[name] for name in names[i::3]}, folder / file)
        weight_map |= dict.fromkeys(names[i::3], file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return open_checkpoint(folder)


def as_training(folder: Path, state: State) -> Checkpoint:
    optimizer = {"state": {0: {"m": torch.ones(5)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 3, "optimizer": optimizer, "model": {"module": state}, "loss": 0.1}
    torch.save(content, folder / "last.ckpt")
    return open_checkpoint(folder / "last.ckpt")


def as_prefixed(folder: Path, state: State) -> Checkpoint:
    torch.save({f"module._orig_mod.{n}": t for n, t in state.items()}, folder / "one.pth")
    return renamed_as(open_checkpoint(folder / "one.pth"), state)


def as_distributed(folder: Path, state: State) -> Checkpoint:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.save({"model": state}, checkpoint_id=str(folder / "step-1"), no_dist=True)
    return open_checkpoint(folder / "step-1")


def as_memory(folder: Path, state: State) -> Checkpoint:
    return MemoryCheckpoint(folder / "live", state)


ON_DISK = [
    as_safetensors,
    as_shards,
    as_folder,
    as_folder_of_shards,
    as_torch_file,
    as_folder_of_bin,
    as_shards_of_bin,
    as_training,
    as_prefixed,
    as_distributed,
]
Save = Callable[[Path, State], Checkpoint]


@pytest.fixture(params=[*ON_DISK, as_memory], ids=lambda save: save.__name__)
def save(request: pytest.FixtureRequest) -> Save:
    return request.param


@pytest.fixture(params=ON_DISK, ids=lambda save: save.__name__)
def save_on_disk(request: pytest.FixtureRequest) -> Save:
    return request.param


def test_names_dtypes_and_shapes_are_the_state_dicts(save: Save, tmp_path: Path) -> None:
    state = of_every_kind()
    found = save(tmp_path, state).layout
    assert {name: (spec.dtype, spec.shape) for name, spec in found.tensors.items()} == {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in state.items()
    }
    assert found.ties == {}
    assert found.parameters == sum(tensor.numel() for tensor in state.values())
    assert found.nbytes == sum(tensor.nbytes for tensor in state.values())


def test_every_tensor_reads_back_byte_for_byte(save: Save, tmp_path: Path) -> None:
    state = of_every_kind()
    checkpoint = save(tmp_path, state)
    for name, tensor in state.items():
        assert read(checkpoint, name) == data_of(tensor), name


def test_any_slice_is_the_tensors_own_slice(save: Save, tmp_path: Path) -> None:
    state = of_every_kind()
    checkpoint = save(tmp_path, state)
    for name in ("shape.odd", "kind.int64", "kind.bool", "kind.float64"):
        flat = state[name].reshape(-1)
        for start, stop in [(0, 1), (1, 2), (7, 19), (len(flat) - 1, len(flat)), (5, 5)]:
            assert read(checkpoint, name, start, stop) == data_of(flat[start:stop]), name


def test_the_layout_is_made_once(save: Save, tmp_path: Path) -> None:
    """It is asked for at every slice of every tensor."""
    checkpoint = save(tmp_path, of_every_kind())
    assert checkpoint.layout is checkpoint.layout


def test_a_checkpoint_survives_pickling(save: Save, tmp_path: Path) -> None:
    state = {"w": torch.randn(3, 5, generator=generator(1))}
    copy = pickle.loads(pickle.dumps(save(tmp_path, state)))  # noqa: S301 - our own bytes
    assert read(copy, "w") == data_of(state["w"])


def test_the_digest_is_of_the_contents(save: Save, tmp_path: Path) -> None:
    digests = []
    for i, seed in enumerate([0, 0, 1]):
        folder = tmp_path / str(i)
        folder.mkdir()
        digests.append(save(folder, {"w": torch.randn(50, generator=generator(seed))}).digest())
    assert digests[0] == digests[1] != digests[2]
    assert all(len(digest) == 64 for digest in digests)


def test_opening_reads_no_weights(save_on_disk: Save, tmp_path: Path) -> None:
    """Bytes that are replaced after opening are the ones that are read."""
    old, new = torch.full((64,), 1.25), torch.full((64,), -3.5)
    checkpoint = save_on_disk(tmp_path, {"w": old, "x": torch.zeros(3)})
    replaced = 0
    for file in checkpoint.files:
        content = file.read_bytes()
        replaced += content.count(data_of(old))
        as_it_was = file.stat()
        file.write_bytes(content.replace(data_of(old), data_of(new)))
        # A checkpoint that knows it changed would refuse; here only the clock must not tell.
        os.utime(file, ns=(as_it_was.st_atime_ns, as_it_was.st_mtime_ns))
    assert replaced == 1
    assert read(checkpoint, "w") == data_of(new)


def test_the_files_of_a_checkpoint_are_all_there(save_on_disk: Save, tmp_path: Path) -> None:
    checkpoint = save_on_disk(tmp_path, of_every_kind())
    assert checkpoint.files
    assert all(file.is_file() for file in checkpoint.files)


@given(data=st.data())
def test_views_of_any_stride_read_in_row_major_order(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """torch.save keeps strides and offsets: transposed, expanded, cut out, overlapping."""
    shape = data.draw(st.lists(st.integers(1, 4), max_size=4))
    strides = data.draw(st.lists(st.integers(0, 5), min_size=len(shape), max_size=len(shape)))
    offset = data.draw(st.integers(0, 9))
    dtype = data.draw(st.sampled_from([torch.uint8, torch.bfloat16, torch.float32, torch.int64]))
    view = torch.arange(100).to(dtype).as_strided(shape, strides, offset)
    start = data.draw(st.integers(0, view.numel()))
    stop = data.draw(st.integers(start, view.numel()))
    folder = tmp_path_factory.mktemp("views")
    for save in (as_torch_file, as_memory):
        checkpoint = save(folder, {"view": view})
        assert read(checkpoint, "view", start, stop) == data_of(view.reshape(-1)[start:stop])


@pytest.mark.parametrize("save", [as_torch_file, as_memory])
def test_views_into_one_storage_are_told_apart(save: Save, tmp_path: Path) -> None:
    whole = torch.arange(24.0)
    state = {
        "front": whole[:12].view(3, 4),
        "back": whole[12:].view(3, 4),
        "transposed": whole[:12].view(3, 4).T,
        "channels_last": whole.view(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "expanded": whole[5].expand(4, 6),
    }
    checkpoint = save(tmp_path, state)
    assert checkpoint.layout.ties == {}
    for name, tensor in state.items():
        assert read(checkpoint, name) == data_of(tensor), name


@pytest.mark.parametrize("save", [as_torch_file, as_memory, as_folder_of_bin])
def test_one_tensor_under_three_names_is_one_tensor_and_two_ties(
    save: Save, tmp_path: Path
) -> None:
    shared = torch.randn(4, 3, generator=generator(0))
    state = {"embed": shared, "copy": shared.clone(), "head": shared, "again": shared.view(4, 3)}
    layout = save(tmp_path, state).layout
    assert list(layout.tensors) == ["embed", "copy"]
    assert layout.ties == {"head": "embed", "again": "embed"}


@pytest.mark.parametrize("save", [as_torch_file, as_memory])
def test_empty_tensors_are_not_tied_to_each_other(save: Save, tmp_path: Path) -> None:
    layout = save(tmp_path, {"a": torch.empty(0), "b": torch.empty(0)}).layout
    assert layout.ties == {}
    assert set(layout.tensors) == {"a", "b"}


def test_a_file_that_changes_after_opening_is_named(save_on_disk: Save, tmp_path: Path) -> None:
    checkpoint = save_on_disk(tmp_path, {"w": torch.ones(5000), "x": torch.zeros(5000)})
    for file in checkpoint.files:
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UnreadableCheckpoint, match="changed after it was opened"):
        read(checkpoint, "w")


def test_a_file_that_changes_under_a_strided_tensor_is_named_too(tmp_path: Path) -> None:
    checkpoint = as_torch_file(tmp_path, {"w": torch.ones(100, 50).T})
    path = checkpoint.files[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UnreadableCheckpoint, match="changed after it was opened"):
        read(checkpoint, "w")


def test_a_training_that_writes_on_is_noticed_at_the_same_size(
    save_on_disk: Save, tmp_path: Path
) -> None:
    checkpoint = save_on_disk(tmp_path, {"w": torch.ones(100)})
    for file in checkpoint.files:
        file.write_bytes(file.read_bytes())
        os.utime(file, ns=(0, 1))
    with pytest.raises(UnreadableCheckpoint, match="changed after it was opened"):
        checkpoint.digest()
