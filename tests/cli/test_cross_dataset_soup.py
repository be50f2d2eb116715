"""Soups across data sets (paper, section 1.8): backbones are averaged, heads are left out."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file

from clips import SIZE, TEMPLATES, VIT, build
from ladle.cli import main

CLASSES = {
    "pets": ("cat", "dog"),
    "street": ("bus", "car", "traffic light"),
    "target": ("boat", "cat", "car", "tree"),
}


def ladle(*arguments: object) -> str:
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert ended.value.code == 0, stderr.getvalue()
    return stdout.getvalue()


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A CLIP, and three data sets with classes of their own."""
    torch.save(build().state_dict(), tmp_path / "clip.pt")
    (tmp_path / "clip.json").write_text(json.dumps(VIT))
    generator = np.random.default_rng(0)
    for name, classes in CLASSES.items():
        for split in ("train", "valid", "test"):
            for number, one in enumerate(classes):
                folder = tmp_path / name / split / one
                folder.mkdir(parents=True)
                for i in range(6):
                    pixels = generator.integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)
                    pixels[..., number % 3] += 40 * (1 + number)
                    Image.fromarray(pixels).save(folder / f"{i}.png")
        (tmp_path / f"{name}.toml").write_text(
            'kind = "image"\nmodel = "open_clip:clip.json"\nweights = "clip.pt"\n'
            f'head = "zero-shot"\ntemplates = {json.dumps(TEMPLATES)}\n'
            f'[splits]\ntrain = "{name}/train"\nheld-out = "{name}/valid"\ntest = "{name}/test"\n'
            "[space]\nlr = 1e-3\nepochs = 2\nbatch_size = 6\naugmentation = 0.0\n"
        )
    return tmp_path


def test_backbones_of_several_data_sets_make_a_zero_shot_classifier_of_another(
    world: Path,
) -> None:
    for name in ("pets", "street"):
        ladle("sweep", "--task", world / f"{name}.toml", "--runs", 1, "-o", world / name / "sweep")
    runs = [next((world / name / "sweep").glob("run-*")) for name in ("pets", "street")]
    # The zero-shot backbone is one of the ingredients.
    given = [*runs, world / "pets" / "sweep" / "base"]
    out = world / "soup"
    told: dict[str, Any] = json.loads(
        ladle("cook", *given, "--task", world / "target.toml", "--recipe", "uniform", "-o", out,
              "--json")
    )  # fmt: skip
    state = load_file(out / "model.safetensors")
    parts = [load_file(next(folder.glob("*.safetensors"))) for folder in given]
    assert state.keys() == parts[0].keys()
    assert not any("head" in name for name in state)
    for name, tensor in state.items():
        mean = torch.stack([part[name].double() for part in parts]).mean(0).float()
        assert torch.equal(tensor, mean)
    assert any(not torch.equal(parts[0][name], parts[1][name]) for name in state)

    # What it says is what open_clip makes of the averaged tower and the text tower of the base.
    base = torch.load(world / "clip.pt", weights_only=True)
    model = build()
    model.load_state_dict({**base, **state})
    model.eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    names = sorted(CLASSES["target"])
    paths = [(i, p) for i, n in enumerate(names) for p in (world / "target/test" / n).iterdir()]
    transform = image_transform_v2(PreprocessCfg(size=SIZE), is_train=False)
    with torch.no_grad():
        classifier = open_clip.build_zero_shot_classifier(model, tokenizer, names, TEMPLATES)
        images = torch.stack([transform(Image.open(path)) for _, path in paths])
        said = (model.encode_image(images, normalize=True) @ classifier).argmax(1)
    right = float((said == torch.tensor([label for label, _ in paths])).double().mean())
    (row,) = (
        row
        for row in told["evaluations"]
        if (row["model"], row["split"]) == ("uniform soup", "test")
    )
    assert row["value"] == pytest.approx(right)


def test_heads_of_other_classes_are_no_part_of_a_soup(world: Path) -> None:
    """Trained heads differ in shape, and are named; a zero-shot task needs none of them."""
    tower = {n: t for n, t in build().state_dict().items() if n.startswith("visual.")}
    for i, classes in enumerate((2, 3)):
        head = {"classification_head.weight": torch.zeros(classes, 16)}
        torch.save({**tower, **head}, world / f"{i}.pt")
    stderr = io.StringIO()
    with redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        main(["cook", f"{world}/[01].pt", "--task", f"{world}/target.toml", "-o", f"{world}/soup"])
    assert ended.value.code == 3
    assert "classification_head.weight has shape [3, 16], expected [2, 16]" in stderr.getvalue()
