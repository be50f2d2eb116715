"""Random changes of training images, by a strength or by the name of a policy."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle.errors import BadInput
from ladle.tasks.vision_pictures import Preprocessing, imported
from ladle.wording import nearest

Augment = Callable[[Tensor, int], Tensor]
"""From one image, uint8 (3, H, W), to another, as a seed of at least 0 says."""

_Change = Callable[[Tensor], Tensor]

STRONGEST_MAGNITUDE = 20
"""RandAugment's magnitude, of 30, at augmentation 1: the largest in the paper's sweeps."""

TRIVIAL = "trivial"

# What timm's policies are made of, from timm.data.auto_augment: it passes over what it does not
# know, and a sweep would run for days without what was asked for.
_COUNT, _NUMBER, _SWITCH = r"\d{1,2}", r"\d+(\.\d+)?", "[01]"
_POLICIES = {
    "rand": {
        "m": _COUNT,
        "n": _COUNT,
        "p": r"(0(\.\d+)?|1(\.0+)?)",
        "mstd": _NUMBER,
        "mmax": _COUNT,
        "inc": _SWITCH,
        "t": "(weights|3a|3aw)",
    },
    "augmix": {"m": _COUNT, "w": _COUNT, "d": _COUNT, "b": _SWITCH, "mstd": _NUMBER},
    **{name: {"mstd": _NUMBER} for name in ("v0", "v0r", "original", "originalr", "3a")},
}
_ADVICE = (
    f"write for example rand-m9-n2, augmix-m3, original, 3a, {TRIVIAL}, or a number from 0 to 1"
)


def augment_of(augmentation: float | str, preprocessing: Preprocessing) -> Augment | None:
    """What an augmentation does to an image; None for nothing.

    A number above 0 is two random operations of torchvision's RandAugment (Cubuk et al., 2020),
    stronger the larger it is, up to 1. A string is `trivial`, torchvision's TrivialAugmentWide
    (Müller and Hutter, 2021), or a policy as timm writes it: `rand-m9-n2` (RandAugment),
    `augmix-m3`, `original` (AutoAugment), `3a` and their kin, which operate on the image at the
    size that the model sees. None of them flips an image, as that would change a digit.

    Raises:
        BadInput: there is no such augmentation.
    """
    if augmentation == 0:
        return None
    if not isinstance(augmentation, str):
        if not 0 < augmentation <= 1:
            raise BadInput(f"augmentation is {augmentation}; give a number from 0 to 1")
        magnitude = round(STRONGEST_MAGNITUDE * augmentation)
        return _Seeded(imported("torchvision.transforms.v2").RandAugment(2, magnitude))
    if augmentation == TRIVIAL:
        return _Seeded(imported("torchvision.transforms.v2").TrivialAugmentWide())
    _check_policy(augmentation)
    augment = _Seeded(_Policy(_policy(augmentation, preprocessing)))
    try:
        augment(torch.zeros(3, 8, 8, dtype=torch.uint8), 0)
    except ValueError as error:  # more operations than there are, where each is used only once
        raise BadInput(
            f"augmentation is {augmentation!r}, which timm cannot do ({error}); {_ADVICE}"
        ) from error
    return augment


@dataclass(frozen=True)
class _Seeded:
    """An `Augment` out of a change that draws from the generators of the process.

    Those of torch, numpy and Python start from the seed, as each library draws from its own, and
    then are as before.
    """

    change: _Change

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        of_python, of_numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=[]):
                # torch.manual_seed would also queue a call for each GPU, and is slow for that.
                torch.default_generator.manual_seed(seed)
                random.seed(seed)
                np.random.seed([seed >> 32, seed & 0xFFFFFFFF])
                return self.change(image)
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


@dataclass(frozen=True)
class _Policy:
    """A transform of images of PIL, for tensors."""

    transform: Callable[[object], object]

    def __call__(self, image: Tensor) -> Tensor:
        pictures = imported("PIL.Image", "pillow")
        changed = self.transform(pictures.fromarray(image.permute(1, 2, 0).numpy()))
        return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def _check_policy(augmentation: str) -> None:
    name, *sections = augmentation.split("-")
    if name not in _POLICIES:
        raise BadInput(
            f"augmentation is {augmentation!r}, which is no policy"
            f"{nearest(name, [*_POLICIES, TRIVIAL])}; {_ADVICE}"
        )
    known = _POLICIES[name]
    for section in sections:
        if not any(re.fullmatch(key + value, section) for key, value in known.items()):
            raise BadInput(
                f"augmentation is {augmentation!r}, and {section!r} is no setting of {name}, which "
                f"has {', '.join(known)}; {_ADVICE}"
            )


def _policy(augmentation: str, preprocessing: Preprocessing) -> Callable[[object], object]:
    """As `timm.data.create_transform` makes it."""
    policies = imported("timm.data.auto_augment")
    settings: dict[str, object] = {
        "translate_const": int(preprocessing.size * 0.45),
        "img_mean": tuple(min(255, round(255 * mean)) for mean in preprocessing.mean),
    }
    make = policies.auto_augment_transform
    if augmentation.startswith("rand"):
        make = policies.rand_augment_transform
    elif augmentation.startswith("augmix"):
        make = policies.augment_and_mix_transform
        settings["translate_pct"] = 0.3
    transform: Any = make(augmentation, settings)
    operations = chain(*transform.policy) if hasattr(transform, "policy") else transform.ops
    for operation in operations:
        if operation.aug_fn is policies.posterize:
            operation.aug_fn = _posterized
    return transform  # type: ignore[no-any-return]


def _posterized(image: Any, bits: int, **_: object) -> Any:
    """timm's operation of this name. It asks for 0 bits too, which Pillow came to refuse."""
    if bits < 1:
        return image.point(lambda _: 0)
    return imported("timm.data.auto_augment").posterize(image, bits)
