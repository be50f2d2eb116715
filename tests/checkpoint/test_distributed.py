"""Torch distributed checkpoints: read as torch itself reads them, and without running anything."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save, torch_save_to_dcp

import ladle
from ladle.checkpoint import open_checkpoint
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
        lambda s: {"app": {"model": s}, "optimizer": {"m": torch.ones(3)}},
    ],
    ids=["flat", "model", "state_dict", "torchtitan", "one key"],
)
def test_the_models_tensors_are_found(
    tmp_path: Path, around: Callable[[State], dict[str, Any]]
) -> None:
    if "app" in around({}):
        with pytest.raises(UnreadableCheckpoint, match="save the model's state_dict"):
            open_checkpoint(saved(tmp_path / "step-10", around(state())))
        return
    holds(saved(tmp_path / "step-10", around(state())), state())


def test_a_trainers_folder_with_fsdp(tmp_path: Path) -> None:
    """Accelerate and the Trainer keep the shards in a folder of their own."""
    for step in (10, 20):
        folder = tmp_path / f"checkpoint-{step}"
        saved(folder / "pytorch_model_fsdp_0", {"model": state(step)})
        saved(folder / "optimizer_0", {"optimizer": {"m": torch.ones(3)}})
    pool = ladle.open(tmp_path)
    assert [one.facts.step for one in pool] == [10, 20]


# Each rank has its rows, or its columns, of each weight.
PROGRAM = """
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}.rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(5)
weights = {
    "rows": (torch.randn(7, 6), Shard(0)),
    "columns": (torch.randn(5, 9), Shard(1)),
    "deep": (torch.randn(4, 3, 5).to(torch.bfloat16), Shard(2)),
    "both": (torch.randn(3, 3), Replicate()),
    "bias": (torch.randn(7), Shard(0)),
}
model = {name: distribute_tensor(whole, mesh, [how]) for name, (whole, how) in weights.items()}
dcp.save({"model": model}, checkpoint_id=folder)
if rank == 0:
    torch.save({name: whole for name, (whole, how) in weights.items()}, folder + ".pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_shards_of_two_processes(tmp_path: Path) -> None:
    """Cut along rows, columns and deeper dimensions by DTensor, saved by both ranks."""
    folder = tmp_path / "step-5"
    ranks = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(rank), str(folder)]) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    assert len(list(folder.glob("*.distcp"))) == 2
    wanted = torch.load(tmp_path / "step-5.pt", weights_only=True)
    holds(folder, wanted)
    assert "2 files" in open_checkpoint(folder).format


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
    (folder / ".metadata").write_bytes(pickle.dumps(Harmful(tmp_path / "it-ran")))
    with pytest.raises(
        UnreadableCheckpoint, match=r"could run code \(posix.mkdir\), so it was not"
    ):
        open_checkpoint(folder)
    assert not (tmp_path / "it-ran").exists()


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
    refused(folder, r"names __0_0.distcp, which is missing; copy it too")
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
    about = dcp.FileSystemReader(str(folder)).read_metadata()
    for size in ([5, 4], [4, 8]):
        entry = about.state_dict_metadata["model.w"]
        entry.size = torch.Size(size)
        (folder / ".metadata").write_bytes(pickle.dumps(about))
        refused(folder, "do not make up")
    entry.size = torch.Size([4, 4])
    entry.chunks = entry.chunks * 2
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    refused(folder, "do not make up")


def test_a_file_elsewhere_is_not_followed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", {"model": {"w": torch.ones(4)}})
    about = dcp.FileSystemReader(str(folder)).read_metadata()
    for item in about.storage_data.values():
        object.__setattr__(item, "relative_path", "../b/__0_0.distcp")
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    refused(folder, "which is not a file beside it")


@settings(max_examples=300)
@given(
    which=st.sampled_from([".metadata", "__0_0.distcp"]),
    where=st.floats(0, 1, exclude_max=True),
    new=st.binary(min_size=1, max_size=4),
)
def test_damaged_files(
    which: str, where: float, new: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each opens as what it says, or is refused."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed-dcp"
    if not folder.exists():
        saved(folder, training())
    whole = (folder / which).read_bytes()
    at = int(where * len(whole))
    try:
        (folder / which).write_bytes(whole[:at] + new + whole[at + len(new) :])
        checkpoint = open_checkpoint(folder)
        for name, spec in checkpoint.layout.tensors.items():
            if spec.numel < 10_000:
                read(checkpoint, name)
    except UnreadableCheckpoint:
        pass
    finally:
        (folder / which).write_bytes(whole)
