"""A state dict that is already in memory, seen as a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ladle.checkpoint.base import Bytes, Envelope, Layout, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class MemoryCheckpoint:
    """Tensors by name, as a checkpoint: see `Checkpoint`. `path` is only a name."""

    path: Path
    state: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    envelope: Envelope = field(default_factory=Envelope)

    @property
    def format(self) -> str:
        return "in memory"

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    @cached_property  # asked for at every slice
    def layout(self) -> Layout:
        tensors: dict[str, TensorSpec] = {}
        ties: dict[str, str] = {}
        seen: dict[object, str] = {}
        for name, tensor in self.state.items():
            place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            first = seen.setdefault(place, name)
            if first != name and tensor.numel():
                ties[name] = first
            else:
                dtype = str(tensor.dtype).removeprefix("torch.")
                tensors[name] = TensorSpec(dtype, tuple(tensor.shape))
        return Layout(tensors, ties)

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        import torch

        tensor = self.state[name].detach()
        count = out.nbytes // ITEMSIZE[str(tensor.dtype).removeprefix("torch.")]
        flat = tensor.reshape(-1)[start : start + count].cpu()
        # `contiguous()` leaves one element of stride 0 alone, and that has no view as bytes.
        flat = flat.clone(memory_format=torch.contiguous_format)
        out[:] = flat.view(torch.uint8).numpy()

    def hash_while_reading(self) -> None:
        """To read memory twice costs little."""

    def digest(self) -> str:
        """The sha256 of names, dtypes, shapes and values."""
        digest = hashlib.sha256()
        for name, spec in self.layout.tensors.items():
            values = np.empty(spec.nbytes, np.uint8)
            if spec.nbytes:
                self.read_into(name, 0, values)
            digest.update(f"{name} {spec}\n".encode())
            digest.update(values.data)
        return digest.hexdigest()


def check_whole(state: Mapping[str, object]) -> None:
    """Check that the values of a live state dict are tensors, with all of their numbers here.

    Raises:
        BadInput: one is not.
    """
    import torch

    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise BadInput(f"{name!r} is a {type(value).__name__} and no tensor; leave it out")
        if hasattr(value, "placements") or hasattr(value, "local_shards"):
            raise BadInput(
                f"{name!r} is sharded over several processes; gather the full state dict first, "
                "with get_model_state_dict of torch.distributed.checkpoint.state_dict"
            )
        if value.is_meta:
            raise BadInput(f"{name!r} is on the meta device and has no values; load them first")
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in ITEMSIZE or value.layout != torch.strided:
            raise BadInput(
                f"{name!r} is a {value.layout} tensor of {dtype}, which ladle knows nothing of; "
                "make it a dense one"
            )
