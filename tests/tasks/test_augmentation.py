"""Augmentation by the name of a policy: timm's own, on real digits, the same for the same seed."""

from __future__ import annotations

import math
import pickle
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from ladle.errors import BadInput, MissingExtra
from ladle.tasks import Augmenting, ImageClassification, TextClassification, demo_text
from ladle.tasks.vision_augmentation import augment_of
from ladle.tasks.vision_pictures import Preprocessing

POLICIES = [
    "rand-m9-n2", "rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.8-mmax20", "rand-m9-tweights-n2",
    "rand-m9-t3a", "augmix-m3", "augmix-m5-w4-d2-b1", "original", "originalr-mstd0.5", "v0", "v0r",
    "3a", "trivial",
]  # fmt: skip
SIZE = 32
PREPROCESSING = Preprocessing(SIZE, 1.0, False, "bilinear", (0.485, 0.456, 0.406), (1, 1, 1))


DIGITS = load_digits()


def pixels(count: int) -> np.ndarray:
    """Digits, 24 x 24."""
    found = (DIGITS.images[:count] * 15.9).astype(np.uint8)
    return found.repeat(3, axis=1).repeat(3, axis=2)


def image(index: int = 0) -> Tensor:
    """Three different digits as colours, so that what treats colours apart can be seen."""
    return torch.from_numpy(pixels(index + 3)[index:])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("digits")
    paths = [folder / f"{index}.png" for index in range(10)]
    for path, digit in zip(paths, pixels(10), strict=True):
        Image.fromarray(digit).save(path)
    return paths


def task(images: object, **options: object) -> ImageClassification:
    labels = DIGITS.target[:10]
    splits = {"train": ("train", images, labels), "held-out": ("held-out", images, labels)}
    return ImageClassification(
        "digits",
        "timm:test_efficientnet",
        splits,
        label_names=tuple("0123456789"),
        image_size=SIZE,
        **options,
    )


def epoch(
    given: ImageClassification, augmentation: float | str, seed: int, size: int = 4
) -> Tensor:
    """The images of an epoch, in the order of the examples."""
    batches = given.batches(
        batch_size=size,
        augmentation=augmentation,
        generator=torch.Generator().manual_seed(seed),
    )
    images = torch.cat([images for images, _ in batches])
    return images[torch.randperm(10, generator=torch.Generator().manual_seed(seed)).argsort()]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_follows_the_generator_alone(policy: str, files: list[Path]) -> None:
    in_memory, on_disk = task(pixels(10)), task(files)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    once = epoch(in_memory, policy, 0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert repr(np.random.get_state()) == repr(states[2])
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert torch.equal(epoch(in_memory, policy, 0), once)
    assert torch.equal(epoch(on_disk, policy, 0, size=7), once)
    assert not torch.equal(epoch(in_memory, policy, 1), once)
    plain = epoch(in_memory, 0, 0)
    changed = (once != plain).flatten(1).any(1)
    assert once.shape == plain.shape
    assert changed.sum() >= 4, "of ten"


@pytest.mark.parametrize("policy", ["rand-m9-n2", "augmix-m3", "original", "trivial", 0.5])
def test_workers_change_nothing(policy: float | str, files: list[Path]) -> None:
    alone, helped = task(files), task(files, workers=2)
    assert torch.equal(epoch(alone, policy, 0, size=3), epoch(helped, policy, 0, size=3))


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "trivial"])
def test_a_policy_does_what_timm_does(policy: str) -> None:
    recipe = timm.data.create_transform(
        SIZE,
        is_training=True,
        auto_augment=policy,
        mean=PREPROCESSING.mean,
        interpolation="random",  # which timm's scripts for training choose
    )
    (theirs,) = (
        part for part in recipe.transforms if type(part).__module__ == "timm.data.auto_augment"
    )
    ours = augment_of(policy, PREPROCESSING)
    compared = 0
    for seed in range(60):
        random.seed(seed)
        np.random.seed([0, seed])
        shown = image(seed)
        found = ours(shown, seed)
        assert found.dtype == torch.uint8
        with suppress(ValueError):  # of Pillow: see below
            expected = np.asarray(theirs(Image.fromarray(shown.permute(1, 2, 0).numpy())))
            np.testing.assert_array_equal(found.permute(1, 2, 0), expected)
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("rising", [0, 1])
def test_no_operation_fails_at_any_magnitude(rising: int) -> None:
    """Operations that a sweep draws once in days; so many as this are every one of them."""
    for magnitude in range(21):
        for most in (10, 20):
            policy = f"rand-m{magnitude}-n99-p1.0-inc{rising}-mmax{most}"
            assert augment_of(policy, PREPROCESSING)(image(), 0).shape == (3, 24, 24)
    for magnitude in range(11):
        augment_of(f"augmix-m{magnitude}-w9-d9", PREPROCESSING)(image(), 0)


def test_of_no_bits_a_black_image_is_left() -> None:
    """As timm says of its policy v0, which came to fail with newer Pillow."""
    augment = augment_of("v0", PREPROCESSING)
    assert any(not augment(image(), seed).any() for seed in range(400))


def test_the_seed_counts_in_full() -> None:
    """Seeds of epochs are drawn out of 2^62."""
    augment = augment_of("rand-m9-n2-p1.0", PREPROCESSING)
    outcomes = {augment(image(), 3 + k * 2**32).numpy().tobytes() for k in range(8)}
    assert len(outcomes) > 4
    assert torch.equal(augment(image(), 2**62 + 10**6), augment(image(), 2**62 + 10**6))


def test_all_of_the_papers_policies_work_and_no_operation_changes_nothing() -> None:
    for magnitude in range(1, 21):
        for count in range(3):
            augment = augment_of(f"rand-m{magnitude}-n{count}", PREPROCESSING)
            found = torch.stack([augment(image(), seed) for seed in range(6)])
            assert bool((found == image()).all()) == (count == 0), (magnitude, count)


@pytest.mark.parametrize("policy", [*POLICIES, 0.5])
def test_a_policy_can_be_sent_to_another_process(policy: float | str) -> None:
    augment = augment_of(policy, PREPROCESSING)
    sent = pickle.loads(pickle.dumps(augment))  # noqa: S301
    assert all(torch.equal(sent(image(), seed), augment(image(), seed)) for seed in range(4))


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ("ramd-m9", r"is 'ramd-m9', which is no policy \(did you mean 'rand'\?\); write for"),
        ("", r"is '', which is no policy \(known: 3a, augmix, original, .*trivial"),
        ("0.5", "is '0.5', which is no policy"),
        ("rand-q9", "is 'rand-q9', and 'q9' is no setting of rand, which has m, n, p, mstd, mmax"),
        # These four timm passes over in silence.
        ("rand-m", "'m' is no setting of rand"),
        ("rand-9", "'9' is no setting of rand"),
        ("rand-ttypo", "'ttypo' is no setting of rand"),
        ("augmix-m3-", "'' is no setting of augmix"),
        ("rand-m9.5", "'m9.5' is no setting"),
        ("rand-p1.5", "'p1.5' is no setting"),
        ("augmix-n2", "'n2' is no setting of augmix, which has m, w, d, b, mstd"),
        ("original-m3", "'m3' is no setting of original, which has mstd; write for example rand"),
        ("trivial-m3", "'trivial-m3', which is no policy"),
        ("rand-tweights-n16", "'rand-tweights-n16', which timm cannot do"),
        (1.5, "augmentation is 1.5; give a number from 0 to 1"),
        (-0.1, "augmentation is -0.1; give"),
        (math.nan, "augmentation is nan; give"),
    ],
)
def test_what_is_no_augmentation_is_refused_beforehand(
    augmentation: float | str, message: str
) -> None:
    given = task(pixels(10))
    with pytest.raises(BadInput, match=message):
        given.check_augmentation(augmentation)
    with pytest.raises(BadInput, match=message):
        epoch(given, augmentation, 0)


def test_a_check_looks_at_no_image(tmp_path: Path) -> None:
    given = task([tmp_path / "there is none.png"] * 10)
    assert isinstance(given, Augmenting)
    for augmentation in (*POLICIES, 0, 0.0, 0.3, 1):
        given.check_augmentation(augmentation)


def test_a_policy_of_timm_needs_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm.data.auto_augment", None)
    with pytest.raises(MissingExtra, match=r"timm is not installed; .*ladle\[vision\]"):
        augment_of("rand-m9-n2", PREPROCESSING)


def test_texts_have_no_policies() -> None:
    texts, labels = ["good", "bad"], [1, 0]
    given = TextClassification(
        "reviews",
        demo_text._model_folder(),
        {"train": ("train", texts, labels), "held-out": ("held-out", texts, labels)},
        label_names=("no", "yes"),
    )
    assert isinstance(given, Augmenting)
    for fine in (0, 0.5, 1.0):
        given.check_augmentation(fine)
    for wrong in ("rand-m9-n2", "0.5", 1.5):
        message = f"augmentation is {wrong!r}, but the examples of task reviews are texts; give"
        with pytest.raises(BadInput, match=message):
            given.check_augmentation(wrong)
        with pytest.raises(BadInput, match=message):
            next(given.batches(batch_size=1, augmentation=wrong, generator=torch.Generator()))
