"""Torch distributed checkpoints: `.metadata`, and `.distcp` files with pieces of tensors.

`.metadata` is a pickle, and torch itself loads it as one. Here nothing in it runs, and a name that
no such file needs is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle.checkpoint.base import Envelope, Layout, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.inert import InertUnpickler, Record
from ladle.checkpoint.nested import Found, find_state
from ladle.checkpoint.reading import opened
from ladle.checkpoint.regions import Box, Region, Tiled
from ladle.checkpoint.stored import StoredCheckpoint
from ladle.checkpoint.torch_archive import TorchArchive, is_tensor
from ladle.errors import UnreadableCheckpoint

METADATA = ".metadata"
PART = ".distcp"

_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_RECORDS = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    # Where PyTorch had them before 2.3.
    "torch.distributed._shard.sharded_tensor.metadata": ("TensorProperties", "MEM_FORMAT_ENCODING"),
    "torch.serialization": ("_get_layout",),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # Python 3.13
    # How Python 3.11.2 and its neighbours pickle a member of an enumeration; nothing is got here.
    "builtins": ("getattr",),
}
"""The modules and names that files of torch need.
"""

_TRAINING = re.compile(r"(optim\w*|lr_scheduler\w*|scheduler|train_state|dataloader|rng\w*)(\.|$)")
"""Beginnings of names that are of the training, where a model's stand beside them."""


class _ForeignName(Exception):
    """A pickle names something that no `.metadata` needs."""


class _Unpickler(InertUnpickler):
    """Refuses names that no `.metadata` needs: torch itself would call what they stand for."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _RECORDS.get(module, ()):
            return type(name, (Record,), {"kind": name})
        found = super().find_class(module, name)
        if isinstance(found, type) and issubclass(found, Record):
            raise _ForeignName(f"{module}.{name}")
        return found


@dataclass(frozen=True)
class _Stored:
    """A tensor by its name in the file, and what `.metadata` says of it."""

    name: str
    spec: TensorSpec
    boxes: tuple[Box, ...]
    """The pieces it was cut into, without those that hold no element."""


def read_distributed(metadata: Path, *, use_ema: bool = True) -> StoredCheckpoint:
    """Open the distributed checkpoint whose `.metadata` this is, reading no weights.

    Raises:
        UnreadableCheckpoint: a file is missing or damaged, is compressed, or names what could run
            code.
    """
    if metadata.name != METADATA:
        raise UnreadableCheckpoint(
            f"{metadata} is a part of a distributed checkpoint; name its folder, {metadata.parent}"
        )
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
        if stored.spec.dtype not in ITEMSIZE:
            raise UnreadableCheckpoint(
                f"{metadata}: tensor {name!r} is {stored.spec.dtype}, which ladle does not read"
            )
        _check_tiles(metadata, stored)
        pieces: list[tuple[Box, Region]] = []
        for box in stored.boxes:
            archive = _archive(metadata, items, stored.name, box.offsets)
            pieces.append((box, _region(archive, stored, box.sizes)))
            files.add(archive.path)
        tensors[name] = stored.spec
        regions[name] = pieces[0][1] if len(pieces) == 1 else Tiled(tuple(pieces))
    count = len(files) - 1
    return StoredCheckpoint(
        path=metadata,
        format=f"torch distributed checkpoint, {count} file{'' if count == 1 else 's'}",
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
        about = _Unpickler(raw).load()
    except _ForeignName as error:
        raise UnreadableCheckpoint(
            f"{metadata} names {str(error)!r:.200}, which could run code, so it was not "
            "loaded; save the checkpoint again with torch.distributed.checkpoint"
        ) from error
    except Exception as error:  # A damaged pickle can fail in any way.
        raise UnreadableCheckpoint(
            f"{metadata} is damaged ({type(error).__name__}); copy it again"
        ) from error
    if getattr(about, "kind", None) != "Metadata":
        raise UnreadableCheckpoint(
            f"{metadata} is no metadata of a distributed checkpoint; copy it again"
        )
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
    boxes = [Box(_sizes(chunk.offsets), _sizes(chunk.sizes)) for chunk in entry.chunks]
    if not all(len(box.offsets) == len(box.sizes) == len(shape) for box in boxes):
        raise ValueError(f"the pieces of {name!r} have other dimensions than it")
    if not isinstance(dtype, str):
        raise TypeError(f"tensor {name!r} has no dtype")
    return _Stored(name, TensorSpec(dtype, shape), tuple(box for box in boxes if box.numel))


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
    found = _find(content, use_ema)
    if isinstance(found, Found):
        return found
    rest = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and not _TRAINING.match(name)
    }
    # torchtitan and others save the model's tensors beside the training's, under no key.
    model = {name: value for name, value in rest.items() if isinstance(value, _Stored)}
    if model:
        return Found((), model, is_ema=False)
    # An object that has the model and the optimizer, as in PyTorch's own tutorial: {"app": ...}.
    inside = [
        Found((name, *inner.key), inner.state, inner.is_ema)
        for name, value in rest.items()
        if isinstance(inner := _find(value, use_ema), Found)
    ]
    if len(inside) == 1:
        return inside[0]
    raise UnreadableCheckpoint(f"{metadata} {found}")


def _find(content: object, use_ema: bool) -> Found | str:
    return find_state(content, lambda value: isinstance(value, _Stored), use_ema=use_ema)


def _check_tiles(metadata: Path, stored: _Stored) -> None:
    """Check that the pieces fill the tensor, and that none lies over another."""
    shape = stored.spec.shape
    inside = all(
        end <= size for box in stored.boxes for end, size in zip(box.ends, shape, strict=True)
    )
    filled = sum(box.numel for box in stored.boxes)
    if not inside or filled != stored.spec.numel or _overlap(stored.boxes):
        raise UnreadableCheckpoint(
            f"{metadata}: the pieces of tensor {stored.name!r} do not make up {stored.spec}; parts "
            "of two saves may be mixed, so copy the folder again"
        )


def _overlap(boxes: Sequence[Box]) -> bool:
    """Whether two boxes share an element."""
    if len(boxes) < 2:
        return False
    # Along the dimension that is cut most, only few are beside each other.
    cuts = [len(set(starts)) for starts in zip(*(box.offsets for box in boxes), strict=True)]
    axis = cuts.index(max(cuts))
    beside: list[Box] = []
    for box in sorted(boxes, key=lambda box: box.offsets[axis]):
        beside = [one for one in beside if one.ends[axis] > box.offsets[axis]]
        if any(one.intersection(box).numel for one in beside):
            return True
        beside.append(box)
    return False


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
        raise UnreadableCheckpoint(
            f"{metadata} names {file!r}, which is not a file beside it; copy the folder again"
        )
    path = metadata.parent / file
    if not path.is_file():
        raise UnreadableCheckpoint(f"{metadata} names {file!r}, which is missing; copy it too")
    if start < 0 or length < 0 or start + length > path.stat().st_size:
        raise UnreadableCheckpoint(
            f"{path} ends before tensor {name!r}; it was cut, so copy it again"
        )
    return TorchArchive(path, start, length)


def _region(archive: TorchArchive, stored: _Stored, sizes: tuple[int, ...]) -> Region:
    with archive.opened() as file:
        begin = file.read(4)
    if begin != b"PK\x03\x04":
        raise UnreadableCheckpoint(
            f"{archive.path} has nothing of torch.save where tensor {stored.name!r} should be; "
            "copy it again, or save with SerializationFormat.TORCH_SAVE if it was saved otherwise"
        )
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
