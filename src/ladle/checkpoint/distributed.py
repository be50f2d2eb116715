"""Torch distributed checkpoints: `.metadata`, and `.distcp` files with pieces of tensors.

`.metadata` is a pickle, and torch itself loads it as one. Here every name in it becomes an inert
record, so that nothing runs, and a name that no such file needs is refused.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from ladle.checkpoint.base import Envelope, Layout, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.location import opened
from ladle.checkpoint.nested import Found, find_state
from ladle.checkpoint.regions import Region, Tiled
from ladle.checkpoint.stored import StoredCheckpoint
from ladle.checkpoint.torch_archive import TorchArchive, is_tensor
from ladle.errors import UnreadableCheckpoint

METADATA = ".metadata"

_RECORDS = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "TensorProperties",
        "StorageMeta",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
}
_AS_THEY_ARE = {
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
}
"""Called with one name or number, which will do in place of what it stands for."""

_TRAINING = re.compile(r"(optim\w*|lr_scheduler\w*|scheduler|train_state|dataloader|rng\w*)(\.|$)")
"""Beginnings of names that are of the training, where a model's stand beside them."""


class _Record:
    """What stands for an object of torch's: its class's name, and its attributes."""

    kind = ""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _Unpickler(pickle.Unpickler):
    """Makes records, tuples and texts of what `.metadata` names, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _RECORDS.get(module, ()):
            return type(name, (_Record,), {"kind": name})
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in ITEMSIZE:
            return name
        if (module, name) in _AS_THEY_ARE:
            return str
        if module in ("pathlib", "pathlib._local") and name.endswith("Path"):
            return PureWindowsPath if "Windows" in name else PurePosixPath
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"{module}.{name}")


@dataclass(frozen=True)
class _Stored:
    """A tensor by its name in the file, and what `.metadata` says of it."""

    name: str
    spec: TensorSpec
    boxes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


def read_distributed(metadata: Path, *, use_ema: bool = True) -> StoredCheckpoint:
    """Open the distributed checkpoint whose `.metadata` this is, reading no weights.

    Raises:
        UnreadableCheckpoint: a file is missing or damaged, is compressed, or names what could run
            code.
    """
    about = _unpickled(metadata)
    try:
        content, items = _content(about), _items(about)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise UnreadableCheckpoint(
            f"{metadata} is no metadata of a distributed checkpoint ({error}); copy it again"
        ) from error
    found = _found(metadata, content, use_ema)
    tensors: dict[str, TensorSpec] = {}
    regions: dict[str, Region] = {}
    files = {metadata}
    for name, stored in found.state.items():
        _check_tiles(metadata, stored)
        boxes = []
        for offsets, sizes in stored.boxes:
            archive = _archive(metadata, items, stored.name, offsets)
            boxes.append((offsets, sizes, _region(archive, stored, sizes)))
            files.add(archive.path)
        tensors[name] = stored.spec
        regions[name] = boxes[0][2] if len(boxes) == 1 else Tiled(tuple(boxes))
    return StoredCheckpoint(
        path=metadata,
        format=f"torch distributed checkpoint, {len(files) - 1} files",
        files=tuple(sorted(files)),
        layout=Layout(tensors),
        regions=regions,
        envelope=Envelope(found.key, is_ema=found.is_ema),
        unhashed=frozenset({metadata}),  # It has the folder's name, and a number of each save.
    )


def _unpickled(metadata: Path) -> Any:
    with opened(metadata) as file:
        raw = file.read()
    try:
        about = _Unpickler(io.BytesIO(raw)).load()
    except pickle.UnpicklingError as error:
        raise UnreadableCheckpoint(
            f"{metadata} is damaged, or names something that could run code ({error}), so it was "
            "not loaded; save the checkpoint again with torch.distributed.checkpoint"
        ) from error
    except Exception as error:  # A damaged pickle can fail in any way.
        raise UnreadableCheckpoint(
            f"{metadata} is damaged ({type(error).__name__}); copy it again"
        ) from error
    if getattr(about, "kind", None) != "Metadata":
        raise UnreadableCheckpoint(f"{metadata} is no metadata of a distributed checkpoint")
    return about


def _content(about: Any) -> dict[Any, Any]:
    """The nested dictionaries that were saved, with a `_Stored` for each tensor."""
    paths = getattr(about, "planner_data", None) or {}
    content: dict[Any, Any] = {}
    for name, entry in about.state_dict_metadata.items():
        *outer, last = paths.get(name, (name,)) if isinstance(paths, Mapping) else (name,)
        place = content
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = _stored(name, entry) if entry.kind == "TensorStorageMetadata" else None
    return content


def _stored(name: str, entry: Any) -> _Stored:
    properties = entry.properties
    dtype = properties.state[0] if hasattr(properties, "state") else properties.dtype
    shape = _sizes(entry.size)
    boxes = tuple((_sizes(chunk.offsets), _sizes(chunk.sizes)) for chunk in entry.chunks)
    if not all(len(offsets) == len(sizes) == len(shape) for offsets, sizes in boxes):
        raise ValueError(f"the pieces of {name!r} have other dimensions than it")
    if dtype not in ITEMSIZE:
        raise ValueError(f"tensor {name!r} is {dtype}, which ladle does not read")
    return _Stored(name, TensorSpec(dtype, shape), boxes)


def _sizes(numbers: Iterable[Any]) -> tuple[int, ...]:
    found = tuple(numbers)
    if not all(type(number) is int and 0 <= number < 2**63 for number in found):
        raise ValueError(f"{found} is no size")
    return found


def _items(about: Any) -> dict[tuple[str, tuple[int, ...]], Any]:
    """Where each piece of each tensor was written: (name, offsets) -> its `_StorageInfo`."""
    return {
        (index.fqn, tuple(index.offset)): item
        for index, item in about.storage_data.items()
        if getattr(index, "offset", None) is not None
    }


def _found(metadata: Path, content: Mapping[Any, Any], use_ema: bool) -> Found:
    found = find_state(content, lambda value: isinstance(value, _Stored), use_ema=use_ema)
    if isinstance(found, Found):
        return found
    # torchtitan and others save the model's tensors beside the training's, under no key.
    model = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, _Stored) and not _TRAINING.match(name)
    }
    if not model:
        raise UnreadableCheckpoint(f"{metadata} {found}")
    return Found((), model, is_ema=False)


def _check_tiles(metadata: Path, stored: _Stored) -> None:
    """Check that the pieces fill the tensor, and lie beside each other."""
    if not stored.spec.shape:
        whole = len(stored.boxes) == 1
    else:
        low = np.array([offsets for offsets, _ in stored.boxes], object).reshape(
            -1, len(stored.spec.shape)
        )
        high = low + np.array([sizes for _, sizes in stored.boxes], object).reshape(low.shape)
        over = ((low[:, None] < high[None]) & (low[None] < high[:, None])).all(axis=2)
        filled = sum(int(np.prod(extent)) for extent in high - low)
        whole = (
            len(low) > 0
            and bool((high <= np.array(stored.spec.shape, object)).all())
            and filled == stored.spec.numel
            and int(over.sum()) <= len(low)
        )
    if not whole:
        raise UnreadableCheckpoint(
            f"{metadata}: the pieces of tensor {stored.name!r} do not make up {stored.spec}; parts "
            "of two saves may be mixed, so copy the folder again"
        )


def _archive(
    metadata: Path, items: Mapping[tuple[str, tuple[int, ...]], Any], name: str, at: tuple[int, ...]
) -> TorchArchive:
    item = items.get((name, at))
    file = getattr(item, "relative_path", None)
    start, length = getattr(item, "offset", None), getattr(item, "length", None)
    if not isinstance(file, str) or type(start) is not int or type(length) is not int:
        raise UnreadableCheckpoint(
            f"{metadata} does not say where tensor {name!r} is; copy it again"
        )
    if getattr(item, "transform_descriptors", None):
        raise UnreadableCheckpoint(
            f"{metadata}: tensor {name!r} was compressed; save the checkpoint without extensions"
        )
    if Path(file).name != file:
        raise UnreadableCheckpoint(f"{metadata} names {file!r}, which is not a file beside it")
    path = metadata.parent / file
    if not path.is_file():
        raise UnreadableCheckpoint(f"{metadata} names {file}, which is missing; copy it too")
    if start < 0 or length < 0 or start + length > path.stat().st_size:
        raise UnreadableCheckpoint(
            f"{path} ends before tensor {name!r}; it was cut, so copy it again"
        )
    return TorchArchive(path, start, length)


def _region(archive: TorchArchive, stored: _Stored, sizes: tuple[int, ...]) -> Region:
    archive.members  # noqa: B018 -- looked at before torch is asked
    tensor = archive.load()
    if not is_tensor(tensor):
        raise UnreadableCheckpoint(f"{archive.path} holds no tensor {stored.name!r}; copy it again")
    spec, region = archive.place(stored.name, tensor)
    if spec != TensorSpec(stored.spec.dtype, sizes):
        raise UnreadableCheckpoint(
            f"{archive.path} has {spec} for a piece of tensor {stored.name!r}, where {METADATA} "
            f"says {TensorSpec(stored.spec.dtype, sizes)}; files of two saves may be mixed"
        )
    return region
