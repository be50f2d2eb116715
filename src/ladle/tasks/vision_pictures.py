"""Images on disk or in memory, and what is done to them before a model sees them."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ladle.errors import BadInput, BadTask, MissingExtra
from ladle.predictions import Labels

Images = npt.NDArray[np.uint8] | Sequence[str | Path]
"""uint8 (N, H, W) or (N, H, W, C) with 1 or 3 channels, or paths of image files."""

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

STRONGEST_MAGNITUDE = 20
"""RandAugment's magnitude, of 30, at augmentation 1: the largest in the paper's sweeps."""


def read_image_folder(
    path: str | Path, classes: Sequence[str] | None = None
) -> tuple[list[Path], Labels, tuple[str, ...]]:
    """The images of a tree `path/CLASS/**/IMAGE`, sorted, with their labels and the class names.

    Give `classes` for every split but the first, so that the labels agree; the tree may lack some
    of them. Raises `BadTask` for a folder that is not among them, or that holds no images.
    """
    path = Path(path)
    if not path.is_dir():
        raise BadTask(f"{path} is not a folder; give a folder with one folder of images per class")
    folders = sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise BadTask(f"{path} holds no class folders; put the images of each class into its own")
    classes = tuple(folders) if classes is None else tuple(classes)
    if unknown := [folder for folder in folders if folder not in classes]:
        absent = [name for name in classes if name not in folders]
        raise BadTask(
            f"{path} holds folders that are not classes: {_some(unknown)}; "
            + (f"rename them (no folder yet: {_some(absent)}) " if absent else "")
            + "or remove them"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        found = sorted(
            file for file in (path / folder).rglob("*") if file.suffix.lower() in SUFFIXES
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

    With an `augmentation` above 0, each goes through two random operations of RandAugment, which
    depend on `seed` and the image's index alone. None of them flips: that would change a digit.
    """

    images: Images
    resize: Callable[[Tensor], Tensor]
    augmentation: float = 0.0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        if isinstance(self.images, np.ndarray):
            pixels = torch.from_numpy(self.images[indices])
            pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
            resized = self.resize(pixels).expand(-1, 3, -1, -1)
        else:
            read = (torch.from_numpy(_read_image(self.images[index])) for index in indices)
            resized = torch.stack([self.resize(pixels.permute(2, 0, 1)) for pixels in read])
        if self.augmentation == 0:
            return resized
        pairs = zip(resized, indices, strict=True)
        return torch.stack([self._augmented(image, index) for image, index in pairs])

    def _augmented(self, image: Tensor, index: int) -> Tensor:
        transforms = imported("torchvision.transforms.v2")
        magnitude = round(STRONGEST_MAGNITUDE * self.augmentation)
        # torchvision draws from the generator of the process. Seeding it for every image makes
        # the result independent of the order, the batches and the number of workers.
        # torch.manual_seed would also queue a call for each GPU, and is slow for that.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed + index)
            augmented: Tensor = transforms.RandAugment(2, magnitude)(image)
        return augmented


def hashed_examples(images: Images, labels: Labels) -> tuple[str, npt.NDArray[np.uint64]]:
    """Sha256 of the pixels, or of the bytes of every file, and of the labels; and a hash of each.

    Every file is read once.
    """
    total = hashlib.sha256()
    each = []
    if isinstance(images, np.ndarray):
        total.update(repr(images.shape).encode())
        total.update(images.tobytes())
        each = [hashlib.sha256(image.tobytes()).digest() for image in images]
    else:
        for path in images:
            each.append(digest_of_file(path))
            total.update(each[-1])
    total.update(labels.astype("<i8").tobytes())
    contents = np.frombuffer(b"".join(one[:8] for one in each), "<u8")
    return total.hexdigest(), contents.astype(np.uint64)


def digest_of_file(path: str | Path) -> bytes:
    """Sha256 of a file, read in blocks."""
    total = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check the path") from error
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


def _read_image(path: str | Path) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, 3)."""
    picture = imported("PIL.Image", "pillow")
    try:
        with picture.open(path) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise BadInput(f"image {path} does not exist; list the images again") from error
    # PIL's decoders report damage with any of these.
    except (OSError, SyntaxError, ValueError, picture.DecompressionBombError) as error:
        raise BadInput(f"image {path} cannot be read; repair or remove it") from error


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
