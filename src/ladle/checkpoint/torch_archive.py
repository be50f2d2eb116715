"""What torch.save wrote: a zip whose pickle is read with `weights_only=True`, never otherwise."""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, cast

import numpy as np

from ladle.checkpoint.base import TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.location import opened
from ladle.checkpoint.regions import Plain, Region, Strided
from ladle.errors import UnreadableCheckpoint

_NUMBERS = {"float32": "<f4", "float64": "<f8", "int64": "<i8"}


@dataclass(frozen=True)
class TorchArchive:
    """An archive of torch.save: a file, or `length` bytes of one from `start` on."""

    path: Path
    start: int = 0
    length: int | None = None

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The archive's bytes as a file of their own."""
        with opened(self.path) as file:
            if self.length is None:
                yield file
            else:
                window = io.BufferedReader(_Window(file, self.start, self.length))
                yield cast(BinaryIO, window)

    @cached_property
    def members(self) -> Mapping[int, tuple[str, int]]:
        """What lies where in the zip: where its bytes begin -> name and size.

        To be looked at before torch is asked, which trusts what the pickle says about them, and
        crashes on the meta device where they are big-endian.

        Raises:
            UnreadableCheckpoint: the zip is damaged, compressed or of a big-endian machine.
        """
        found: dict[int, tuple[str, int]] = {}
        try:
            with self.opened() as file, zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    if info.compress_type != zipfile.ZIP_STORED:
                        raise UnreadableCheckpoint(
                            f"{self.path} was compressed after torch.save; unpack it and zip it "
                            "with -0"
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
                                f"{self.path} is big-endian; load and torch.save it on this machine"
                            )
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            ValueError,
            struct.error,
            EOFError,
        ) as error:
            raise UnreadableCheckpoint(
                f"{self.path} is a damaged zip ({_first_line(error)}); copy it again"
            ) from error
        return found

    def load(self) -> Any:
        """What was saved, its tensors on the meta device: nothing of them is read.

        Raises:
            UnreadableCheckpoint: the pickle asks for more than tensors and plain values.
        """
        import torch

        try:
            with torch.serialization.safe_globals(_harmless()), self.opened() as file:
                return torch.load(file, map_location="meta", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UnreadableCheckpoint(
                f"{self.path} needs {self._needed()} to load, which could run code, so it was not "
                "loaded; save the model's state_dict() alone"
            ) from error
        except Exception as error:
            raise UnreadableCheckpoint(
                f"{self.path} cannot be read by torch ({_first_line(error)}); copy it again"
            ) from error

    def place(self, name: str, tensor: Any) -> tuple[TensorSpec, Region]:
        """What a loaded tensor is, and where in the file it lies.

        Raises:
            UnreadableCheckpoint: it is no plain tensor, or does not lie where it should.
        """
        import torch

        dtype = str(tensor.dtype).removeprefix("torch.")
        plain = tensor.layout == torch.strided and not tensor.is_conj() and not tensor.is_neg()
        if not plain or dtype not in ITEMSIZE:
            kind = dtype if tensor.layout == torch.strided else str(tensor.layout)
            raise UnreadableCheckpoint(
                f"{self.path}: tensor {name!r} is {kind}, which ladle does not read"
            )
        spec = TensorSpec(dtype, tuple(tensor.shape))
        storage = tensor.untyped_storage()
        # On the meta device a storage knows where in the file it is, if torch is new enough.
        begin = getattr(storage, "_checkpoint_offset", None)
        if begin is None:
            raise UnreadableCheckpoint(
                f"{self.path}: PyTorch {torch.__version__} does not say where its tensors lie; "
                "run: pip install --upgrade torch"
            )
        if begin not in self.members:
            raise self._moved()
        nbytes = min(storage.nbytes(), self.members[begin][1])
        offset = begin + tensor.storage_offset() * ITEMSIZE[dtype]
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        end = offset + (reach + 1) * ITEMSIZE[dtype] if spec.numel else offset
        if end > begin + nbytes:
            raise UnreadableCheckpoint(
                f"{self.path}: tensor {name!r} reaches beyond its data; the file is damaged, copy "
                "it again"
            )
        if tensor.is_contiguous():
            return spec, Plain(self.path, self.start + offset)
        return spec, Strided(self.path, self.start + offset, tuple(tensor.stride()))

    def plain(self, value: Any) -> Any:
        """A tensor of one number, a number of numpy's or a path as plain Python; else the value."""
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, PurePath):
            return str(value)
        if not is_tensor(value) or value.numel() != 1:
            return value
        spec, region = self.place("", value)
        if spec.dtype not in _NUMBERS or not isinstance(region, Plain):
            return value
        with opened(self.path) as file:
            file.seek(region.offset)
            raw = file.read(ITEMSIZE[spec.dtype])
        return np.frombuffer(raw, _NUMBERS[spec.dtype])[0].item()

    def check_order(self, content: Any) -> None:
        """Check that torch, which computes places in files of this kind, knows where things are.

        It counts on the order and alignment of its own writer, which `zip` and others do not keep.

        Raises:
            UnreadableCheckpoint: the file was written by something else.
        """
        if not any(name.endswith("/.format_version") for name, _ in self.members.values()):
            return
        begins = {
            getattr(t.untyped_storage(), "_checkpoint_offset", None) for t in _tensors(content)
        }
        known = {at: name for at, (name, _) in self.members.items() if "/data/" in name}
        # Storages lie in the order of their numbers.
        numbered = [
            int(known[at].rpartition("/")[2]) for at in sorted(known) if known[at][-1:].isdigit()
        ]
        if not begins <= known.keys() | {None} or numbered != sorted(numbered):
            raise self._moved()

    def _needed(self) -> str:
        """The names that the pickle asks for beyond tensors and plain values."""
        import torch

        try:
            with torch.serialization.safe_globals(_harmless()), self.opened() as file:
                names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        except Exception:  # noqa: BLE001 -- a broken pickle fails in any way; the name is a courtesy
            names = []
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return shown or "more than tensors"

    def _moved(self) -> UnreadableCheckpoint:
        return UnreadableCheckpoint(
            f"{self.path} was zipped anew after torch.save, or is damaged; load and torch.save it "
            "again"
        )


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._length - self._at))
        self._file.seek(self._start + self._at)
        found = self._file.read(wanted)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def is_tensor(value: object) -> bool:
    """Whether this is a tensor of torch."""
    import torch

    return isinstance(value, torch.Tensor)


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


def _tensors(content: Any) -> Iterator[Any]:
    if is_tensor(content):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _tensors(value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
