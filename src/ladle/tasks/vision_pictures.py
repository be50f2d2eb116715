"""Images on disk or in memory, and what is done to them before a model sees them."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ladle.errors import BadInput, BadTask, CorruptImage, MissingExtra
from ladle.predictions import Labels
from ladle.wording import some


@runtime_checkable
class Encoded(Protocol):
    """Images as the bytes of image files, wherever these lie."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> BinaryIO:
        """The bytes of one image; OSError where they cannot be had."""
        ...

    def name(self, index: int) -> str:
        """What to call the image in an error."""
        ...

    def subset(self, indices: Sequence[int]) -> Encoded:
        """Those of these numbers, in this order."""
        ...


Images = npt.NDArray[np.uint8] | Sequence[str | Path] | Encoded
"""uint8 (N, H, W) or (N, H, W, C) with 1 or 3 channels, paths of image files, or `Encoded`."""

Result = TypeVar("Result")

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def class_folders(path: Path) -> list[str]:
    """The names of the folders in a tree `path/CLASS/**/IMAGE`, sorted.

    Raises:
        BadTask: there is no such tree.
    """
    if not path.is_dir():
        raise BadTask(f"{path} is not a folder; give a folder with one folder of images per class")
    folders = sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise BadTask(f"{path} holds no class folders; put the images of each class into its own")
    return folders


def names_within(folder: Path, images: Sequence[str | Path]) -> list[str]:
    """The paths of images relative to a folder that they are in, with / whatever the system."""
    prefix = f"{folder.as_posix().rstrip('/')}/"
    return [Path(image).as_posix().removeprefix(prefix) for image in images]


def read_image_folder(
    path: str | Path, classes: Sequence[str] | None = None, *, ignored: Collection[str] = ()
) -> tuple[list[Path], Labels, tuple[str, ...]]:
    """The images of a tree `path/CLASS/**/IMAGE`, sorted, with their labels and the class names.

    Give `classes` for every split but the first, so that the labels agree; the tree may lack some
    of them. Folders that are `ignored` are passed over. Raises `BadTask` for a folder that is not
    among the classes, or that holds no images.
    """
    path = Path(path)
    folders = [folder for folder in class_folders(path) if folder not in ignored]
    classes = tuple(folders) if classes is None else tuple(classes)
    if unknown := [folder for folder in folders if folder not in classes]:
        absent = [name for name in classes if name not in folders]
        raise BadTask(
            f"{path} holds folders that are not classes: {some(unknown)}; "
            + (f"rename them (no folder yet: {some(absent)}) " if absent else "")
            + "or remove them"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        found = sorted(
            file
            for file in (path / folder).rglob("*")
            # What macOS leaves beside a file is called like it, with ._ before its name.
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
        if not found:
            raise BadTask(f"{path / folder} holds no images; add some or remove the folder")
        paths += found
        labels += [classes.index(folder)] * len(found)
    return paths, np.array(labels, dtype=np.int64), classes


@dataclass(frozen=True)
class Preprocessing:
    """From an image to the input of a model: shorter side to size / crop, centre crop, normalise.

    `size` is in pixels; `squash` resizes both sides and so changes the proportions; `mean` and
    `std` are per channel of images scaled to 0..1.
    """

    size: int
    crop: float
    squash: bool
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resize(self) -> Callable[[Tensor], Tensor]:
        """A function from uint8 (..., H, W) to uint8 (..., size, size)."""
        transforms = imported("torchvision.transforms.v2")
        side = round(self.size / self.crop)
        resized: Callable[[Tensor], Tensor] = transforms.Compose(
            [
                transforms.Resize(
                    (side, side) if self.squash else side,
                    interpolation=transforms.InterpolationMode(self.interpolation),
                    antialias=True,
                ),
                transforms.CenterCrop(self.size),
            ]
        )
        return resized

    def normalise(self, images: Tensor) -> Tensor:
        """Float32 (B, 3, size, size) for the model, from uint8."""
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return (images.float() / 255 - mean) / std


@dataclass(frozen=True)
class Pictures:
    """Images for a PyTorch data loader, which asks for whole batches, uint8 (B, 3, size, size).

    Each goes through `augment`, if there is one, with a seed that depends on `seed` and the
    image's index alone.
    """

    images: Images
    resize: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor, int], Tensor] | None = None
    seed: int = 0
    border: int = 0
    """Pixels that each image loses on every side before anything else."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        if isinstance(self.images, np.ndarray):
            pixels = torch.from_numpy(self.images[indices])
            pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
            pixels = self._within(pixels, "images in memory")
            resized = self.resize(pixels).expand(-1, 3, -1, -1)
        else:
            files = _encoded(self.images)
            read = _in_threads(lambda k: self.resize(self._read(files, indices[k])), len(indices))
            resized = torch.stack(read)
        if self.augment is None:
            return resized
        # A seed for every image makes the result independent of the order, the batches and the
        # number of workers.
        pairs = zip(resized, indices, strict=True)
        return torch.stack([self.augment(image, self.seed + index) for image, index in pairs])

    def _read(self, files: Encoded, index: int) -> Tensor:
        pixels = torch.from_numpy(_read_image(files, index)).permute(2, 0, 1)
        return self._within(pixels, f"image {files.name(index)}")

    def _within(self, pixels: Tensor, what: str) -> Tensor:
        if not self.border:
            return pixels
        height, width = pixels.shape[-2:]
        if min(height, width) <= 2 * self.border:
            raise BadInput(f"{what}: {width} x {height} pixels are all border; repair or remove it")
        inner = slice(self.border, -self.border)
        return pixels[..., inner, inner]


def hashed_examples(images: Images, labels: Labels) -> tuple[str, npt.NDArray[np.uint64]]:
    """Sha256 of the pixels, or of the bytes of every file, and of the labels; and a hash of each.

    Every file is read once.
    """
    total = hashlib.sha256()
    if isinstance(images, np.ndarray):
        total.update(repr(images.shape).encode())
        total.update(images.tobytes())
        each = [hashlib.sha256(image.tobytes()).digest() for image in images]
    else:
        files = _encoded(images)
        each = _in_threads(lambda index: _digest(files, index), len(files))
        total.update(b"".join(each))
    total.update(labels.astype("<i8").tobytes())
    contents = np.frombuffer(b"".join(one[:8] for one in each), "<u8")
    return total.hexdigest(), contents.astype(np.uint64)


def nbytes_of(images: Images) -> int:
    """How much there is to read from files; 0 where that is not known."""
    if isinstance(images, np.ndarray | Encoded):
        return 0
    return sum(_stat(path).st_size for path in images)


def stamp_of(images: Images, labels: Labels) -> str:
    """Sha256 of what tells files apart without reading them: name, size, time; and of the labels.

    Raises:
        TypeError: the images are not in files of their own.
    """
    if isinstance(images, np.ndarray | Encoded):
        raise TypeError("only files have a stamp")
    total = hashlib.sha256()
    for path in images:
        found = _stat(path)
        total.update(f"{Path(path).name} {found.st_size} {found.st_mtime_ns}\n".encode())
    total.update(labels.astype("<i8").tobytes())
    return total.hexdigest()


def _stat(path: str | Path) -> os.stat_result:
    try:
        return Path(path).stat()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check the path") from error


def are_corrupt(images: Images) -> npt.NDArray[np.bool_]:
    """(N,) flags of the image files that cannot be decoded; reads and decodes every one of them.

    Raises:
        BadInput: a file does not exist.
    """
    if isinstance(images, np.ndarray):
        return np.zeros(len(images), np.bool_)

    files = _encoded(images)

    def is_corrupt(index: int) -> bool:
        try:
            _read_image(files, index)
        except CorruptImage:
            return True
        return False

    return np.array(_in_threads(is_corrupt, len(files)), np.bool_)


def some_images(images: Images, indices: Sequence[int]) -> Images:
    """The images of these numbers, in this order."""
    if isinstance(images, np.ndarray):
        return images[list(indices)]
    return images.subset(indices) if isinstance(images, Encoded) else [images[i] for i in indices]


def name_of(images: Images, index: int) -> str:
    """What to call one of the images."""
    if isinstance(images, np.ndarray):
        return f"image {index}"
    return _encoded(images).name(index)


def digest_of_file(path: str | Path) -> bytes:
    """Sha256 of a file, read in blocks."""
    return _digest(_Files([path]), 0)


def _digest(files: Encoded, index: int) -> bytes:
    total = hashlib.sha256()
    try:
        with files.open(index) as file:
            while block := file.read(1 << 20):
                total.update(block)
    except OSError as error:
        raise BadInput(
            f"{files.name(index)} cannot be read ({error.strerror}); check the path"
        ) from error
    return total.digest()


def imported(module: str, package: str | None = None, extra: str = "vision") -> Any:
    """A module that comes with an extra of ladle's, or `MissingExtra`."""
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != top:
            raise
        raise MissingExtra(package or top, extra) from error


@dataclass(frozen=True)
class _Files:
    """Files on disk: `Encoded`."""

    paths: Sequence[str | Path]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, index: int) -> BinaryIO:
        return Path(self.paths[index]).open("rb")

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def subset(self, indices: Sequence[int]) -> Encoded:
        return _Files([self.paths[index] for index in indices])


def _encoded(images: Sequence[str | Path] | Encoded) -> Encoded:
    return images if isinstance(images, Encoded) else _Files(images)


def _read_image(files: Encoded, index: int) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, 3)."""
    picture = imported("PIL.Image", "pillow")
    try:
        with files.open(index) as file, picture.open(file) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise BadInput(
            f"image {files.name(index)} does not exist; list the images again"
        ) from error
    # PIL's decoders report damage with any of these.
    except (OSError, SyntaxError, ValueError, picture.DecompressionBombError) as error:
        raise CorruptImage(
            f"image {files.name(index)} cannot be read; repair or remove it, or skip such images "
            "with skip_corrupt (--skip-corrupt)"
        ) from error


def _in_threads(function: Callable[[int], Result], count: int) -> list[Result]:
    """Of the numbers from 0 on, in order: several at a time, as disks and decoders like it."""
    results: list[Result] = []
    with ThreadPoolExecutor() as pool:
        # In blocks: a pool takes all it is given at once, and ImageNet has a million files.
        for start in range(0, count, 4096):
            results += pool.map(function, range(start, min(start + 4096, count)))
    return results
