"""State dicts in files written by `torch.save`, alone or in a training's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle.checkpoint.base import Envelope, Layout, TensorSpec
from ladle.checkpoint.nested import PLACES, find_state, plain_values
from ladle.checkpoint.reading import is_zip
from ladle.checkpoint.regions import Plain, Region
from ladle.checkpoint.stored import StoredCheckpoint
from ladle.checkpoint.torch_archive import TorchArchive, is_tensor
from ladle.errors import UnreadableCheckpoint


def read_torch_file(path: Path, *, use_ema: bool = True) -> StoredCheckpoint:
    """Open a state dict saved by `torch.save`, alone or within a training's checkpoint.

    No weights are read. See `find_state` for which of several state dicts is taken.

    Raises:
        UnreadableCheckpoint: it is cut, of the format before PyTorch 1.6, or holds no state dict.
    """
    if not is_zip(path):
        raise UnreadableCheckpoint(
            f"{path} is not a complete file of torch.save: it was cut, or has the format before "
            "PyTorch 1.6; copy it again, or load and torch.save it with a current PyTorch"
        )
    archive = TorchArchive(path)
    content = archive.load()
    found = find_state(content, is_tensor, use_ema=use_ema)
    if isinstance(found, str):
        raise UnreadableCheckpoint(f"{path} {found}")

    tensors: dict[str, TensorSpec] = {}
    regions: dict[str, Region] = {}
    ties: dict[str, str] = {}
    seen: dict[tuple[Region, TensorSpec], str] = {}
    for name, tensor in found.state.items():
        spec, region = archive.place(name, tensor)
        first = seen.setdefault((region, spec), name)
        if first != name and spec.numel:
            ties[name] = first
            continue
        tensors[name] = spec
        regions[name] = region
    values = _values_beside(content, archive) if found.key else {}
    within = f"{', EMA weights' if found.is_ema else ','} in {'.'.join(found.key)!r}"
    return StoredCheckpoint(
        path=path,
        format=f"torch.save{within if found.key else ''}",
        files=(path,),
        layout=Layout(tensors, ties),
        regions=regions,
        envelope=Envelope(found.key, values, found.is_ema),
    )


def places_in(path: Path, key: tuple[str, ...]) -> dict[str, int]:
    """Where the bytes of each tensor begin, of the state dict to which `key` leads."""
    archive = TorchArchive(path)
    state = archive.load()
    for part in key:
        state = state[part]
    regions = {name: archive.place(name, tensor)[1] for name, tensor in state.items()}
    return {name: region.offset for name, region in regions.items() if isinstance(region, Plain)}


def _values_beside(content: Mapping[Any, Any], archive: TorchArchive) -> Mapping[str, Any]:
    """The plain values around a state dict."""
    outer = {
        key: value
        for key, value in content.items()
        if not (key in PLACES and isinstance(value, Mapping))
    }
    values: Mapping[str, Any] = plain_values(outer, archive.plain)
    return values
