"""`ladle evaluate` and `ladle cook` on files of the libraries, checked by the libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import clips
import ladle
import reviews
from ladle.tasks import load_task

pytestmark = pytest.mark.slow
LADLE = Path(sys.executable).with_name("ladle")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that tests make are no business of the person who runs them."""
    monkeypatch.setenv("LADLE_CACHE", str(tmp_path / "cache"))


def run(folder: Path, *arguments: object) -> Any:
    done = subprocess.run(
        [str(LADLE), *map(str, arguments), "--json"],
        capture_output=True, text=True, check=False, timeout=600, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def perturbed(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.05 if parameter.any() else 1.0
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def of_timm(folder: Path, name: str) -> Callable[[Path, Any], np.ndarray]:
    clips.draw_pictures(folder, ("train", "valid", "test"))
    (folder / "task.toml").write_text(
        f'kind = "image"\nmodel = "timm:{name}"\nimage_size = 32\ncrop = 1.0\n'
        '[splits]\nheld-out = "valid"\ntest = "test"\n'
    )
    options = {"img_size": 32} if "vit" in name else {}

    def build() -> nn.Module:
        return timm.create_model(name, num_classes=3, **options)

    torch.manual_seed(0)
    base = build().state_dict()
    for i in range(3):
        model = build()
        model.load_state_dict(base)
        torch.save({"state_dict": perturbed(model, i).state_dict()}, folder / f"run-{i}.pth")

    def answer(file: Path, task: Any) -> np.ndarray:
        model = timm.create_model(name, num_classes=3, checkpoint_path=str(file), **options).eval()
        config = {**timm.data.resolve_model_data_config(model), "input_size": (3, 32, 32)}
        transform = timm.data.create_transform(**{**config, "crop_pct": 1.0})
        return on_pictures(folder, transform, model)

    return answer


def of_open_clip(folder: Path) -> Callable[[Path, Any], np.ndarray]:
    base = clips.build()
    torch.save(base.state_dict(), folder / "base.pt")
    clips.write_task(
        folder,
        'head = "zero-shot"',
        'weights = "base.pt"',
        f"templates = {json.dumps(clips.TEMPLATES)}",
    )
    models = [clips.tuned(base, i) for i in range(3)]
    clips.save_as_training(models, folder / "run")

    def answer(file: Path, task: Any) -> np.ndarray:
        model = clips.build(seed=9)
        open_clip.load_checkpoint(model, str(file))
        tokenizer = open_clip.SimpleTokenizer(context_length=12)
        transform = open_clip.image_transform(clips.SIZE, is_train=False)
        with torch.no_grad():
            classes = open_clip.build_zero_shot_classifier(
                base, tokenizer, clips.CLASSES, clips.TEMPLATES
            )
        scale = base.logit_scale.exp()
        return on_pictures(
            folder, transform, lambda images: scale * model.encode_image(images, True) @ classes
        )

    return answer


def of_transformers(folder: Path) -> Callable[[Path, Any], np.ndarray]:
    reviews.write_task(folder)
    task = load_task(folder / "task.toml")
    for i in range(3):
        (folder / f"run-{i}").mkdir()
        task.save(perturbed(task.build(), i), folder / f"run-{i}")  # type: ignore[attr-defined]

    def answer(place: Path, task: Any) -> np.ndarray:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(place).eval()
        lines = (folder / "test.csv").read_text().splitlines()[1:]
        texts = [line.rpartition(",")[0].strip('"') for line in lines]
        tokenizer = AutoTokenizer.from_pretrained(place)
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            return model(**tokens).logits.numpy()

    return answer


def on_pictures(folder: Path, transform: Any, model: Any) -> np.ndarray:
    paths = [p for name in clips.CLASSES for p in sorted((folder / "test" / name).iterdir())]
    images = torch.stack([transform(Image.open(path)) for path in paths])
    with torch.no_grad():
        return model(images).numpy()


CASES = {
    "timm ViT": (lambda folder: of_timm(folder, "test_vit"), ("--amp",), "run-?.pth"),
    "timm ResNet": (
        lambda folder: of_timm(folder, "test_resnet"),
        ("--channels-last",),
        "run-?.pth",
    ),
    "open_clip": (of_open_clip, (), "run"),
    "transformers": (of_transformers, ("--amp", "--channels-last"), "run-?"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_cooked_is_what_the_library_loads(tmp_path: Path, case: str) -> None:
    make, quick, inputs = CASES[case]
    answer = make(tmp_path)
    task = load_task(tmp_path / "task.toml")
    given = sorted(tmp_path.glob(inputs))
    store = ("--store", "store.sqlite")
    # Alone, the folder of a training is looked into.
    files = sorted(given[0].glob("checkpoints/*")) if len(given) == 1 else given
    exact = run(tmp_path, "evaluate", *files, "--task", "task.toml", "--soup", *store)
    rows = {row["model"]: row["value"] for row in exact["evaluations"] if row["split"] == "test"}
    assert len(rows) == 4

    suffix = "" if case == "transformers" else ".pt"
    cooked = run(
        tmp_path, "cook", *given, "--task", "task.toml", "--recipe", "uniform", "--force", *quick,
        "-o", f"soup{suffix}",
    )  # fmt: skip
    assert cooked["soup"]["arithmetic"] == {
        "autocast": "bfloat16" if "--amp" in quick else None,
        "channels_last": "--channels-last" in quick,
    }
    theirs = answer(tmp_path / f"soup{suffix}", task)
    ours = ladle.Evaluator(task).predict(ladle.uniform(ladle.open(files)), "test")
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(ours.logits, theirs, rtol=1e-3, atol=1e-3 * np.ptp(theirs))
    accuracy = (ours.logits.argmax(1) == ours.labels).mean()
    assert rows["uniform soup"] == pytest.approx(accuracy)
