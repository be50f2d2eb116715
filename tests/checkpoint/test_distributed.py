"""Torch distributed checkpoints: read as torch itself reads them, and without running anything."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed._shard.sharded_tensor import metadata as before_2_3
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save, torch_save_to_dcp
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    ChunkStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)

import ladle
from ladle.checkpoint import open_checkpoint
from ladle.checkpoint.base import Bytes, TensorSpec
from ladle.checkpoint.regions import Box, Plain, Region, Strided, Tiled
from ladle.errors import UnreadableCheckpoint
from states import State, data_of, generator, read, same_bits

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def state(seed: int = 0) -> State:
    noise = generator(seed)
    return {
        "body.weight": torch.randn(6, 4, generator=noise),
        "body.scale": torch.randn((), generator=noise),
        "half": torch.randn(3, 2, 5, generator=noise).to(torch.bfloat16),
        "turned": torch.randn(4, 7, generator=noise).t(),
        "steps": torch.arange(9),
        "none": torch.empty(0, 3),
    }


def saved(folder: Path, content: dict[str, Any]) -> Path:
    dcp.save(content, checkpoint_id=str(folder), no_dist=True)
    return folder


def training(seed: int = 0) -> dict[str, Any]:
    optimizer = {"state": {"0": {"exp_avg": torch.ones(3)}}, "lr": 0.1}
    return {"model": state(seed), "optimizer": optimizer, "epoch": 3}


def holds(folder: Path, wanted: State) -> None:
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.layout.tensors) == set(wanted)
    for name, tensor in wanted.items():
        spec = checkpoint.layout.tensors[name]
        assert (spec.dtype, spec.shape) == (str(tensor.dtype)[6:], tuple(tensor.shape))
        assert read(checkpoint, name) == data_of(tensor)
        size = tensor.element_size()
        for start in range(0, tensor.numel(), 5):
            stop = min(tensor.numel(), start + 7)
            assert (
                read(checkpoint, name, start, stop) == data_of(tensor)[start * size : stop * size]
            )


@pytest.mark.parametrize(
    "around",
    [
        lambda s: s,
        lambda s: {"model": s, "optimizer": {"m": torch.ones(3)}, "epoch": 3},
        lambda s: {"state_dict": s, "rng": [1, 2]},
        lambda s: {
            **s,
            "optimizer": {"m": torch.ones(3)},
            "train_state": {"step": torch.tensor(3)},
        },
        lambda s: {**s, "optimizer.m": torch.ones(3), "lr_scheduler": {"lr": torch.ones(3)}},
        lambda s: {"app": {"model": s, "optim": {"m": torch.ones(3)}}, "epoch": 3},
        lambda s: {"app": {"model": s}, "optimizer": {"state": {"m": torch.ones(3)}}},
    ],
    ids=["flat", "model", "state_dict", "torchtitan", "dotted", "an app's", "beside an app's"],
)
def test_the_models_tensors_are_found(
    tmp_path: Path, around: Callable[[State], dict[str, Any]]
) -> None:
    holds(saved(tmp_path / "step-10", around(state())), state())


def test_an_average_of_the_weights_is_preferred(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", {"model": state(1), "ema": state(2), "optimizer": {"lr": 0.1}})
    holds(folder, state(2))
    live = open_checkpoint(folder, use_ema=False)
    assert read(live, "body.weight") == data_of(state(1)["body.weight"])


def test_several_models_are_not_chosen_from(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", {"one": state(1), "other": state(2)})
    refused(folder, r"\.metadata holds several state dicts \(one, other\)")
    saved(tmp_path / "b", {"one": {"model": state(1)}, "other": {"model": state(2)}})
    refused(tmp_path / "b", "save the model's state_dict")


def test_every_file_of_one_process_is_read(tmp_path: Path) -> None:
    """One for each tensor, or for each thread; nothing is read of an empty tensor's."""
    alone, threads = tmp_path / "alone", tmp_path / "threads"
    for writer in (
        FileSystemWriter(alone, single_file_per_rank=False),
        FileSystemWriter(threads, thread_count=3),
    ):
        dcp.save({"model": state()}, storage_writer=writer, no_dist=True)
    for folder, count in ((alone, "5 files"), (threads, "3 files")):
        holds(folder, state())
        assert open_checkpoint(folder).format == f"torch distributed checkpoint, {count}"
    assert open_checkpoint(saved(tmp_path / "one", state())).format.endswith(" 1 file")


def test_a_trainers_folder_with_fsdp(tmp_path: Path) -> None:
    """Accelerate and the Trainer keep the shards in a folder of their own."""
    for step in (10, 20):
        folder = tmp_path / f"checkpoint-{step}"
        saved(folder / "pytorch_model_fsdp_0", {"model": state(step)})
        saved(folder / "optimizer_0", {"optimizer": {"m": torch.ones(3)}})
    pool = ladle.open(tmp_path)
    assert [one.facts.step for one in pool] == [10, 20]


# Each rank has its rows, or its columns, of each weight; or none.
PROGRAM = """
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}.rendezvous", rank=rank, world_size=3)
mesh = init_device_mesh("cpu", (3,))
torch.manual_seed(5)
weights = {
    "rows": (torch.randn(7, 6), Shard(0)),
    "columns": (torch.randn(5, 9), Shard(1)),
    "deep": (torch.randn(4, 3, 5).to(torch.bfloat16), Shard(2)),
    "both": (torch.randn(3, 3), Replicate()),
    "bias": (torch.randn(7), Shard(0)),
    "few": (torch.randn(1, 4), Shard(0)),
    "none": (torch.randn(4, 0), Shard(0)),
    "turned": (torch.randn(6, 5).t(), Shard(0)),
}
model = {name: distribute_tensor(whole, mesh, [how]) for name, (whole, how) in weights.items()}
dcp.save({"model": model}, checkpoint_id=folder + "/placed")

model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))
fully_shard(model[0], mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(4, 6)).sum().backward()
optimizer.step()
model_state, optimizer_state = get_state_dict(model, optimizer)
training = {"model": model_state, "optimizer": optimizer_state, "step": 1}
dcp.save(training, checkpoint_id=folder + "/fully")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_shards_of_several_processes(tmp_path: Path) -> None:
    """Cut along rows, columns and deeper dimensions by DTensor and by FSDP, saved by all ranks."""
    ranks = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(rank), str(tmp_path / "runs")])
        for rank in range(3)
    ]
    assert [process.wait(timeout=240) for process in ranks] == [0, 0, 0]
    for name in ("placed", "fully"):
        folder = tmp_path / "runs" / name
        assert len(list(folder.glob("*.distcp"))) == 3
        dcp_to_torch_save(folder, tmp_path / "whole.pt")
        wanted = torch.load(tmp_path / "whole.pt", weights_only=True)["model"]
        assert len(wanted) == {"placed": 8, "fully": 9}[name]
        holds(folder, wanted)
        assert "3 files" in open_checkpoint(folder).format


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A shape, and boxes that fill it: cut in two, again and again, wherever it pleases."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    boxes = [Box((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 5))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        cut = draw(st.integers(0, box.sizes[axis]))
        for begin, end in ((0, cut), (cut, box.sizes[axis])):
            offsets, sizes = list(box.offsets), list(box.sizes)
            offsets[axis], sizes[axis] = box.offsets[axis] + begin, end - begin
            boxes.append(Box(tuple(offsets), tuple(sizes)))
    return shape, boxes


@given(tiling=tilings(), data=st.data(), turned=st.booleans())
def test_any_run_of_a_tensor_in_pieces(
    tiling: tuple[tuple[int, ...], list[Box]],
    data: st.DataObject,
    turned: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shape, boxes = tiling
    whole = np.arange(int(np.prod(shape)), dtype="<u2").reshape(shape)
    path = tmp_path_factory.getbasetemp() / "pieces"
    pieces: list[tuple[Box, Region]] = []
    with path.open("wb") as file:
        for box in boxes:
            part = whole[tuple(slice(o, e) for o, e in zip(box.offsets, box.ends, strict=True))]
            region: Region = Plain(path, file.tell())
            if turned and part.size:
                columns = np.asfortranarray(part)
                strides = tuple(stride // 2 for stride in columns.strides)
                region = Strided(path, file.tell(), strides)
            file.write(part.tobytes("F" if turned else "C"))
            pieces.append((box, region))
    fetched, fetches = 0, 0

    def fetch(file: Path, offset: int, out: Bytes) -> None:
        nonlocal fetched, fetches
        fetched, fetches = fetched + out.nbytes, fetches + 1
        out[:] = np.frombuffer(path.read_bytes()[offset : offset + out.nbytes], np.uint8)

    start = data.draw(st.integers(0, whole.size))
    stop = data.draw(st.integers(start, whole.size))
    out = np.empty(2 * (stop - start), np.uint8)
    Tiled(tuple(pieces)).read_into(TensorSpec("uint16", shape), start, out, fetch)
    assert out.tobytes() == whole.reshape(-1)[start:stop].tobytes()
    # Nothing but what was asked for, so that a slice costs no more than its size, in few runs.
    assert turned or fetched == out.nbytes
    assert fetches <= 2 * len(shape) * len(boxes)


def test_a_soup_is_the_mean_and_goes_back_into_torch(tmp_path: Path) -> None:
    folders = [saved(tmp_path / f"step-{i}", training(i)) for i in range(3)]
    states = []
    for i, folder in enumerate(folders):
        dcp_to_torch_save(folder, tmp_path / f"{i}.pt")
        states.append(torch.load(tmp_path / f"{i}.pt", weights_only=True)["model"])
    ladle.uniform(ladle.open(folders)).save(tmp_path / "soup.pt")
    # Back into a distributed checkpoint, and from there into a training's state dict.
    torch_save_to_dcp(tmp_path / "soup.pt", tmp_path / "soup")
    found = {name: torch.full_like(tensor, 7) for name, tensor in state().items()}
    dcp.load({"model": found}, checkpoint_id=str(tmp_path / "soup"), no_dist=True)
    for name, tensor in found.items():
        wanted = sum(one[name].double() for one in states) / 3
        assert torch.equal(tensor, wanted.to(tensor.dtype))
    mixed = ladle.open([folders[0], saved_flat(tmp_path / "flat.pt", state(1))])
    assert same_bits(
        ladle.uniform(mixed).state_dict(), ladle.uniform(ladle.open(folders[:2])).state_dict()
    )


def saved_flat(path: Path, content: State) -> Path:
    torch.save(content, path)
    return path


class Harmful:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_code_in_the_metadata_does_not_run(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", training())
    about = metadata_of(folder)
    harmful = Harmful(tmp_path / "it-ran")
    (folder / ".metadata").write_bytes(pickle.dumps(harmful))
    refused(folder, r"names '\w+\.mkdir', which could run code, so it was not loaded")
    about.planner_data["more"] = harmful
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    refused(folder, r"names '\w+\.mkdir'")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pathlib", "PosixPath"),
        ("torch", "Size"),
        ("torch", "float32"),
        ("collections", "OrderedDict"),
        ("torch.serialization", "_get_layout"),
        ("torch.distributed.checkpoint.metadata", "Metadata"),
    ],
)
def test_a_pickle_changes_no_class(tmp_path: Path, module: str, name: str) -> None:
    """BUILD sets attributes of whatever stands before it: here, of a class."""
    folder = saved(tmp_path / "a", training())

    def text(value: str) -> bytes:
        return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()

    attributes = b"N}" + text("name") + text("changed") + b"s" + pickle.TUPLE2
    named = text(module) + text(name) + pickle.STACK_GLOBAL
    (folder / ".metadata").write_bytes(b"\x80\x04" + named + attributes + b"b.")
    refused(folder, "copy it again")
    assert PurePosixPath("a/b").name == "b"


@pytest.mark.parametrize(
    "asking",
    [
        pickle.NONE + pickle.LONG_BINPUT + (2**27).to_bytes(4, "little"),
        pickle.BYTEARRAY8 + (2**31).to_bytes(8, "little"),
        pickle.BINBYTES8 + (2**31).to_bytes(8, "little"),
        pickle.FRAME + (2**31).to_bytes(8, "little"),
    ],
    ids=["memo", "bytearray", "bytes", "frame"],
)
def test_a_size_that_a_pickle_invents_is_not_allocated(tmp_path: Path, asking: bytes) -> None:
    folder = saved(tmp_path / "a", training())
    (folder / ".metadata").write_bytes(b"\x80\x05" + asking + b".")
    tracemalloc.start()
    try:
        refused(folder, "copy it again")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_metadata_of_other_pythons_and_torches(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", training())
    about = metadata_of(folder)

    class Python3112(pickle.Pickler):
        """Which pickles the members of an enumeration by their names."""

        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, _MEM_FORMAT_ENCODING):
                return getattr, (type(thing), thing.name)
            return NotImplemented

    written = io.BytesIO()
    Python3112(written).dump(about)
    (folder / ".metadata").write_bytes(written.getvalue())
    holds(folder, state())

    for entry in about.state_dict_metadata.values():
        if isinstance(entry, TensorStorageMetadata):
            entry.properties = before_2_3.TensorProperties(entry.properties.dtype)
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    assert b"torch.distributed._shard" in (folder / ".metadata").read_bytes()
    holds(folder, state())


def metadata_of(folder: Path) -> Metadata:
    return dcp.FileSystemReader(str(folder)).read_metadata()


def refused(folder: Path, match: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=match) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", training())
    data = folder / "__0_0.distcp"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    refused(folder, r"__0_0.distcp ends before tensor")
    data.unlink()
    refused(folder, r"names '__0_0.distcp', which is missing; copy it too")
    (folder / ".metadata").write_bytes(b"no pickle")
    refused(folder, r"\.metadata is damaged")
    (folder / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    refused(folder, "no metadata of a distributed checkpoint")


def test_pieces_of_another_save_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", {"model": {"w": torch.ones(4, 4)}})
    other = saved(tmp_path / "b", {"model": {"w": torch.ones(2, 8)}})
    (folder / "__0_0.distcp").write_bytes((other / "__0_0.distcp").read_bytes())
    refused(folder, r"has float32 \[2, 8\] for a piece of tensor 'model.w'")


def test_pieces_that_do_not_make_up_the_tensor_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", {"model": {"w": torch.ones(4, 4)}})
    about = metadata_of(folder)
    entry: Any = about.state_dict_metadata["model.w"]
    whole, half, none = (
        ChunkStorageMetadata(torch.Size([0, 0]), torch.Size(sizes))
        for sizes in ([4, 4], [2, 4], [0, 4])
    )
    for size, chunks in [
        ([5, 4], [whole]),
        ([4, 8], [whole]),
        ([2, 4], [whole]),
        ([2, 8], [whole]),
        ([4, 4], [whole, whole]),
        ([4, 4], [half]),
        ([4, 4], [half, half]),
        ([4, 4], [half, none, half, none]),
        ([4, 4], [none]),
        ([4, 4], []),
    ]:
        entry.size, entry.chunks = torch.Size(size), chunks
        (folder / ".metadata").write_bytes(pickle.dumps(about))
        refused(folder, "do not make up")
    entry.chunks = [none, whole, none]
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    holds(folder, {"w": torch.ones(4, 4)})


def test_many_pieces_are_checked_quickly(tmp_path: Path) -> None:
    """A thousand processes is what a large training has, and hundreds of tensors."""
    folder = saved(tmp_path / "a", {"model": {"w": torch.ones(4, 4)}})
    about = metadata_of(folder)
    entry: Any = about.state_dict_metadata["model.w"]
    entry.size = torch.Size([2 * 3, 1024 * 5])
    entry.chunks = [
        ChunkStorageMetadata(torch.Size([3 * row, 5 * column]), torch.Size([3, 5]))
        for row, column in itertools.product(range(2), range(1024))
    ]
    entry.chunks[-1] = entry.chunks[0]
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    begin = time.process_time()
    refused(folder, "do not make up")
    assert time.process_time() - begin < 2


def test_a_part_is_not_a_checkpoint(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", training())
    refused(folder / "__0_0.distcp", f"is a part of a distributed checkpoint; name .*{folder}")
    holds(folder / ".metadata", state())


def test_what_was_not_saved_by_torch_save_is_refused(tmp_path: Path) -> None:
    kind = SerializationFormat.SAFETENSORS
    writer = FileSystemWriter(tmp_path / "a", serialization_format=kind)
    dcp.save({"model": {"w": torch.ones(4, 4)}}, storage_writer=writer, no_dist=True)
    refused(tmp_path / "a", r"__0_0\.distcp .*save with SerializationFormat.TORCH_SAVE")


def test_what_an_extension_changed_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", training())
    about = metadata_of(folder)
    for item in about.storage_data.values():
        item.transform_descriptors = ["stream.zstd"]
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    refused(folder, "was compressed; save the checkpoint without extensions")


def test_a_kind_of_number_that_is_not_read_is_refused_only_in_the_model(tmp_path: Path) -> None:
    odd = torch.ones(2, dtype=torch.complex128)
    holds(saved(tmp_path / "a", {"model": state(), "optimizer": {"m": odd}}), state())
    saved(tmp_path / "b", {"model": {"odd": odd}})
    refused(tmp_path / "b", "tensor 'odd' is complex128, which ladle does not read")


def test_a_file_that_is_cut_or_written_after_opening_is_noticed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", training())
    checkpoint = open_checkpoint(folder)
    data = folder / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-100])
    for name in state():
        if checkpoint.layout.tensors[name].numel:
            with pytest.raises(UnreadableCheckpoint, match="changed after it was opened"):
                read(checkpoint, name)
    with pytest.raises(UnreadableCheckpoint, match="changed after it was opened"):
        checkpoint.digest()


def test_a_file_elsewhere_is_not_followed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", {"model": {"w": torch.ones(4)}})
    about = metadata_of(folder)
    for item in about.storage_data.values():
        object.__setattr__(item, "relative_path", "../b/__0_0.distcp")
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    refused(folder, "which is not a file beside it")
