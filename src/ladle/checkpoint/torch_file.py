"""Files written by `torch.save`: read with `weights_only=True`, never unpickled otherwise."""

from __future__ import annotations

import pickle
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
    if not zipfile.is_zipfile(path):
        raise UnreadableCheckpoint(
            f"{path} is not a complete file of torch.save: it was cut, or has the format before "
            "PyTorch 1.6; copy it again, or load and torch.save it with a current PyTorch"
        )
    state = _load(path)
    if not isinstance(state, dict) or not state:
        raise UnreadableCheckpoint(f"{path} holds {type(state).__name__}, not a state dict")
    others = [str(key) for key, value in state.items() if not _is_tensor(value)]
    if others:
        raise UnreadableCheckpoint(
            f"{path} is not a flat state dict: {', '.join(sorted(others)[:5])} "
            f"{'is' if len(others) == 1 else 'are'} no tensor; save the model's state_dict() alone"
        )

    size = path.stat().st_size
    tensors: dict[str, TensorSpec] = {}
    regions: dict[str, Region] = {}
    ties: dict[str, str] = {}
    seen: dict[tuple[Region, TensorSpec], str] = {}
    for name, tensor in state.items():
        spec, region = _place(path, str(name), tensor, size)
        first = seen.setdefault((region, spec), str(name))
        if first != name and spec.numel:
            ties[str(name)] = first
            continue
        tensors[str(name)] = spec
        regions[str(name)] = region
    return StoredCheckpoint(
        path=path,
        format="torch.save",
        files=(path,),
        layout=Layout(tensors, ties),
        regions=regions,
    )


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
    except (RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        raise UnreadableCheckpoint(
            f"{path} cannot be read by torch ({str(error).splitlines()[0]}); copy it again"
        ) from error


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _place(path: Path, name: str, tensor: Any, size: int) -> tuple[TensorSpec, Region]:
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or dtype not in ITEMSIZE:
        kind = dtype if tensor.layout == torch.strided else str(tensor.layout)
        raise UnreadableCheckpoint(f"{path}: tensor {name!r} is {kind}, which ladle does not read")
    spec = TensorSpec(dtype, tuple(tensor.shape))
    storage = tensor.untyped_storage()
    begin = storage._checkpoint_offset
    if begin is None:
        raise UnreadableCheckpoint(
            f"{path}: PyTorch {torch.__version__} does not say where its tensors lie; "
            "run: pip install --upgrade torch"
        )
    offset = begin + tensor.storage_offset() * ITEMSIZE[dtype]
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    end = offset + (reach + 1) * ITEMSIZE[dtype] if spec.numel else offset
    if end > min(begin + storage.nbytes(), size):
        raise UnreadableCheckpoint(
            f"{path}: tensor {name!r} reaches beyond its data; the file is damaged, copy it again"
        )
    strides = None if tensor.is_contiguous() else tuple(tensor.stride())
    return spec, Region(path, offset, strides)
