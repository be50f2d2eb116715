"""Files written by `torch.save`: read with `weights_only=True`, never unpickled otherwise."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

from ladle.checkpoint.base import Layout, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.stored import Region, StoredCheckpoint
from ladle.errors import UnreadableCheckpoint


def read_torch_file(path: Path) -> StoredCheckpoint:
    """Open a flat state dict saved by `torch.save`, reading no weights.

    Raises:
        UnreadableCheckpoint: it is cut, of the format before PyTorch 1.6, holds other objects
            than tensors, or would run code when loaded.
    """
    if not is_zip(path):
        raise UnreadableCheckpoint(
            f"{path} is not a complete file of torch.save: it was cut, or has the format before "
            "PyTorch 1.6; copy it again, or load and torch.save it with a current PyTorch"
        )
    members = _members(path)
    state = _load(path)
    if not isinstance(state, dict) or not state:
        raise UnreadableCheckpoint(f"{path} holds {type(state).__name__}, not a state dict")
    others = [str(key) for key, value in state.items() if not _is_named_tensor(key, value)]
    if others:
        raise UnreadableCheckpoint(
            f"{path} is not a flat state dict: {', '.join(sorted(others)[:5])} "
            f"{'is' if len(others) == 1 else 'are'} no named tensor; save the model's "
            "state_dict() alone"
        )

    tensors: dict[str, TensorSpec] = {}
    regions: dict[str, Region] = {}
    ties: dict[str, str] = {}
    seen: dict[tuple[Region, TensorSpec], str] = {}
    for name, tensor in state.items():
        spec, region = _place(path, name, tensor, members)
        first = seen.setdefault((region, spec), name)
        if first != name and spec.numel:
            ties[name] = first
            continue
        tensors[name] = spec
        regions[name] = region
    _check_order(path, state, members)
    return StoredCheckpoint(
        path=path,
        format="torch.save",
        files=(path,),
        layout=Layout(tensors, ties),
        regions=regions,
    )


def is_zip(path: Path) -> bool:
    """Whether a file looks like what torch.save writes since PyTorch 1.6."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


Members = dict[int, tuple[str, int]]
"""The files in a zip: where their bytes begin -> name and size."""


def _members(path: Path) -> Members:
    """What lies where in the zip.

    Looked at before torch is asked, which trusts what the pickle says about them, and crashes on
    the meta device where they are big-endian.
    """
    found: Members = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
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
        return torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnreadableCheckpoint(
            f"{path} needs more than tensors to load, which could run code, so it was not loaded; "
            "save the model's state_dict() alone"
        ) from error
    except Exception as error:
        raise UnreadableCheckpoint(
            f"{path} cannot be read by torch ({_first_line(error)}); copy it again"
        ) from error


def _check_order(path: Path, state: dict[str, Any], members: Members) -> None:
    """Check that torch, which computes places in files of this kind, knows where things are.

    It counts on the order and alignment of its own writer, which `zip` and others do not keep.
    """
    if not any(name.endswith("/.format_version") for name, _ in members.values()):
        return
    begins = dict.fromkeys(t.untyped_storage()._checkpoint_offset for t in state.values())
    if any(not members[at][0].endswith(f"/data/{i}") for i, at in enumerate(begins)):
        raise _moved(path)


def _moved(path: Path) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(
        f"{path} was zipped anew after torch.save, or is damaged; load and torch.save it again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _is_named_tensor(name: Any, value: Any) -> bool:
    import torch

    return isinstance(name, str) and isinstance(value, torch.Tensor)


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
    strides = None if tensor.is_contiguous() else tuple(tensor.stride())
    return spec, Region(path, offset, strides)
