"""From a path to a checkpoint: the right reader, chosen by what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ladle.checkpoint.adapter import WEIGHTS as ADAPTER_WEIGHTS
from ladle.checkpoint.adapter import read_adapter
from ladle.checkpoint.base import Checkpoint
from ladle.checkpoint.distributed import METADATA, PART, read_distributed
from ladle.checkpoint.reading import is_zip
from ladle.checkpoint.safetensors import read_safetensors
from ladle.checkpoint.sharded import INDEX_SUFFIXES, read_sharded
from ladle.checkpoint.torch_file import read_torch_file
from ladle.errors import UnreadableCheckpoint
from ladle.foreign import offered
from ladle.location import located

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pt.tar")

SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
"""By which a file tells that it holds weights, before it is opened."""

Reader = tuple[Callable[[Path], bool], Callable[[Path, bool], Checkpoint]]
"""What a reader is: whether a file is its own, and how to open it, with EMA weights or without."""


def _is_torch_file(path: Path) -> bool:
    return path.name.endswith(TORCH_SUFFIXES) or is_zip(path)


READERS: tuple[Reader, ...] = (
    (lambda path: path.name.endswith(INDEX_SUFFIXES), lambda path, _: read_sharded(path)),
    (
        lambda path: path.name == METADATA or path.suffix == PART,
        lambda path, use_ema: read_distributed(path, use_ema=use_ema),
    ),
    (lambda path: path.name in ADAPTER_WEIGHTS, lambda path, _: read_adapter(path)),
    (lambda path: path.suffix == ".safetensors", lambda path, _: read_safetensors(path)),
    (_is_torch_file, lambda path, use_ema: read_torch_file(path, use_ema=use_ema)),
)
"""Asked in this order; the first that knows the file opens it."""

# In the order in which a folder's own libraries prefer them.
_ANY_NAME = "*.safetensors"
_WEIGHTS = (
    "*.safetensors.index.json",
    _ANY_NAME,
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    *ADAPTER_WEIGHTS,
    METADATA,
    f"pytorch_model_fsdp_*/{METADATA}",
    "model.pt",
    "model.pth",
)


def open_checkpoint(path: str | Path, *, use_ema: bool = True) -> Checkpoint:
    """Open one checkpoint: a file, an index of shards, or a folder with one of these.

    Where a training kept an exponential moving average beside its weights, that is what is read,
    unless `use_ema` is False.

    Raises:
        UnreadableCheckpoint: there is none, or more than one, or it is damaged.
    """
    path = located(path)
    try:
        if path.is_dir():
            found: Any = _open_file(weights_in(path), use_ema)
            return cast(Checkpoint, replace(found, path=path))
        if not path.exists():
            raise UnreadableCheckpoint(f"{path} does not exist; check the path")
        if path.stat().st_size == 0:
            raise UnreadableCheckpoint(f"{path} is empty; copy or save it again")
        return _open_file(path, use_ema)
    except PermissionError as error:
        raise UnreadableCheckpoint(
            f"{path} may not be read; change its permissions ({error.strerror})"
        ) from error
    except OSError as error:
        raise UnreadableCheckpoint(
            f"{path} cannot be read ({error.strerror or error}); check the path and the disk"
        ) from error


def _readers() -> Iterator[Reader]:
    yield from READERS
    # Looked for only where ours do not know a file: that takes longer than a small soup.
    yield from (entry.load() for entry in offered("ladle.readers").values())


def is_weights_file(path: Path) -> bool:
    """Whether some reader takes the file for its own."""
    return path.is_file() and any(knows(path) for knows, _ in _readers())


def _open_file(path: Path, use_ema: bool) -> Checkpoint:
    with path.open("rb"):
        pass  # Tells that it may not be read, where `is_zip` would say that it is no zip.
    for knows, read in _readers():
        if knows(path):
            return read(path, use_ema)
    raise UnreadableCheckpoint(
        f"{path} is no checkpoint that ladle reads: give a .safetensors file, an index of shards, "
        f"a file of torch.save ({', '.join(TORCH_SUFFIXES)}) or a model folder"
    )


def holds_weights(folder: Path) -> bool:
    """Whether a folder is a checkpoint: it has weights under a usual name, or one file of them.

    Several files of other names are several checkpoints.
    """
    found = {pattern: list(folder.glob(pattern)) for pattern in _WEIGHTS}
    others = [path for path in found.pop(_ANY_NAME) if path.name != "model.safetensors"]
    return any(found.values()) or (folder / "model.safetensors").exists() or len(others) == 1


def weights_in(folder: Path) -> Path:
    """The one file of `folder` to open."""
    single, indexed = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists() and indexed.exists():
        raise UnreadableCheckpoint(
            f"{folder} holds both {single.name} and {indexed.name}, of two different saves; remove "
            "the older one, or name the one you mean"
        )
    for pattern in _WEIGHTS:
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise UnreadableCheckpoint(
                f"{folder} holds several weights files ({', '.join(f.name for f in found[:4])}"
                f"{', ...' if len(found) > 4 else ''}); name the ones you mean"
            )
    raise UnreadableCheckpoint(
        f"{folder} holds no weights (looked for {', '.join(_WEIGHTS)}); name a checkpoint"
    )
