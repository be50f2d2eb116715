"""Files written by `torch.save`: read with `weights_only=True`, never unpickled otherwise."""

from __future__ import annotations

import argparse
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from ladle.checkpoint.base import Envelope, Layout, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.location import is_zip, opened
from ladle.checkpoint.nested import PLACES, Found, find_state, plain_values
from ladle.checkpoint.regions import Plain, Region, Strided
from ladle.checkpoint.stored import StoredCheckpoint
from ladle.errors import UnreadableCheckpoint


def read_torch_file(path: Path, *, use_ema: bool = True) -> StoredCheckpoint:
    """Open a state dict saved by `torch.save`, alone or within a training's checkpoint.

    No weights are read. See `find_state` for which of several state dicts is taken.

    Raises:
        UnreadableCheckpoint: it is cut, of the format before PyTorch 1.6, holds no state dict, or
            would run code when loaded.
    """
    if not is_zip(path):
        raise UnreadableCheckpoint(
            f"{path} is not a complete file of torch.save: it was cut, or has the format before "
            "PyTorch 1.6; copy it again, or load and torch.save it with a current PyTorch"
        )
    members = _members(path)
    content = _load(path)
    found = find_state(content, _is_tensor, use_ema=use_ema)
    if isinstance(found, str):
        raise UnreadableCheckpoint(f"{path} {found}")

    tensors: dict[str, TensorSpec] = {}
    regions: dict[str, Region] = {}
    ties: dict[str, str] = {}
    seen: dict[tuple[Region, TensorSpec], str] = {}
    for name, tensor in found.state.items():
        spec, region = _place(path, name, tensor, members)
        first = seen.setdefault((region, spec), name)
        if first != name and spec.numel:
            ties[name] = first
            continue
        tensors[name] = spec
        regions[name] = region
    _check_order(path, content, members)
    within = f"{', EMA weights' if found.is_ema else ','} in {'.'.join(found.key)!r}"
    return StoredCheckpoint(
        path=path,
        format=f"torch.save{within if found.key else ''}",
        files=(path,),
        layout=Layout(tensors, ties),
        regions=regions,
        envelope=Envelope(found.key, _values_beside(path, content, found, members), found.is_ema),
    )


Members = dict[int, tuple[str, int]]
"""The files in a zip: where their bytes begin -> name and size."""


def _members(path: Path) -> Members:
    """What lies where in the zip.

    Looked at before torch is asked, which trusts what the pickle says about them, and crashes on
    the meta device where they are big-endian.
    """
    found: Members = {}
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise UnreadableCheckpoint(
                        f"{path} was compressed after torch.save; unpack it and zip it with -0"
                    )
                file.seek(info.header_offset)
                header = file.read(30)
                lengths = (
                    int.from_bytes(header[26:28], "little"),
                    int.from_bytes(header[28:30], "little"),
                )
                begin = info.header_offset + 30 + sum(lengths)
                found[begin] = (info.filename, info.file_size)
                if info.filename.endswith("/byteorder"):
                    file.seek(begin)
                    if file.read(6) != b"little":
                        raise UnreadableCheckpoint(
                            f"{path} is big-endian; load and torch.save it on this machine"
                        )
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise UnreadableCheckpoint(
            f"{path} is a damaged zip ({_first_line(error)}); copy it again"
        ) from error
    return found


def _load(path: Path) -> Any:
    import torch

    try:
        # On the meta device nothing is read, and each storage says where in the file it is.
        with torch.serialization.safe_globals(_harmless()), opened(path) as file:
            return torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnreadableCheckpoint(
            f"{path} needs {_needed(path)} to load, which could run code, so it was not loaded; "
            "save the model's state_dict() alone"
        ) from error
    except Exception as error:
        raise UnreadableCheckpoint(
            f"{path} cannot be read by torch ({_first_line(error)}); copy it again"
        ) from error


def _harmless() -> list[Any]:
    """What trainings keep beside tensors, whose loading runs no code but its own constructor."""
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    # A path of another system cannot be made here, and to know its text is enough.
    paths = [
        (kind, f"{module}.{prefix}{system}Path")
        for module in ("pathlib", "pathlib._local")  # Python 3.13 moved them.
        for prefix in ("", "Pure")
        for system, kind in (("Posix", PurePosixPath), ("Windows", PureWindowsPath))
    ]
    numbers = [
        (f, f"numpy.{core}.multiarray.{n}")
        for core in ("core", "_core")
        for f, n in ((scalar, "scalar"), (reconstruct, "_reconstruct"))
    ]
    kinds = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [argparse.Namespace, np.ndarray, np.dtype, *kinds, *paths, *numbers]


def _needed(path: Path) -> str:
    """The names that a file asks for beyond tensors and plain values."""
    import torch

    try:
        with torch.serialization.safe_globals(_harmless()), opened(path) as file:
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # noqa: BLE001 -- a broken pickle can fail in any way, and the name is a courtesy
        names = []
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return shown or "more than tensors"


def _check_order(path: Path, content: Any, members: Members) -> None:
    """Check that torch, which computes places in files of this kind, knows where things are.

    It counts on the order and alignment of its own writer, which `zip` and others do not keep.
    """
    if not any(name.endswith("/.format_version") for name, _ in members.values()):
        return
    begins = {getattr(t.untyped_storage(), "_checkpoint_offset", None) for t in _tensors(content)}
    known = {at: name for at, (name, _) in members.items() if "/data/" in name}
    # Storages lie in the order of their numbers.
    numbered = [
        int(known[at].rpartition("/")[2]) for at in sorted(known) if known[at][-1:].isdigit()
    ]
    if not begins <= known.keys() | {None} or numbered != sorted(numbered):
        raise _moved(path)


def _tensors(content: Any) -> Iterator[Any]:
    if _is_tensor(content):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _tensors(value)


def _moved(path: Path) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(
        f"{path} was zipped anew after torch.save, or is damaged; load and torch.save it again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _values_beside(path: Path, content: Any, found: Found, members: Members) -> Mapping[str, Any]:
    """The plain values around a state dict; tensors of one number count as numbers."""
    if not found.key:
        return {}

    def number(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, PurePath):
            return str(value)
        if not _is_tensor(value) or value.numel() != 1:
            return value
        spec, region = _place(path, "", value, members)
        kinds = {"float32": "<f4", "float64": "<f8", "int64": "<i8"}
        if spec.dtype not in kinds or not isinstance(region, Plain):
            return value
        with opened(path) as file:
            file.seek(region.offset)
            raw = file.read(ITEMSIZE[spec.dtype])
        return np.frombuffer(raw, kinds[spec.dtype])[0].item()

    outer = {
        key: value
        for key, value in content.items()
        if not (key in PLACES and isinstance(value, Mapping))
    }
    values: Mapping[str, Any] = plain_values(outer, number)
    return values


def _place(path: Path, name: str, tensor: Any, members: Members) -> tuple[TensorSpec, Region]:
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    plain = tensor.layout == torch.strided and not tensor.is_conj() and not tensor.is_neg()
    if not plain or dtype not in ITEMSIZE:
        kind = dtype if tensor.layout == torch.strided else str(tensor.layout)
        raise UnreadableCheckpoint(f"{path}: tensor {name!r} is {kind}, which ladle does not read")
    spec = TensorSpec(dtype, tuple(tensor.shape))
    storage = tensor.untyped_storage()
    begin = getattr(storage, "_checkpoint_offset", None)
    if begin is None:
        raise UnreadableCheckpoint(
            f"{path}: PyTorch {torch.__version__} does not say where its tensors lie; "
            "run: pip install --upgrade torch"
        )
    if begin not in members:
        raise _moved(path)
    nbytes = min(storage.nbytes(), members[begin][1])
    offset = begin + tensor.storage_offset() * ITEMSIZE[dtype]
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    end = offset + (reach + 1) * ITEMSIZE[dtype] if spec.numel else offset
    if end > begin + nbytes:
        raise UnreadableCheckpoint(
            f"{path}: tensor {name!r} reaches beyond its data; the file is damaged, copy it again"
        )
    if tensor.is_contiguous():
        return spec, Plain(path, offset)
    return spec, Strided(path, offset, tuple(tensor.stride()))
