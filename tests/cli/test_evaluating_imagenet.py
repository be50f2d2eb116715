"""`ladle evaluate` on ImageNet and its relatives, against figures worked out beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config

from imagenets import Say, fill, make_objectnet, paint, pixels
from ladle.cli import main

MODEL = "test_vit"
SPLITS = {
    # Data set, folder, ending of its images; on how many run-0 is right, and the ensemble.
    "test": ("imagenet", "imagenet/val", ".JPEG", 3, 2),
    "v2": ("v2", "imagenetv2-matched-frequency-format-val", ".jpeg", 4, 1),
    "sketch": ("sketch", "sketch", ".JPEG", 2, 2),
    "r": ("r", "imagenet-r", ".jpg", 5, 1),
    "a": ("a", "imagenet-a", ".jpg", 1, 2),
    "objectnet": ("objectnet", "objectnet-1.0/images", ".png", 5, 2),
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command and gives its exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        assert isinstance(left.value.code, int)
        return left.value.code, *capsys.readouterr()

    return call


def trained(folder: Path, seed: int) -> tuple[Path, Say]:
    """A model of 1000 classes with random weights: its file, and what timm itself says with it."""
    torch.manual_seed(seed)
    model = timm.create_model(MODEL, num_classes=1000).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / f"run-{seed}.safetensors")
    return folder / f"run-{seed}.safetensors", saying(model)


def saying(model: torch.nn.Module) -> Say:
    transform: Any = create_transform(**resolve_model_data_config(model))

    def say(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(transform(Image.fromarray(image))[None])[0].numpy()

    return say


def write(folder: Path, shifts: str = "", skip: str = "") -> Path:
    (folder / "task.toml").write_text(
        f"kind = 'imagenet'\nmodel = 'timm:{MODEL}'\n{skip}\n[splits]\ntrain = 'imagenet/train'\n"
        f"held-out = {{ per_class = 2, seed = 0 }}\ntest = 'imagenet/val'\n[shifts]\n{shifts}\n"
    )
    return folder / "task.toml"


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """All data sets as they are distributed, with a few images each."""
    for i, folder in enumerate(("n01440764", "n02102177", "n15075141")):
        for j in range(4):
            paint(
                tmp_path / f"imagenet/train/{folder}/{folder}_{j}.JPEG", pixels(1000 + 10 * i + j)
            )
    make_objectnet(tmp_path / "objectnet-1.0")
    return tmp_path


def test_scores_are_those_of_the_papers_code(family: Path, run: Callable[..., Any]) -> None:
    (first, say), (second, also) = (trained(family / "runs", seed) for seed in (0, 1))
    expected = {
        name: fill(
            family / place, data_set, (say, also), alone=alone, together=together, ending=ending
        )
        for name, (data_set, place, ending, alone, together) in SPLITS.items()
    }
    assert all(0 < values[0] < 1 and 0 < values[-1] < 1 for values in expected.values())
    shifts = "\n".join(
        f"{name} = {SPLITS[name][1].removesuffix('/images')!r}" for name in list(SPLITS)[1:]
    )
    code, out, err = run(
        "evaluate", first, second, "--task", write(family, shifts), "--ensemble", "--json"
    )
    assert (code, err) == (0, "")
    rows = json.loads(out)["evaluations"]
    names = ["run-0.safetensors", "run-1.safetensors", "ensemble of 2"]
    found = {(row["model"], row["split"]): row["value"] for row in rows}
    for name, values in expected.items():
        assert [found[model, name] for model in names] == pytest.approx(values)
    means = np.mean([expected[name] for name in list(SPLITS)[1:]], axis=0)
    assert [found[model, "mean of shifts"] for model in names] == pytest.approx(means.tolist())
    sizes = {row["split"]: row["n"] for row in rows}
    assert sizes["held-out"] == 6
    assert sizes["objectnet"] == 7


@pytest.mark.parametrize(
    ("break_it", "shifts", "sentence"),
    [
        ("n00000001", "", "val holds folders that are no classes of ImageNet: n00000001; give"),
        (None, "r = 'gone'", "gone is not a folder; give a folder with one folder of images per"),
        (None, "r = 'imagenet'", "no classes of ImageNet-R: train, val; give the folder of Image"),
        (None, "r = 'empty'", "empty holds no class folders; put the images of each class into"),
        (None, "other = 'imagenet/val'", "shifts.other has the name of no data set"),
    ],
)
def test_bad_trees_are_refused_before_any_model_is_made(
    family: Path, run: Callable[..., Any], break_it: str | None, shifts: str, sentence: str
) -> None:
    paint(family / "imagenet/val/n01440764/1.JPEG", pixels(1))
    (family / "empty").mkdir()
    if break_it:
        paint(family / "imagenet/val" / break_it / "1.JPEG", pixels(2))
    (family / "build.py").write_text("def build(classes, dropout):\n    raise SystemExit(99)\n")
    task = write(family, shifts)
    task.write_text(task.read_text().replace("timm:test_vit", "build.py:build"))
    file, _ = trained(family / "runs", 0)
    code, out, err = run("evaluate", file, "--task", task, "--json")
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("ladle: ")
    assert err.count("\n") == 1


def test_corrupt_images_are_named_or_left_out(family: Path, run: Callable[..., Any]) -> None:
    for i, folder in enumerate(("n01440764", "n02102177", "n15075141", "n15075141")):
        paint(family / f"imagenet/val/{folder}/{i}.JPEG", pixels(i))
    broken = [family / "imagenet/val/n02102177/1.JPEG", family / "imagenet/val/n15075141/3.JPEG"]
    broken[0].write_bytes(broken[0].read_bytes()[:300])
    broken[1].write_bytes(b"")
    file, _ = trained(family / "runs", 0)
    task = write(family)
    code, out, err = run("evaluate", file, "--task", task, "--json")
    assert (code, out) == (2, "")
    assert f"image {broken[0]} cannot be read; repair or remove it" in err
    sentence = (
        f"2 of the 4 images of test cannot be read and are left out; the first of them is "
        f"{broken[0]}"
    )
    code, out, err = run("evaluate", file, "--task", task, "--json", "--skip-corrupt")
    assert code == 0
    assert err == f"warning: {sentence}\n"
    document = json.loads(out)
    assert document["caveats"] == [sentence]
    assert {row["split"]: row["n"] for row in document["evaluations"]} == {"held-out": 6, "test": 2}
    assert run("evaluate", file, "--task", write(family, skip="skip_corrupt = true"), "--json") == (
        code,
        out,
        err,
    )
    code, out, err = run(
        "cook", file, "--task", task, "--skip-corrupt", "--output", family / "soup", "--json"
    )
    assert (code, err) == (0, f"warning: {sentence}\n")
    record = json.loads((family / "soup" / "soup.json").read_text())
    assert record["caveats"] == [sentence]
    assert record["splits"]["test"]["n"] == 2
    assert record["splits"]["held-out"]["drawn"] == {"from": "train", "per_class": 2, "seed": 0}
    train = family / "imagenet/train/n01440764"
    for image in train.iterdir():
        image.write_bytes(b"")
    code, out, err = run(
        "sweep", "--task", task, "--output", family / "s", "--dry-run", "--skip-corrupt"
    )
    assert code == 0
    assert "warning: 2 of the 6 images of train cannot be read" in err
    assert "warning: 2 of the 6 images of held-out cannot be read" in err
    assert sentence in err


def test_skip_corrupt_is_for_images(family: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    file, _ = trained(family / "runs", 0)
    (tmp_path / "text.toml").write_text("kind = 'text'\n")
    for task, sentence in (
        ("demo-text", "--skip-corrupt is for tasks of images in a .toml file; demo-text reads its"),
        (
            tmp_path / "text.toml",
            "text.toml is a task of kind 'text'; --skip-corrupt is for images",
        ),
    ):
        code, _, err = run("evaluate", file, "--task", task, "--skip-corrupt")
        assert code == 2
        assert sentence in err
    code, _, err = run("cook", file, "--score", "true", "--skip-corrupt", "-o", tmp_path / "out")
    assert code == 2
    assert "--skip-corrupt goes with --task" in err


def test_a_checkpoint_with_another_head_is_refused_in_a_sentence(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    file, _ = trained(tmp_path / "runs", 0)
    for split in ("train", "test"):
        for i, folder in enumerate(("cat", "dog")):
            for j in range(2):
                paint(tmp_path / split / folder / f"{j}.png", pixels(i + 2 * j, split))
    (tmp_path / "task.toml").write_text(
        f"kind = 'image'\nmodel = 'timm:{MODEL}'\n[splits]\ntrain = 'train'\n"
        "held-out = { per_class = 1 }\ntest = 'test'\n"
    )
    code, out, err = run("evaluate", file, "--task", tmp_path / "task.toml", "--json")
    assert (code, out) == (2, "")
    assert "head.weight" in err
    assert err.count("\n") == 1
    paint(tmp_path / "test" / "owl" / "1.png", pixels(9))
    code, out, err = run("evaluate", file, "--task", tmp_path / "task.toml", "--json")
    assert (code, out) == (2, "")
    assert "test holds folders that are not classes: owl; " in err
