"""Mixed images have mixed labels; what cannot be mixed is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ladle.errors import BadInput, BadTask, MissingExtra
from ladle.sweep.mixing import check_run, mixer
from ladle.sweep.space import Run, Space
from ladle.tasks import ImageClassification, Mixable, TextClassification, demo_text
from ladle.tasks.loss import loss_of
from toy_task import PointsTask

RUN = replace(Space().runs(0, 1)[0], augmentation=0.0)


def run(**changes: object) -> Run:
    return replace(RUN, **changes)


@pytest.fixture(scope="module")
def digits() -> ImageClassification:
    data = load_digits()
    images = (data.images * 15.9).astype(np.uint8)
    splits = {"train": ("train", images[:200], data.target[:200]),
              "held-out": ("held-out", images[200:400], data.target[200:400])}  # fmt: skip
    return ImageClassification(
        "digits", "timm:test_efficientnet", splits, label_names=tuple("0123456789"), image_size=32
    )


def texts() -> TextClassification:
    splits = {"train": ("train", ["a", "b"], [0, 1]), "dev": ("held-out", ["a", "b"], [0, 1])}
    return TextClassification(
        "reviews", demo_text._model_folder(), splits, label_names=("no", "yes")
    )


def batch() -> tuple[Tensor, Tensor]:
    """Image k is k everywhere, and of class k."""
    labels = torch.arange(10)
    return labels.float().view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone(), labels


def test_without_mixing_there_is_no_mixer(digits: ImageClassification) -> None:
    assert mixer(digits, run()) is None
    assert mixer(PointsTask(), run()) is None


def test_mixup_adds_images_as_it_adds_labels(digits: ImageClassification) -> None:
    images, labels = batch()
    torch.manual_seed(0)
    mixed, soft = mixer(digits, run(mixup=0.4))(images, labels)
    assert torch.equal(images, batch()[0])  # what came in is as it was
    assert (mixed.shape, soft.shape) == (images.shape, (10, 10))
    assert soft.dtype == torch.float32
    share = soft[3, 3].item()
    assert 0 < share < 1
    torch.testing.assert_close(soft.sum(1), torch.ones(10))
    torch.testing.assert_close(soft[3, 2].item(), 1 - share)
    torch.testing.assert_close(mixed[3], torch.full((3, 8, 8), 3 * share + 2 * (1 - share)))
    # Class numbers are pixels here, so of all pixels the mean is what the labels expect.
    torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(10.0))


def test_cutmix_cuts_out_what_labels_say(digits: ImageClassification) -> None:
    images, labels = batch()
    mix = mixer(digits, run(cutmix=1.0))
    torch.manual_seed(0)
    shares = []
    for _ in range(20):
        mixed, soft = mix(images, labels)
        shares.append(soft[3, 3].item())
        assert set(mixed[3].unique().tolist()) <= {2.0, 3.0}
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(10.0))
    assert max(shares) > min(shares)


def test_with_both_each_batch_has_one_and_they_are_as_likely(digits: ImageClassification) -> None:
    mix = mixer(digits, run(mixup=0.5, cutmix=0.5))
    images, labels = batch()
    torch.manual_seed(0)
    added = 0
    for _ in range(400):
        found = set(mix(images, labels)[0][3].unique().tolist())
        # A rectangle leaves the pixels of one image or the other; a sum has neither.
        added += not found & {2.0, 3.0}
        assert len(found) <= 2
    assert 150 < added < 250


@pytest.mark.parametrize("alpha", [0.1, 1.0, 8.0])
def test_shares_have_the_beta_distribution_of_alpha(
    digits: ImageClassification, alpha: float
) -> None:
    mix = mixer(digits, run(mixup=alpha))
    torch.manual_seed(0)
    shares = torch.stack([mix(*batch())[1][3, 3] for _ in range(500)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.07)
    # The variance of a Beta distribution with both parameters α.
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)


@pytest.mark.parametrize("given", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_mixing_follows_the_global_generator_alone(
    digits: ImageClassification, given: dict[str, float]
) -> None:
    def mixes(seed: int) -> Tensor:
        torch.manual_seed(seed)
        mix = mixer(digits, run(**given))
        return torch.stack([mix(*batch())[1] for _ in range(5)])

    assert torch.equal(mixes(0), mixes(0))
    assert not torch.equal(mixes(0), mixes(1))


def test_a_batch_of_one_stays_as_it_is(digits: ImageClassification) -> None:
    image = torch.rand(1, 3, 8, 8)
    mixed, soft = mixer(digits, run(mixup=0.4))(image, torch.tensor([7]))
    torch.testing.assert_close(mixed, image)
    torch.testing.assert_close(soft, nn.functional.one_hot(torch.tensor([7]), 10).float())


def test_a_model_learns_from_mixed_images(digits: ImageClassification) -> None:
    asked = run(mixup=0.2, cutmix=0.2, label_smoothing=0.1)
    check_run(digits, asked)
    mix = mixer(digits, asked)
    torch.manual_seed(0)
    model = digits.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for images, labels in digits.batches(
            batch_size=50, augmentation=asked.augmentation, generator=generator
        ):
            losses.append(loss_of(digits.logits(model, images), labels).item())
            mixed, soft = mix(images, labels)
            optimizer.zero_grad()
            loss_of(digits.logits(model, mixed), soft, label_smoothing=0.1).backward()
            optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


# The loss


def test_probabilities_have_the_cross_entropy_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator)
    labels = torch.tensor([2, 0, 1, 1])
    sure = nn.functional.one_hot(labels, 3).float()
    for smoothing in (0.0, 0.2):
        torch.testing.assert_close(
            loss_of(logits, sure, label_smoothing=smoothing),
            loss_of(logits, labels, label_smoothing=smoothing),
        )
    # Linear in the labels: mixed labels have the mixed loss.
    mixed = 0.3 * sure + 0.7 * sure.roll(1, 0)
    expected = 0.3 * loss_of(logits, labels) + 0.7 * loss_of(logits, labels.roll(1, 0))
    torch.testing.assert_close(loss_of(logits, mixed), expected)
    for dtype in (torch.float64, torch.bfloat16):
        found = loss_of(logits.to(dtype), mixed)
        torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0)


def test_probabilities_need_one_output_per_class() -> None:
    with pytest.raises(BadTask, match=r"probabilities \[2, 4\], but the model gives \[2, 3\]"):
        loss_of(torch.zeros(2, 3), torch.full((2, 4), 0.25))


# What is refused


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mixup": 0.2}, r"mixup = 0.2 can only mix images, .* task reviews are not; leave mixup "),
        ({"cutmix": 1.0}, r"cutmix = 1 can only mix images"),
        ({"mixup": 0.2, "cutmix": 1.0}, r"mixup = 0.2 and cutmix = 1 can .* mixup and cutmix out"),
        ({"augmentation": "rand-m9-n2"}, r"augmentation is 'rand-m9-n2', .* reviews are texts"),
    ],
)
def test_texts_are_refused(asked: dict[str, object], message: str) -> None:
    check_run(texts(), run())
    with pytest.raises(BadInput, match=message):
        check_run(texts(), run(**asked))


def test_a_task_without_these_offers_takes_numbers_alone() -> None:
    task = PointsTask()
    assert not isinstance(task, Mixable)
    check_run(task, run(augmentation=0.7))
    with pytest.raises(BadInput, match="is 'trivial', but task points knows none by name; give"):
        check_run(task, run(augmentation="trivial"))
    with pytest.raises(BadInput, match="which the inputs of task points are not"):
        check_run(task, run(mixup=0.1))


def test_images_are_checked_too(digits: ImageClassification) -> None:
    check_run(digits, run(augmentation="rand-m9-n2", mixup=0.2, cutmix=1.0))
    with pytest.raises(BadInput, match="'rand-q1', and 'q1' is no setting"):
        check_run(digits, run(augmentation="rand-q1"))


def test_mixing_needs_torchvision(
    digits: ImageClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(MissingExtra, match=r"torchvision is not installed; .*ladle\[vision\]"):
        check_run(digits, run(mixup=0.2))
