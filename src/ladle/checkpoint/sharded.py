"""Several safetensors files and the index that says which tensor is where."""

from __future__ import annotations

import json
from pathlib import Path

from ladle.checkpoint.base import Layout, TensorSpec
from ladle.checkpoint.safetensors import read_header, ties_in
from ladle.checkpoint.stored import Region, StoredCheckpoint
from ladle.errors import UnreadableCheckpoint


def read_sharded(index: Path) -> StoredCheckpoint:
    """Open the shards that a `*.safetensors.index.json` names, as one checkpoint.

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

    names = sorted(set(placed.values()))
    tensors: dict[str, TensorSpec] = {}
    regions: dict[str, Region] = {}
    metadata: dict[str, str] = {}
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
        specs, places, said = read_header(file)
        twice |= tensors.keys() & specs.keys()
        tensors.update(specs)
        regions.update(places)
        metadata.update(said)

    astray = sorted(
        tensor
        for tensor in placed.keys() | tensors.keys()
        if tensor not in tensors
        or tensor not in placed
        or tensor in twice
        or regions[tensor].file.name != placed[tensor]
    )
    if astray:
        raise UnreadableCheckpoint(
            f"{index} and its shards disagree on where {astray[0]!r} is"
            + (f" (and {len(astray) - 1} more)" if len(astray) > 1 else "")
            + "; shards of two different saves may be mixed in this folder"
        )
    return StoredCheckpoint(
        path=index,
        format=f"safetensors, {len(names)} shards",
        files=tuple(index.parent / name for name in names),
        layout=Layout(tensors, ties_in(metadata, tensors)),
        regions=regions,
        metadata=metadata,
    )
