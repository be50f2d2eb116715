"""Several files of weights and the index that says which tensor is where."""

from __future__ import annotations

import json
from pathlib import Path

from ladle.checkpoint.base import Layout, TensorSpec
from ladle.checkpoint.regions import Region
from ladle.checkpoint.safetensors import read_safetensors, ties_in
from ladle.checkpoint.stored import StoredCheckpoint
from ladle.checkpoint.torch_file import read_torch_file
from ladle.errors import UnreadableCheckpoint

INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")


def read_sharded(index: Path) -> StoredCheckpoint:
    """Open the shards that an index names, safetensors or of torch.save, as one checkpoint.

    Raises:
        UnreadableCheckpoint: the index is broken, or it and the shards disagree.
    """
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        placed = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{index} is no index of shards: {error!r}") from error
    if not placed:
        raise UnreadableCheckpoint(f"{index} is no index of shards: it names no tensor")

    kind, read = (
        ("safetensors", read_safetensors)
        if index.name.endswith(INDEX_SUFFIXES[0])
        else ("torch.save", read_torch_file)
    )
    names = sorted(set(placed.values()))
    tensors: dict[str, TensorSpec] = {}
    regions: dict[str, Region] = {}
    metadata: dict[str, str] = {}
    ties: dict[str, str] = {}
    where: dict[str, str] = {}
    twice: set[str] = set()
    for name in names:
        file = index.parent / name
        # An index from somewhere else must not make us read outside its folder.
        if Path(name).name != name:
            raise UnreadableCheckpoint(f"{index} names {name!r}, which is not a file beside it")
        if not file.is_file():
            raise UnreadableCheckpoint(
                f"{index} names the shard {name}, which is missing; copy or download it too"
            )
        shard = read(file)
        tensors.update(shard.layout.tensors)
        ties.update(shard.layout.ties)
        regions.update(shard.regions)
        metadata.update(shard.metadata)
        mine = shard.layout.tensors.keys() | shard.layout.ties.keys()
        if kind == "safetensors":
            mine = set(shard.layout.tensors)  # Its aliases are a remark in the header.
        twice |= where.keys() & mine
        where.update(dict.fromkeys(mine, name))

    astray = sorted(
        tensor
        for tensor in placed.keys() | where.keys()
        if tensor in twice or where.get(tensor) != placed.get(tensor)
    )
    if astray:
        raise UnreadableCheckpoint(
            f"{index} and its shards disagree on where {astray[0]!r} is"
            + (f" (and {len(astray) - 1} more)" if len(astray) > 1 else "")
            + "; shards of two different saves may be mixed in this folder"
        )
    return StoredCheckpoint(
        path=index,
        format=f"{kind}, {len(names)} shards",
        files=tuple(index.parent / name for name in names),
        layout=Layout(tensors, ties_in(metadata, tensors) | ties),
        regions=regions,
        metadata=metadata,
    )
