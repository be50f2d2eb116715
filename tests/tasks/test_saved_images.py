"""Image data sets that the datasets library saved, beside the same images as files."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ladle.errors import BadInput, BadTask
from ladle.tasks import ImageClassification, load_task
from ladle.tasks.saved import SavedImages, read_saved_images
from ladle.tasks.sources import Columns, Source
from ladle.tasks.vision import read_image_folder

CPU = torch.device("cpu")
NAMES = ["dog", "cat"]


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def pictures(seed: int) -> list[Image.Image]:
    """Four, of different sizes and modes."""
    generator = np.random.default_rng(seed)
    made = []
    for index, mode in enumerate(("RGB", "L", "RGB", "RGBA")):
        pixels = generator.integers(0, 256, (36 + 5 * index, 40, 3), dtype=np.uint8)
        made.append(Image.fromarray(pixels).convert(mode))
    return made


def saved(path: Path, seed: int = 0, names: list[str] = NAMES, **columns: list) -> Path:
    columns = {"image": pictures(seed), "label": [0, 1, 0, 0], **columns}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    datasets.Dataset.from_dict(columns, features).save_to_disk(path)
    return path


def toml(folder: Path, splits: str, extra: str = "") -> Path:
    path = folder / "task.toml"
    path.write_text(
        f'kind = "image"\nmodel = "timm:test_efficientnet"\nimage_size = 32\n{extra}\n'
        f"[splits]\n{splits}\n"
    )
    return path


def predict(task: ImageClassification, split: str) -> np.ndarray:
    model = task.build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return task.predict(model, split, device=CPU, batch_size=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_saved_images_and_files_give_the_same_predictions(tmp_path: Path, workers: int) -> None:
    saved(tmp_path / "set", 1)
    for index, (image, label) in enumerate(zip(pictures(1), (0, 1, 0, 0), strict=True)):
        folder = tmp_path / "tree" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index}.png")
    task = load_task(toml(tmp_path, 'train = "set"\nheld-out = "tree"', f"workers = {workers}"))
    assert isinstance(task, ImageClassification)
    # ClassLabel's order, in the tree too.
    assert task.label_names == ("dog", "cat")
    assert task.splits["train"].labels.tolist() == [0, 1, 0, 0]
    files, labels, _ = read_image_folder(tmp_path / "tree", NAMES)
    order = [int(path.stem) for path in files]
    assert labels.tolist() == task.splits["train"].labels[order].tolist()
    found, expected = predict(task, "train"), predict(task, "held-out")
    np.testing.assert_allclose(found[order], expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-3
    batches = list(
        task.batches(batch_size=2, augmentation=0.5, generator=torch.Generator().manual_seed(0))
    )
    assert sorted(torch.cat([target for _, target in batches]).tolist()) == [0, 0, 0, 1]


def test_digests_are_of_the_stored_bytes_and_the_labels(tmp_path: Path) -> None:
    def split(name: str, **options):
        images, labels, names = read_saved_images(Source(saved(tmp_path / name, **options)))
        given = {"held-out": ("held-out", images, labels)}
        task = ImageClassification("t", "timm:test_efficientnet", given, label_names=names)
        return task.splits["held-out"]

    one, same, other = split("a"), split("b"), split("c", seed=3)
    relabelled = split("d", label=[1, 1, 1, 0])
    assert one.digest == same.digest
    assert len({one.digest, other.digest, relabelled.digest}) == 3
    assert one.contents.tolist() == relabelled.contents.tolist()
    assert not set(one.contents.tolist()) & set(other.contents.tolist())


def test_no_image_is_decoded_until_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "set"
    content = [{"bytes": b"no picture", "path": None}] * 4
    saved(path, image=content)
    images, labels, names = read_saved_images(Source(path))
    given = {"held-out": ("held-out", images, labels)}
    task = ImageClassification("t", "timm:test_efficientnet", given, label_names=names)
    assert len(task.splits["held-out"]) == 4
    with pytest.raises(BadInput, match=r"image .*set row 0 cannot be read; repair or remove it"):
        predict(task, "held-out")


def test_classes_are_matched_by_name_across_data_sets(tmp_path: Path) -> None:
    saved(tmp_path / "one")
    saved(tmp_path / "other", 1, ["cat", "dog"])
    parts = datasets.DatasetDict({"test": datasets.load_from_disk(tmp_path / "other")})
    parts.save_to_disk(tmp_path / "parts")
    splits = 'held-out = "one"\ntest = { path = "parts", split = "test" }'
    task = load_task(toml(tmp_path, splits))
    assert task.splits["held-out"].labels.tolist() == [0, 1, 0, 0]
    assert task.splits["test"].labels.tolist() == [1, 0, 1, 1]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    columns = {"img": pictures(0), "fine": ["dog", "cat", "dog", "dog"]}
    features = {"img": datasets.Image(), "fine": datasets.Value("string")}
    dataset = datasets.Dataset.from_dict(columns, datasets.Features(features))
    dataset.save_to_disk(tmp_path / "set")
    extra = 'labels = ["cat", "dog"]\ncolumns = { image = "img", label = "fine" }'
    task = load_task(toml(tmp_path, 'held-out = "set"', extra))
    assert task.splits["held-out"].labels.tolist() == [1, 0, 1, 1]
    with pytest.raises(BadTask, match="does not name its classes; give them in order"):
        read_saved_images(Source(tmp_path / "set"), None, Columns(("img",), "fine"))


@pytest.mark.parametrize(
    ("splits", "extra", "says"),
    [
        ('held-out = "set"', 'columns = { image = "img" }', r"no column img \(did you mean 'ima"),
        ('held-out = "set"', 'columns = { label = "labl" }', r"no column labl \(did you mean 'la"),
        ('held-out = "set"', 'columns = { image = "label" }', "holds ClassLabel.*, no images"),
        ('held-out = "set"', 'columns = { image = ["a", "b"] }', "give the name of image and of"),
        ('held-out = "set"', 'columns = { text = "a" }', r"unknown key 'columns\.text'"),
        ('held-out = "set"', 'labels = ["dog", "kitten"]', "row 1 has the label 'cat'; write one"),
        ('held-out = "set"', 'labels = "numbers"', "labels is 'numbers'; it has to be a list"),
        ('held-out = { path = "set", split = "x" }', "", "without splits; leave `split` out"),
        (
            'held-out = { path = "set", splt = "x" }',
            "",
            r"unknown key 'splits\.held-out\.splt' \(d",
        ),
        ("held-out = { split = 'x' }", "", "held-out has the unknown key 'split'; write it as"),
        ("held-out = 3", "", "splits.held-out has no path; write it as in"),
        ('held-out = { path = "none", split = "x" }', "", "cannot read .*none"),
        ('held-out = "unlabelled"', "", r"unlabelled row 0 has no label \(-1\)"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    tmp_path: Path, splits: str, extra: str, says: str
) -> None:
    saved(tmp_path / "set")
    saved(tmp_path / "unlabelled", label=[-1] * 4)
    with pytest.raises(BadTask, match=says) as caught:
        load_task(toml(tmp_path, splits, extra))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_row_without_an_image_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "set", image=[*pictures(0)[:3], None])
    task = load_task(toml(tmp_path, 'held-out = "set"'))
    with pytest.raises(BadTask, match="set row 3 has no image; leave the row out"):
        _ = task.splits


def test_images_kept_as_paths_are_read_too(tmp_path: Path) -> None:
    pictures(0)[0].save(tmp_path / "a.png")
    paths = {"image": [str(tmp_path / "a.png")]}
    dataset = datasets.Dataset.from_dict(paths, datasets.Features({"image": datasets.Image()}))
    images = SavedImages(Source(tmp_path / "set"), dataset, "image")
    with images.open(0) as file:
        assert file.read() == (tmp_path / "a.png").read_bytes()
