"""Arrays beside a store: each in a `.npy` file of its own, there whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
import uuid
import weakref
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ladle.files import publish_file
from ladle.predictions import Array

_MAPPED = 16 * 2**20
"""Files of more bytes are mapped into memory, where the system may drop what is not looked at."""

_CHUNK = 2**20


@dataclass(frozen=True)
class Kept:
    """Where an array is, and by what to tell that it is all there."""

    name: str
    nbytes: int
    """Of the file, with its header."""
    crc32: int


class ArrayFolder:
    """Float32 arrays as `.npy` files in one folder, which other processes may use as well.

    A file is named for its key and its content, and never changed: whoever else writes the same
    key, what a `Kept` describes is there, whole, or is gone.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder; if nobody else uses it, rid it of what killed processes left.

        Raises:
            OSError: it cannot be made or written to.
        """
        self._folder = folder
        self._whole: dict[str, tuple[int, int, int]] = {}
        folder.mkdir(exist_ok=True)
        self.close = weakref.finalize(self, _use(folder))
        part = self._new_name()
        part.touch(exist_ok=False)
        part.unlink()

    def keep(self, key: str, array: Array) -> Kept:
        """Write an array under a key that is fit for a file's name; on the disk when it returns.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        array = np.ascontiguousarray(array, "<f4")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, np.lib.format.header_data_from_array_1_0(array)
        )
        begin = header.getvalue()
        content = array.reshape(-1).view(np.uint8).data
        crc = zlib.crc32(content, zlib.crc32(begin))
        kept = Kept(f"{key}-{crc:08x}.npy", len(begin) + len(content), crc)
        part = self._new_name()
        try:
            with part.open("xb") as file:
                file.write(begin)
                file.write(content)
            publish_file(part, self._folder / kept.name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return kept

    def read(self, kept: Kept) -> Array | None:
        """The array, not to be written to; None if it is missing, cut or damaged."""
        path = self._folder / kept.name
        try:
            if not self._is_whole(path, kept):
                return None
            mapped = kept.nbytes > _MAPPED
            array: Array = np.asarray(np.load(path, mmap_mode="r" if mapped else None))
        except ValueError:
            return None  # Of the size and sum that it should have, and yet no array.
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise  # It may well be there.
            return None
        array.flags.writeable = False
        return array

    def remove(self, kept: Kept) -> None:
        """Have the array no more.

        Raises:
            OSError: the folder cannot be written to.
        """
        (self._folder / kept.name).unlink(missing_ok=True)

    def take(self, source: Path, names: Iterable[str]) -> None:
        """Have files of another such folder, too: as links, or else as copies.

        Those that are not there are passed over.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        for name in names:
            self._take(source / name)

    def _take(self, file: Path) -> None:
        target = self._folder / file.name
        try:
            os.link(file, target)
        except (FileExistsError, FileNotFoundError):
            pass
        except OSError:  # Another disk, or one without links.
            part = self._new_name()
            try:
                shutil.copyfile(file, part)
                publish_file(part, target)
            finally:
                part.unlink(missing_ok=True)

    def _new_name(self) -> Path:
        return self._folder / f".{uuid.uuid4().hex}.part"

    def _is_whole(self, path: Path, kept: Kept) -> bool:
        """Whether the file is what was kept; read through once, and again if it was changed."""
        found = path.stat()
        state = (found.st_size, found.st_mtime_ns, found.st_ino)
        if self._whole.get(kept.name) == state:
            return True
        # Read, not mapped: a disk that fails is then an error, where a map kills the process.
        if found.st_size != kept.nbytes or _crc32_of(path) != kept.crc32:
            return False
        self._whole[kept.name] = state
        return True


class ArrayMemory:
    """The same in memory, for as long as the process lives."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def keep(self, key: str, array: Array) -> Kept:
        copy = np.array(array, np.float32)
        copy.flags.writeable = False
        self._arrays[key] = copy
        return Kept(key, copy.nbytes, 0)

    def read(self, kept: Kept) -> Array | None:
        return self._arrays.get(kept.name)

    def remove(self, kept: Kept) -> None:
        self._arrays.pop(kept.name, None)

    def close(self) -> None:
        self._arrays.clear()


def _crc32_of(path: Path) -> int:
    crc = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def _use(folder: Path) -> Callable[[], None]:
    """Let others see that the folder is in use, until what is returned is called.

    Whoever finds it unused removes what is unfinished in it: its writer was killed.
    """
    if sys.platform == "win32":
        return lambda: None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # Others use it, or its disk knows no locks.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for rest in folder.glob(".*.part"):
            rest.unlink()
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return partial(os.close, descriptor)
