"""Early exit on real texts, real images, and networks with BatchNorm: the same soup, sooner."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from test_batchnorm import NormalisedDigits, sweep
from torch.nn import functional as F

import ladle
from ladle.evaluate import BatchNormMode, BatchNormTaster, Evaluator
from ladle.predictions import METRICS
from ladle.soup import Evaluate, Pool, Soup
from ladle.tasks import ImageClassification, PredictsSome, TextClassification
from reviews import BAD, GOOD, MINILM

CPU = torch.device("cpu")
FILLERS = ("", "i thought", "they say it was", "to be honest, in the end this was", "well,")


def texts(name: str, repeat: int) -> tuple[list[str], list[int]]:
    """Sentences of many lengths; some labels are wrong, so that no model gets all right."""
    generator = np.random.default_rng(len(name))
    rows = [
        (" ".join([filler] * (i % 3) + [text, name, str(i)]), label)
        for i in range(repeat)
        for filler in FILLERS
        for group, label in ((GOOD, 1), (BAD, 0))
        for text in group
    ]
    wrong = generator.random(len(rows)) < 0.15
    return [text for text, _ in rows], [
        int(label != w) for (_, label), w in zip(rows, wrong, strict=True)
    ]


def text_task(freeze: int, repeat: int = 6) -> TextClassification:
    splits = {
        "train": ("train", *texts("train", 2)),
        "held-out": ("held-out", *texts("held out", repeat)),
    }
    return TextClassification(
        "films", MINILM, splits, label_names=("bad", "good"), max_length=32, freeze=freeze
    )


def image_task() -> ImageClassification:
    data = load_digits()
    pictures = np.kron((data.images * 15).astype(np.uint8), np.ones((1, 3, 3), np.uint8))
    splits = {
        "train": ("train", pictures[:400], data.target[:400]),
        "held-out": ("held-out", pictures[400:700], data.target[400:700]),
    }
    return ImageClassification(
        "digits",
        "timm:test_efficientnet",
        splits,
        label_names=[str(i) for i in range(10)],
        image_size=32,
        metric=METRICS["top-5"],
    )


def fine_tuned(task: Any, folder: Path, *, lr: float, steps: int) -> Pool:
    """Four short fine-tunings of one, each with other batches and another learning rate."""

    def train(model: Any, lr: float, seed: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        wanted = [p for n, p in model.named_parameters() if task.trainable(n)]
        optimizer = torch.optim.Adam(wanted, lr=lr)
        while steps > 0:
            for inputs, labels in task.batches(
                batch_size=16, augmentation=0.0, generator=generator
            ):
                optimizer.zero_grad()
                F.cross_entropy(task.logits(model, inputs), labels).backward()
                optimizer.step()
                steps -= 1
        model.eval()

    base = task.build()
    train(base, lr, 0, steps)
    for i in range(4):
        model = task.build()
        model.load_state_dict(base.state_dict())
        train(model, lr * (1 + i) / 2, i + 1, steps // 2)
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, folder / f"run{i}.safetensors")
    return ladle.open(str(folder / "run*.safetensors"))


class Counted:
    """How many examples went through the model."""

    def __init__(self) -> None:
        self.examples = 0

    @contextmanager
    def __call__(self, text: str, total: int) -> Any:
        def advance(count: int) -> None:
            self.examples += count

        yield advance


def same_soup(
    task: Any,
    pool: Pool,
    batch_size: int,
    around: Callable[[Evaluator], Evaluate] = lambda evaluator: evaluator,
    **options: Any,
) -> tuple[int, int]:
    """Cook with and without early exit; returns how many examples each took."""
    soups: list[Soup] = []
    counts: list[int] = []
    for early in (True, False):
        count = Counted()
        evaluator = Evaluator(task, batch_size=batch_size, early_exit=early, watch=count, **options)
        soups.append(ladle.greedy(pool, around(evaluator)))
        counts.append(count.examples)
    ours, theirs = soups
    assert ours.digest == theirs.digest
    assert ours.members == theirs.members
    for mine, other in zip(ours.tastings, theirs.tastings, strict=True):
        assert (mine.members, mine.kept) == (other.members, other.kept)
        assert other.score is not None
        if mine.score is None:
            assert mine.bound is not None
            assert mine.bound >= other.score
        else:
            assert mine == other
    return counts[0], counts[1]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextClassification, Pool]:
    task = text_task(freeze=5)
    return task, fine_tuned(task, tmp_path_factory.mktemp("films"), lr=1e-3, steps=10)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageClassification, Pool]:
    task = image_task()
    return task, fine_tuned(task, tmp_path_factory.mktemp("pictures"), lr=3e-3, steps=30)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [3, 16])
def test_texts(films: tuple[TextClassification, Pool], batch_size: int) -> None:
    task, pool = films
    ours, theirs = same_soup(task, pool, batch_size)
    assert ours < theirs


@pytest.mark.parametrize("options", [{}, {"amp": True}, {"channels_last": True}])
def test_images(pictures: tuple[ImageClassification, Pool], options: dict[str, bool]) -> None:
    task, pool = pictures
    ours, theirs = same_soup(task, pool, 8, **options)
    assert ours < theirs


class SomeNormalisedDigits(NormalisedDigits):
    """With the two methods of `PredictsSome`, as a user would write them."""

    def arranged(self, split: str, order: Any, *, batch_size: int) -> Any:
        return np.split(order, range(batch_size, len(order), batch_size))

    def predict_some(self, model: Any, split: str, batches: Any, *, device: Any) -> Any:
        for batch in batches:
            images = torch.from_numpy(self.images[split][batch])
            yield model(images.to(device)).cpu().numpy()


@pytest.mark.parametrize("mode", ["best", "recalibrate", "average"])
def test_networks_with_batchnorm(tmp_path: Path, mode: BatchNormMode) -> None:
    """Of which each soup is measured with two kinds of statistics: what is dropped has neither."""
    task = SomeNormalisedDigits()
    assert isinstance(task, PredictsSome)
    pool = sweep(tmp_path)
    same_soup(task, pool, 8, lambda evaluator: BatchNormTaster(evaluator, mode))


def test_batchnorm_says_of_a_soup_what_it_says_without_a_bar(tmp_path: Path) -> None:
    task, pool = SomeNormalisedDigits(), sweep(tmp_path)
    rival, soup = ladle.uniform(pool.subset([0])), ladle.uniform(pool)
    for mode in ("best", "recalibrate", "average"):
        score = BatchNormTaster(Evaluator(task, batch_size=8), mode)(soup)
        for bar, strict in ((score, False), (score, True), (score + 0.01, False), (-1.0, False)):
            taste = BatchNormTaster(Evaluator(task, batch_size=8), mode)
            verdict = taste.at_least(soup, bar, strict=strict, order_hint=rival)
            if score > bar if strict else score >= bar:
                assert verdict.score == score
            else:
                assert verdict.score is None
                assert verdict.bound is not None
                assert score <= verdict.bound
                assert verdict.bound <= bar if strict else verdict.bound < bar


# --- the tasks' part ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "frozen text", "image"])
def test_batches_say_what_they_say_alone(
    kind: str,
    films: tuple[TextClassification, Pool],
    pictures: tuple[ImageClassification, Pool],
) -> None:
    """Whatever batches went before, and whether or not others are looked at; to the last bit."""
    task, pool = pictures if kind == "image" else films
    if kind == "text":
        task = text_task(freeze=0, repeat=4)
    model = ladle.uniform(pool).load_into(task.build())
    n = len(task.splits["held-out"])
    order = np.random.default_rng(0).permutation(n)
    batches = task.arranged("held-out", order, batch_size=16)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert {len(batch) for batch in batches} <= {16, n % 16}
    together = list(task.predict_some(model, "held-out", batches, device=CPU))
    whole = task.predict(model, "held-out", device=CPU, batch_size=16)
    for i in (0, 7, len(batches) - 1):
        # Of the same examples, whatever comes first and wherever one stops.
        others = [*batches[i:], *batches[:i]]
        alone = next(task.predict_some(model, "held-out", others, device=CPU))
        assert alone.dtype == np.float32
        assert np.array_equal(alone, together[i])
        np.testing.assert_allclose(alone, whole[batches[i]], rtol=1e-4, atol=1e-4)


def test_texts_of_like_length_share_a_batch_and_the_order_stays_nearly(
    films: tuple[TextClassification, Pool],
) -> None:
    task, _ = films
    n = len(task.splits["held-out"])
    order = np.random.default_rng(0).permutation(n)
    batches = task.arranged("held-out", order, batch_size=16)
    lengths = task._tokens_of("held-out").lengths.numpy()
    for first, second in zip(batches[::2], batches[1::2], strict=False):
        pair = np.concatenate([first, second])
        start = 32 * next(i for i, one in enumerate(batches[::2]) if one is first)
        assert sorted(pair) == sorted(order[start : start + 32])
        assert (np.diff(lengths[pair]) >= 0).all()


def test_who_stops_early_leaves_the_mode_of_gradients_alone(
    films: tuple[TextClassification, Pool],
) -> None:
    task, pool = films
    model = ladle.uniform(pool).load_into(task.build())
    batches = task.arranged("held-out", np.arange(64), batch_size=16)
    said = task.predict_some(model, "held-out", batches, device=CPU)
    next(said)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    said.close()
