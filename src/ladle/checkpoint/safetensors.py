"""The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes.

The header is parsed here, strictly, because reading slices into reused buffers and naming what is
wrong with a broken file need more than the library gives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle.checkpoint.base import Layout, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE, SAFETENSORS
from ladle.checkpoint.regions import Plain
from ladle.checkpoint.stored import StoredCheckpoint
from ladle.errors import UnreadableCheckpoint

_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""

_NO_TIES = ("format", "ladle")
"""Metadata with a meaning of its own, even where a tensor is called `pt`."""


def read_safetensors(path: Path) -> StoredCheckpoint:
    """Open one `.safetensors` file.

    Raises:
        UnreadableCheckpoint: the file is cut, or its header contradicts itself or the file.
    """
    tensors, regions, metadata = read_header(path)
    return StoredCheckpoint(
        path=path,
        format="safetensors",
        files=(path,),
        layout=Layout(tensors, ties_in(metadata, tensors)),
        regions=regions,
        metadata=metadata,
    )


def ties_in(metadata: Mapping[str, str], tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Ties as `safetensors.torch.save_model` notes them: alias -> the tensor kept."""
    return {
        alias: kept
        for alias, kept in metadata.items()
        if kept in tensors and alias not in tensors and alias not in _NO_TIES
    }


def read_header(
    path: Path,
) -> tuple[dict[str, TensorSpec], dict[str, Plain], dict[str, str]]:
    """Specs, places and metadata of one file, checked against its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8 or length > _LONGEST_HEADER:
            raise UnreadableCheckpoint(
                f"{path} is not a complete safetensors file: {size} bytes cannot hold the header "
                f"of {length} bytes that it announces; copy or download it again"
            )
        raw = file.read(length)
    try:
        # Decoded here, because `json.loads` takes half characters and other encodings too.
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(
            f"{path} has a broken safetensors header ({error}); copy or download it again"
        ) from error
    if not isinstance(header, dict):
        raise UnreadableCheckpoint(f"{path} has a safetensors header that is no JSON object")

    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UnreadableCheckpoint(f"{path} has metadata that is not text")

    tensors: dict[str, TensorSpec] = {}
    regions: dict[str, Plain] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        spec, begin, end = _entry(path, name, entry)
        tensors[name] = spec
        regions[name] = Plain(path, 8 + length + begin)
        spans.append((begin, end, name))

    expected = 0
    for begin, end, name in sorted(spans):
        if begin != expected:
            raise UnreadableCheckpoint(
                f"{path}: tensor {name!r} starts at byte {begin} of the data where {expected} is "
                "due, so tensors overlap or bytes are missing; copy or download it again"
            )
        expected = end
    if 8 + length + expected != size:
        raise UnreadableCheckpoint(
            f"{path} has {size} bytes where its header asks for {8 + length + expected}; it was "
            "cut or not written to its end, so copy or download it again"
        )
    return tensors, regions, metadata


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorSpec, int, int]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError) as error:
        raise UnreadableCheckpoint(
            f"{path}: the header's entry for tensor {name!r} lacks a dtype, shape or place"
        ) from error
    if not isinstance(dtype, str) or dtype not in SAFETENSORS:
        raise UnreadableCheckpoint(f"{path}: tensor {name!r} has the unknown dtype {dtype!r}")
    # bool is an int to Python, and `true` is no size.
    if type(shape) is not list or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise UnreadableCheckpoint(f"{path}: tensor {name!r} has a size or place that is no number")
    spec = TensorSpec(SAFETENSORS[dtype], tuple(shape))
    if end - begin != math.prod(shape) * ITEMSIZE[spec.dtype]:
        raise UnreadableCheckpoint(
            f"{path}: tensor {name!r} is {spec} but has {end - begin} bytes of data"
        )
    return spec, begin, end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice")
    for key in found:
        key.encode()  # a ValueError for half a surrogate pair, which JSON can escape
    return found
