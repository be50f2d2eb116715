"""What torch.save wrote: a zip with a pickle that describes tensors, and their bytes beside it."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import numpy as np

from ladle.checkpoint.base import TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.inert import InertUnpickler, Record
from ladle.checkpoint.reading import opened
from ladle.checkpoint.regions import Plain, Region, Strided
from ladle.errors import UnreadableCheckpoint

_NUMBERS = {"float32": "<f4", "float64": "<f8", "int64": "<i8"}

_SCALARS = ("b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")

_NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")

_PATHS = frozenset(
    f"{module}.{pure}{system}Path"
    for module in ("pathlib", "pathlib._local")  # Python 3.13 moved them.
    for pure in ("", "Pure")
    for system in ("Posix", "Windows")
)

_STORAGES = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ShortStorage": "int16",
}
"""The kinds of storages that tell the dtype of their tensors; newer dtypes have none."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as a pickle of torch's describes it.

    `storage` is the name of its bytes in the archive; `offset` and `strides` are in elements.
    `oddity` says why it is not the plain numbers that lie there, where that is so.
    """

    dtype: str
    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    oddity: str | None = None

    def __setstate__(self, state: Any) -> None:
        """Attributes that were set on it are left out."""

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return 0 in self.shape
            expected *= size
        return True


@dataclass(frozen=True)
class _Storage:
    name: str
    dtype: str | None

    def __setstate__(self, state: Any) -> None:
        """It has none."""


class _Unpickler(InertUnpickler):
    """Makes tensors too."""

    def find_class(self, module: str, name: str) -> Any:
        rebuild = _REBUILD.get((module, name))
        if rebuild:
            return type(name, (Record,), {"__new__": rebuild})
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        _, kind, name, *_ = pid
        if not isinstance(name, str):
            raise TypeError("a storage has no name")
        return _Storage(name, _STORAGES.get(kind.kind.rpartition(".")[2]))


def _rebuilt(
    _: type,
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: object = None,
    hooks: object = None,
    *rest: Any,
) -> Tensor:
    """`torch._utils._rebuild_tensor` and its second and third version."""
    if not isinstance(storage, _Storage):
        raise TypeError("a tensor has no storage")
    numbers = (offset, *shape, *strides)
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or len(shape) != len(strides):
        raise ValueError("a tensor has no shape")
    dtype, odd = storage.dtype, [one for one in rest if isinstance(one, Mapping) and one]
    if dtype is None and rest and isinstance(rest[0], str):
        dtype = rest[0]
    oddity = "conjugated or negated" if odd else None
    return Tensor(dtype or "untyped", storage.name, offset, (*shape,), (*strides,), oddity)


def _parameter(_: type, tensor: Any, *rest: Any) -> Any:
    return tensor


def _subclass(_: type, rebuild: Any, kind: Any, args: Any, state: Any) -> Any:
    return rebuild(*args)


def _sparse(_: type, *args: Any) -> Tensor:
    return Tensor("sparse", "", 0, (), (), "sparse")


_REBUILD = {
    ("torch._utils", "_rebuild_tensor"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._utils", "_rebuild_sparse_tensor"): _sparse,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
}
"""What makes tensors of their parts; everything else in the pickle stays a record."""


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
    def members(self) -> Mapping[str, tuple[int, int]]:
        """What lies where in the zip: name -> where its bytes begin, and how many they are.

        Raises:
            UnreadableCheckpoint: the zip is damaged, compressed or of a big-endian machine.
        """
        found: dict[str, tuple[int, int]] = {}
        try:
            with self.opened() as file, zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
                for info in infos:
                    if info.compress_type != zipfile.ZIP_STORED:
                        raise UnreadableCheckpoint(
                            f"{self.path} was compressed after torch.save; unpack it and zip it "
                            "with -0"
                        )
                    found[info.filename] = _begin(file, info), info.file_size
                for name in found:
                    if name.endswith("/byteorder") and archive.read(name) != b"little":
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
        if len(found) < len(infos):
            raise UnreadableCheckpoint(
                f"{self.path} is a zip with two members of one name; load and torch.save it again"
            )
        return found

    @cached_property
    def _root(self) -> str:
        """What all names in the zip begin with."""
        pickles = [name for name in self.members if re.fullmatch(r"[^/]*/data\.pkl", name)]
        if len(pickles) != 1:
            raise UnreadableCheckpoint(
                f"{self.path} is a zip, but not one of torch.save: it has no data.pkl; name a "
                "checkpoint"
            )
        root = pickles[0].partition("/")[0]
        if f"{root}/constants.pkl" in self.members:
            raise UnreadableCheckpoint(
                f"{self.path} is a TorchScript program; torch.save the model's state_dict()"
            )
        return root

    def load(self) -> Any:
        """What was saved, with a `Tensor` for each tensor: nothing of them is read.

        Nothing in the file runs, so what is no tensor or plain value is a `Record`.

        Raises:
            UnreadableCheckpoint: the pickle is damaged.
        """
        begin, nbytes = self.members[f"{self._root}/data.pkl"]
        try:
            with self.opened() as file:
                file.seek(begin)
                return _Unpickler(file.read(nbytes)).load()
        except Exception as error:  # A damaged pickle can fail in any way.
            raise UnreadableCheckpoint(
                f"{self.path} has a damaged pickle ({type(error).__name__}: "
                f"{_first_line(error)[:100]}); copy it again"
            ) from error

    def place(self, name: str, tensor: Tensor) -> tuple[TensorSpec, Region]:
        """What a tensor is, and where in the file it lies.

        Raises:
            UnreadableCheckpoint: it is no plain tensor, or does not lie where it should.
        """
        if tensor.oddity or tensor.dtype not in ITEMSIZE:
            raise UnreadableCheckpoint(
                f"{self.path}: tensor {name!r} is {tensor.oddity or tensor.dtype}, which ladle "
                "does not read"
            )
        spec = TensorSpec(tensor.dtype, tensor.shape)
        member = f"{self._root}/data/{tensor.storage}"
        if member not in self.members:
            raise UnreadableCheckpoint(
                f"{self.path} lacks the data of tensor {name!r}; copy it again"
            )
        begin, nbytes = self.members[member]
        itemsize = ITEMSIZE[spec.dtype]
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        stop = (tensor.offset + reach + 1) * itemsize if spec.numel else 0
        if stop > nbytes:
            raise UnreadableCheckpoint(
                f"{self.path}: tensor {name!r} reaches beyond its data; the file is damaged, copy "
                "it again"
            )
        offset = self.start + begin + tensor.offset * itemsize
        if tensor.is_contiguous:
            return spec, Plain(self.path, offset)
        return spec, Strided(self.path, offset, tensor.strides)

    def plain(self, value: Any) -> Any:
        """A tensor or number of numpy's, a path or a namespace as plain Python; else the value."""
        if isinstance(value, Record):
            return _plain(value)
        if not isinstance(value, Tensor) or math.prod(value.shape) != 1:
            return value
        if value.dtype not in _NUMBERS:
            return value
        spec, region = self.place("", value)
        if not isinstance(region, Plain):
            return value
        with opened(self.path) as file:
            file.seek(region.offset)
            raw = file.read(ITEMSIZE[spec.dtype])
        return np.frombuffer(raw, _NUMBERS[spec.dtype])[0].item()


def _begin(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin."""
    file.seek(info.header_offset)
    header = file.read(30)
    name, extra = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    if file.read(name) != info.orig_filename.encode(encoding):
        raise zipfile.BadZipFile(f"{info.filename!r} has two names")
    return info.header_offset + 30 + name + extra


def _plain(record: Record) -> Any:
    # What a pickle says of a record's attributes may be anything; its class is what we made.
    kind, parts = type(record).kind, record.made_from
    if kind in _PATHS and all(isinstance(part, str) for part in parts):
        # A path of another system cannot be made here, and to know its text is enough.
        return str(PurePosixPath(*parts))
    if kind == "argparse.Namespace":
        return {key: value for key, value in vars(record).items() if key != "made_from"}
    if kind in _NUMPY_SCALARS and len(parts) == 2:
        return _number(*parts)
    return record


def _number(dtype: Any, raw: Any) -> Any:
    """A scalar of numpy's; None where its kind is not a plain one."""
    code = dtype.made_from[0] if isinstance(dtype, Record) and dtype.made_from else None
    if isinstance(raw, Record) and raw.made_from and isinstance(raw.made_from[0], str):
        # How protocol 2 writes bytes.
        raw = raw.made_from[0].encode("latin-1", errors="replace")
    if code not in _SCALARS or not isinstance(raw, bytes) or len(raw) != int(code[1]):
        return None
    return np.frombuffer(raw, f"<{code}")[0].item()


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
    """Whether this is a tensor, in what `TorchArchive.load` gave."""
    return isinstance(value, Tensor)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
