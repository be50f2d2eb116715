"""The weights of a live model, and whether this process has all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ladle.checkpoint import MemoryCheckpoint
from ladle.checkpoint.memory import check_whole
from ladle.checkpoint.write import Plain, safetensors_file
from ladle.errors import BadInput
from ladle.merge.slices import read_bytes, slices

if TYPE_CHECKING:
    from torch import Tensor, nn


def write_state(state: Mapping[str, Tensor], folder: Path) -> None:
    """A state dict as `model.safetensors`; of tied tensors one is written and the others named.

    Raises:
        BadInput: it holds something that is no tensor, or only a part of one.
    """
    check_whole(state)
    live = MemoryCheckpoint(folder, state)
    with safetensors_file(folder / "model.safetensors", live.layout, Plain()) as sink:
        for name, spec in live.layout.tensors.items():
            for start, stop in slices(spec):
                sink.write(name, start, read_bytes(live, name, start, stop))


def refuse_sharded(model: nn.Module) -> None:
    """Check that this process has whole weights.

    Raises:
        BadInput: they are dealt out over processes, as by FSDP and by ZeRO 3 of DeepSpeed.
    """
    is_flat = any(type(one).__name__ == "FullyShardedDataParallel" for one in model.modules())
    if is_flat or any(_is_shard(parameter) for parameter in model.parameters()):
        raise BadInput(
            "the model is sharded over processes (FSDP, or ZeRO 3), each of which has a part of "
            "its weights; save full checkpoints with the library itself, which ladle reads, or "
            "train with DDP or ZeRO 1 or 2"
        )


def _is_shard(parameter: object) -> bool:
    return hasattr(parameter, "placements") or hasattr(parameter, "ds_id")
