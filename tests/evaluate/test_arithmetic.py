"""Quicker evaluation rounds otherwise: it is known of every prediction, and of nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ladle
from digits import Digits, make_runs
from ladle.errors import ScoringFailed
from ladle.evaluate import Evaluator, Store
from ladle.soup import Pool, Soup
from ladle.tasks import ImageClassification, load_task
from reviews import write_task

QUICK = [{"amp": True}, {"channels_last": True}, {"amp": True, "channels_last": True}]


def images(name: str = "timm:test_resnet") -> ImageClassification:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    splits = {"held-out": ("held-out", pixels, np.arange(12) % 3)}
    return ImageClassification("images", name, splits, label_names=["a", "b", "c"], image_size=32)


def pool(folder: Path, task: Any, count: int = 2) -> Pool:
    generator = torch.Generator().manual_seed(0)
    paths = []
    for i in range(count):
        model = task.build()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if task.trainable(name):
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        paths.append(folder / f"{i}.pt")
        torch.save(model.state_dict(), paths[-1])
    return ladle.open(paths)


def logits(task: Any, soup: Soup, **options: Any) -> np.ndarray:
    return Evaluator(task, **options).predict(soup, "held-out").logits


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit"])
def test_what_is_quicker_says_nearly_the_same(tmp_path: Path, name: str) -> None:
    task = images(name)
    soup = ladle.uniform(pool(tmp_path, task))
    exact = logits(task, soup)
    spread = float(np.ptp(exact))
    rounded = logits(task, soup, amp=True)
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, exact), "bfloat16 has eight bits"
    np.testing.assert_allclose(rounded, exact, atol=0.1 * spread)
    laid_out = logits(task, soup, channels_last=True)
    np.testing.assert_allclose(laid_out, exact, rtol=1e-4, atol=1e-5 * spread)


def test_the_layout_is_the_one_asked_for_and_the_soup_the_same(tmp_path: Path) -> None:
    """Weights that do not lie in row-major order are filled with the same numbers."""
    seen: list[nn.Module] = []

    class Watched(ImageClassification):
        def predict(self, model: nn.Module, split: str, **options: Any) -> Any:
            seen.append(model)
            return super().predict(model, split, **options)

    task = images()
    task.__class__ = Watched
    soup = ladle.uniform(pool(tmp_path, task))
    for options in ({}, {"channels_last": True}):
        logits(task, soup, **options)
    plain, laid_out = (model.get_submodule("layer2.0.conv1").weight for model in seen)
    assert plain.is_contiguous()
    assert laid_out.is_contiguous(memory_format=torch.channels_last)
    assert not laid_out.is_contiguous()
    for model in seen:
        found = model.state_dict()
        assert all(torch.equal(found[name], t) for name, t in soup.state_dict().items())


def test_each_way_has_its_place_in_the_store(tmp_path: Path) -> None:
    task = images()
    soup = ladle.uniform(pool(tmp_path, task))
    store = Store(tmp_path / "s.sqlite")
    ways: list[dict[str, Any]] = [{}, *QUICK]
    first = [logits(task, soup, store=store, **way) for way in ways]
    assert not np.array_equal(first[0], first[1])

    class Unbuildable(ImageClassification):
        def build(self, **options: Any) -> Any:
            raise AssertionError("it is not in the store")

    task.__class__ = Unbuildable
    again = [logits(task, soup, store=store, **way) for way in ways]
    assert all(map(np.array_equal, first, again))
    only = Store(tmp_path / "only.sqlite")
    for i, way in enumerate(ways):
        with pytest.raises(ScoringFailed, match="it is not in the store"):
            logits(task, soup, store=only, **way)
        task.__class__ = ImageClassification
        assert np.array_equal(logits(task, soup, store=only, **way), first[i])
        task.__class__ = Unbuildable


def test_a_task_of_ones_own_is_handed_numbers_that_numpy_knows(tmp_path: Path) -> None:
    make_runs(tmp_path, 1)
    soup = ladle.uniform(ladle.open([tmp_path / "run-0.pt"]))
    computed: list[torch.dtype] = []

    class Own(Digits):
        def predict(self, model: nn.Module, split: str, **options: Any) -> Any:
            inner = next(part for part in model.modules() if isinstance(part, nn.Linear))
            hook = inner.register_forward_hook(lambda layer, given, out: computed.append(out.dtype))
            try:
                return model(torch.from_numpy(self.images[split])).numpy()
            finally:
                hook.remove()

    evaluator = Evaluator(Own(), amp=True)
    found = evaluator.predict(soup, "held-out").logits
    assert set(computed) == {torch.bfloat16}
    np.testing.assert_allclose(found, logits(Own(), soup), atol=0.1 * np.ptp(found))
    # What comes after is as if nothing had been.
    model, device = evaluator.forward.build()
    assert not model._forward_hooks
    assert not torch.is_autocast_enabled("cpu")
    exact = Digits().predict(model, "held-out", device=device, batch_size=64)
    np.testing.assert_allclose(exact, logits(Own(), soup), rtol=1e-5, atol=1e-5)


def test_what_a_text_task_keeps_is_exact(tmp_path: Path) -> None:
    """What its frozen layers say is computed once, for all evaluations."""
    task, fresh = (load_task(write_task(tmp_path)) for _ in range(2))
    soup = ladle.uniform(pool(tmp_path, task, 1))
    rounded = logits(task, soup, amp=True)
    exact = logits(fresh, soup)
    assert not np.array_equal(rounded, exact)
    assert np.array_equal(logits(task, soup), exact)


@pytest.mark.parametrize("way", [{}, *QUICK])
def test_it_is_recorded(way: dict[str, bool]) -> None:
    assert Evaluator(images(), **way).describe()["arithmetic"] == {
        "autocast": "bfloat16" if way.get("amp") else None,
        "channels_last": way.get("channels_last", False),
    }


def test_it_belongs_to_a_task(tmp_path: Path) -> None:
    make_runs(tmp_path, 2)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ladle")), "cook", str(tmp_path), "--score",
            "echo 1", "--channels-last", "-o", str(tmp_path / "soup"),
        ],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--channels-last goes with --task" in done.stderr
