"""Files of weights that are laid out first and filled slice by slice, in any order."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ladle.checkpoint.base import Bytes, Envelope, Layout, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE, SAFETENSORS_NAME
from ladle.checkpoint.nested import enclosed, live_key
from ladle.checkpoint.torch_file import places_in
from ladle.errors import BadInput

_BEHIND = 64 << 20
"""Bytes after which the disk is asked to begin."""


class FileSink:
    """Tensors' places in open files; `write` may be called from any thread.

    While it is open, what was written goes to the disk beside the work, so that a last sync of the
    files finds little to do.
    """

    def __init__(self, layout: Layout, places: Mapping[str, tuple[int, int]]) -> None:
        """`places` maps each name to a file descriptor and the offset of its first byte."""
        self._layout = layout
        self._places = places
        self._lock = threading.Lock()
        self._unsynced = 0
        self._disk = ThreadPoolExecutor(1)
        self._syncing: Future[None] | None = None

    def __enter__(self) -> FileSink:
        return self

    def __exit__(self, *raised: object) -> None:
        self._disk.shutdown()
        if self._syncing and raised[0] is None:
            self._syncing.result()

    def write(self, name: str, start: int, values: Bytes) -> None:
        descriptor, offset = self._places[name]
        offset += start * ITEMSIZE[self._layout.tensors[name].dtype]
        view = values.data
        while view.nbytes:
            count = self._write_at(descriptor, view, offset)
            offset, view = offset + count, view[count:]
        self._sync_behind(descriptor, values.nbytes)

    def _write_at(self, descriptor: int, view: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(descriptor, view, offset)
        with self._lock:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, view)

    def _sync_behind(self, descriptor: int, nbytes: int) -> None:
        with self._lock:
            self._unsynced += nbytes
            if self._unsynced < _BEHIND or (self._syncing and not self._syncing.done()):
                return
            if self._syncing:
                # A full or broken disk tells only the first who asks.
                self._syncing.result()
            self._unsynced = 0
            self._syncing = self._disk.submit(os.fsync, descriptor)


class Metadata(Protocol):
    """What the header of a file says beside its tensors, where that is known only at the end."""

    def placeholder(self) -> Mapping[str, str]:
        """Something of the same size, before the tensors are written."""
        ...

    def final(self) -> Mapping[str, str]:
        """What is to be written, when they are."""
        ...


@dataclass(frozen=True)
class Plain:
    """What a header says that is known from the start: see `Metadata`."""

    said: Mapping[str, str] = field(default_factory=dict)

    def placeholder(self) -> Mapping[str, str]:
        return self.said

    def final(self) -> Mapping[str, str]:
        return self.said


@dataclass(frozen=True)
class Shard:
    """A file of weights to be written: its name, and the tensors that go into it."""

    name: str
    layout: Layout


def planned(layout: Layout, max_shard_bytes: int) -> list[Shard]:
    """`model.safetensors`, or as many shards as it takes where that would be too large."""
    layouts = _shards(layout, max_shard_bytes)
    if len(layouts) == 1:
        return [Shard("model.safetensors", layouts[0])]
    return [
        Shard(f"model-{i:05d}-of-{len(layouts):05d}.safetensors", one)
        for i, one in enumerate(layouts, start=1)
    ]


@contextmanager
def safetensors_files(
    folder: Path, shards: Sequence[Shard], metadata: Metadata
) -> Iterator[FileSink]:
    """Some shards, or all of them, in `folder`; see `write_index` for what goes beside them."""
    tensors = {name: spec for one in shards for name, spec in one.layout.tensors.items()}
    with ExitStack() as stack:
        places: dict[str, tuple[int, int]] = {}
        for one in shards:
            places |= stack.enter_context(_safetensors(folder / one.name, one.layout, metadata))
        yield stack.enter_context(FileSink(Layout(tensors), places))


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Say which tensor is in which of several shards, once all of them are there."""
    if len(shards) == 1:
        return
    weight_map = {tensor: one.name for one in shards for tensor in one.layout.tensors}
    total = sum(one.layout.nbytes for one in shards)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, "utf-8")


@contextmanager
def safetensors_file(path: Path, layout: Layout, metadata: Metadata) -> Iterator[FileSink]:
    """One safetensors file."""
    with _safetensors(path, layout, metadata) as places, FileSink(layout, places) as sink:
        yield sink


@contextmanager
def torch_file(path: Path, layout: Layout, envelope: Envelope | None = None) -> Iterator[FileSink]:
    """A state dict as `torch.save` writes it, with ties kept.

    With the `envelope` of a training's checkpoint it goes where the state dict was in there, beside
    what described the model; what described the training is left out.

    The zip's checksums of the tensors stay unset, as with `torch.serialization.set_crc32_options`;
    torch does not look at them, `unzip -t` does.
    """
    import torch

    # Never touched, so these tensors take address space but no memory.
    state = {
        name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
        for name, spec in layout.tensors.items()
    }
    state |= {alias: state[kept] for alias, kept in layout.ties.items()}
    # Into an open file, for a path's name would stand in the bytes.
    with torch.serialization.skip_data(), path.open("wb") as file:
        torch.save(enclosed(state, envelope or Envelope()), file)
    del state
    places = places_in(path, live_key(envelope.key) if envelope else ())
    with path.open("r+b", buffering=0) as written:
        at = {name: (written.fileno(), places[name]) for name in layout.tensors}
        with FileSink(layout, at) as sink:
            yield sink


@contextmanager
def _safetensors(
    path: Path, layout: Layout, metadata: Metadata
) -> Iterator[dict[str, tuple[int, int]]]:
    # Wide dtypes first, then by name: aligned, as the library does, and the same for every pool.
    names = sorted(layout.tensors, key=lambda name: (-ITEMSIZE[layout.tensors[name].dtype], name))
    ties = {alias: kept for alias, kept in layout.ties.items() if kept in layout.tensors}
    if "__metadata__" in layout.tensors:
        raise BadInput("safetensors cannot hold a tensor called '__metadata__'; write a .pt file")
    header: dict[str, object] = {}
    offsets: dict[str, int] = {}
    end = 0
    for name in names:
        spec = layout.tensors[name]
        offsets[name] = end
        header[name] = {
            "dtype": SAFETENSORS_NAME[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [end, end := end + spec.nbytes],
        }

    def encoded(said: Mapping[str, str]) -> bytes:
        content = {"__metadata__": {"format": "pt", **ties, **said}, **header}
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        return text + b" " * (-len(text) % 8)

    size = len(encoded(metadata.placeholder()))
    with path.open("wb", buffering=0) as file:
        file.truncate(8 + size + end)
        yield {name: (file.fileno(), 8 + size + at) for name, at in offsets.items()}
        # Last of all, so that a file without all of its tensors is none.
        text = encoded(metadata.final())
        if len(text) != size:
            raise ValueError(f"{path}: metadata of {len(text)} bytes do not fit in {size}")
        file.seek(0)
        file.write(size.to_bytes(8, "little") + text)


def _shards(layout: Layout, max_shard_bytes: int) -> list[Layout]:
    """The layout cut into pieces of at most `max_shard_bytes`, or of one larger tensor."""
    shards: list[dict[str, TensorSpec]] = [{}]
    filled = 0
    for name in sorted(layout.tensors):
        spec = layout.tensors[name]
        if shards[-1] and filled + spec.nbytes > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = spec
        filled += spec.nbytes
    return [Layout(tensors, layout.ties) for tensors in shards]
