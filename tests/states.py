"""State dicts, the ways in which people save them, and their bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ladle.checkpoint import Checkpoint, open_checkpoint
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.soup import Ingredient, Pool

State = dict[str, Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_state(seed: int = 0, scale: float = 1.0) -> State:
    """Some float32 weights, a counter and a mask; the last two do not depend on the seed."""
    noise = generator(seed)
    return {
        "body.weight": scale * torch.randn(5, 7, generator=noise),
        "body.bias": scale * torch.randn(7, generator=noise),
        "head.weight": scale * torch.randn(3, 5, generator=noise),
        "steps": torch.tensor(17),
        "mask": torch.tensor([True, False, True]),
    }


def save_shards(folder: Path, state: Mapping[str, Tensor], shards: int = 2) -> Path:
    """`state` dealt out over several safetensors files, with their index; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    weight_map: dict[str, str] = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        mine = {name: state[name] for name in names[i::shards]}
        save_file(mine, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(mine, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def pool_of(folder: Path, *states: Mapping[str, Tensor], suffix: str = "safetensors") -> Pool:
    """States saved as files a, b, c, ... of `folder`, opened as a pool."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{chr(ord('a') + i)}.{suffix}" for i in range(len(states))]
    for path, state in zip(paths, states, strict=True):
        if suffix == "safetensors":
            save_file(dict(state), path)
        else:
            torch.save(dict(state), path)
    # Not `open_pool`, which counts copies once.
    return Pool.of(Ingredient(path.name, open_checkpoint(path)) for path in paths)


def data_of(tensor: Tensor) -> bytes:
    """The elements' bytes in row-major order."""
    flat = tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().tobytes()


def read(checkpoint: Checkpoint, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes of a slice as the checkpoint tells them."""
    spec = checkpoint.layout.tensors[name]
    stop = spec.numel if stop is None else stop
    out = np.full((stop - start) * ITEMSIZE[spec.dtype], 0xAA, np.uint8)
    checkpoint.read_into(name, start, out)
    return out.tobytes()


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are equal to the last bit, signs of zeros included."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and data_of(one[name]) == data_of(other[name])
        for name in one
    )


def with_header(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
