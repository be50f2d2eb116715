"""ImageNet and its relatives: what their folders mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagenets import SYNSETS, class_names, framed, make_objectnet, objectnet_columns, paint, pixels
from ladle.errors import BadTask
from ladle.tasks import ImageClassification, load_task
from ladle.tasks.imagenet import DATA_SETS, Wanted, read_examples
from ladle.tasks.vision_splits import Examples

TASK = """kind = "imagenet"
model = "timm:test_vit"
image_size = 32
[splits]
held-out = "val"
"""


def tree(root: Path, *folders: str, ending: str = ".JPEG") -> Path:
    for i, folder in enumerate(folders):
        paint(root / folder / f"image{ending}", pixels(i + len(root.name)))
    return root


def read(path: Path, data_set: str, **options: bool) -> Examples:
    return read_examples(Wanted(path, data_set, "shift", **options))


def labels(examples: Examples) -> dict[str, int]:
    """By folder."""
    found = zip(examples.images, np.asarray(examples.labels).tolist(), strict=True)
    return {Path(image).parent.name: label for image, label in found}


def test_imagenet_and_sketch_are_labelled_by_the_names_of_their_folders(tmp_path: Path) -> None:
    """Three classes of a thousand keep their places: tench, cock, toilet tissue."""
    root = tree(tmp_path / "sketch", "n15075141", "n01440764", "n01514668")
    for data_set in ("imagenet", "sketch"):
        found = read(root, data_set)
        assert labels(found) == {"n01440764": 0, "n01514668": 7, "n15075141": 999}
        assert found.classes is None


def test_v2_is_labelled_by_numbers(tmp_path: Path) -> None:
    found = read(tree(tmp_path / "v2", "0", "2", "10", "999", ending=".jpeg"), "v2")
    assert labels(found) == {"0": 0, "2": 2, "10": 10, "999": 999}
    with pytest.raises(BadTask, match=r"no classes of ImageNet-V2: 01, 1000; give the folder"):
        read(tree(tmp_path / "v2", "01", "1000"), "v2")


def test_a_and_r_keep_two_hundred_columns_each() -> None:
    """The lists have the sums of those in the official code, and share 86 classes."""
    a, r = (DATA_SETS[name](Path()) for name in ("a", "r"))
    for found, total, first, last in ((a, 102_178, 6, 988), (r, 86_135, 1, 988)):
        assert found.classes is not None
        columns = [column for (column,) in found.classes.columns]
        assert len(columns) == len(set(columns)) == 200
        assert columns == sorted(columns)
        assert (sum(columns), columns[0], columns[-1]) == (total, first, last)
        assert list(found.folders) == [SYNSETS[column] for column in columns]
    assert len({*a.folders} & {*r.folders}) == 86
    assert list(a.folders) == class_names("a")
    assert list(r.folders) == class_names("r")


def test_a_and_r_are_labelled_by_their_place_in_the_two_hundred(tmp_path: Path) -> None:
    """Stingray (6) is the first of A; goldfish (1) the first of R; toilet tissue is in neither."""
    a = read(tree(tmp_path / "imagenet-a", "n01498041", "n12267677", ending=".jpg"), "a")
    assert labels(a) == {"n01498041": 0, "n12267677": 199}
    r = read(tree(tmp_path / "imagenet-r", "n01443537", "n12267677", ending=".jpg"), "r")
    assert labels(r) == {"n01443537": 0, "n12267677": 199}
    assert a.classes is not None
    assert a.classes.columns[0] == (6,)
    with pytest.raises(
        BadTask, match=r"imagenet-r holds folders that are no classes of ImageNet-A: n01443537; "
    ):
        read(tmp_path / "imagenet-r", "a")


def test_objectnet_has_113_classes_of_125_columns(tmp_path: Path) -> None:
    root = make_objectnet(tmp_path / "objectnet-1.0")
    tree(root / "images", "alarm_clock", "air_freshener", "backpack", "wheel", ending=".png")
    found = read(root, "objectnet")
    assert found.classes is not None
    columns = found.classes.columns
    assert len(columns) == 113
    assert len({column for of_class in columns for column in of_class}) == 125
    # Analog clock, digital clock; backpack; car wheel, paddlewheel.
    assert labels(found) == {"alarm_clock": 0, "backpack": 1, "wheel": 108}
    assert [set(columns[i]) for i in (0, 1, 108)] == [{409, 530}, {414}, {479, 694}]
    assert {tuple(sorted(c)) for c in columns} == {
        tuple(sorted(c)) for c in objectnet_columns().values()
    }
    assert read(root / "images", "objectnet").images == found.images
    # The folders are in order whatever the order of the mappings.
    file = root / "mappings" / "objectnet_to_imagenet_1k.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(words.items()))))
    assert labels(read(root, "objectnet")) == labels(found)


def test_what_is_wrong_with_objectnet_is_named(tmp_path: Path) -> None:
    root = make_objectnet(tmp_path / "objectnet-1.0")
    tree(root / "images", "air_freshener", ending=".png")
    with pytest.raises(BadTask, match="none of the classes of ObjectNet that count"):
        read(root, "objectnet")
    tree(root / "images", "alarm_clock", "n01440764", ending=".png")
    with pytest.raises(BadTask, match="no classes of ObjectNet: n01440764"):
        read(root, "objectnet")
    file = root / "mappings" / "objectnet_to_imagenet_1k.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps({**words, "Banana": "plantain"}))
    with pytest.raises(BadTask, match="'Banana' and ImageNet's 'plantain' do not meet"):
        read(root, "objectnet")
    file.write_text("{")
    with pytest.raises(BadTask, match=r"objectnet_to_imagenet_1k\.json is not JSON"):
        read(root, "objectnet")
    file.unlink()
    with pytest.raises(BadTask, match=r"objectnet_to_imagenet_1k\.json cannot be read"):
        read(root, "objectnet")
    with pytest.raises(BadTask, match=r"alarm_clock has no folder images; give the folder object"):
        read(root / "images" / "alarm_clock", "objectnet")


def write(folder: Path, text: str) -> Path:
    (folder / "task.toml").write_text(text)
    return folder / "task.toml"


def predicted(task: ImageClassification, split: str) -> np.ndarray:
    torch.manual_seed(0)
    model = task.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return task.predict(model, split, device=torch.device("cpu"), batch_size=4)


def test_objectnets_red_frame_is_cut_off_unless_it_is_to_stay(tmp_path: Path) -> None:
    tree(tmp_path / "val", "n01440764")
    root = make_objectnet(tmp_path / "objectnet-1.0")
    paint(root / "images" / "banana" / "1.png", framed(pixels(5)))
    paint(root / "images" / "banana" / "2.png", framed(pixels(6))[:, :30])
    bare = make_objectnet(tmp_path / "bare")
    paint(bare / "images" / "banana" / "1.png", pixels(5))
    paint(bare / "images" / "banana" / "2.png", framed(pixels(6))[2:-2, 2:28])

    def task(place: str) -> ImageClassification:
        found = load_task(write(tmp_path, f"{TASK}[shifts]\nobjectnet = {place}\n"))
        assert isinstance(found, ImageClassification)
        return found

    cut, kept = task("'objectnet-1.0'"), task("{ path = 'objectnet-1.0', crop_border = false }")
    never = task("{ path = 'bare', crop_border = false }")
    assert np.array_equal(predicted(cut, "objectnet"), predicted(never, "objectnet"))
    assert not np.array_equal(predicted(cut, "objectnet"), predicted(kept, "objectnet"))
    digests = {one.splits["objectnet"].digest for one in (cut, kept)}
    assert len(digests) == 2
    paint(root / "images" / "banana" / "3.png", framed(pixels(7))[:4, :9])
    with pytest.raises(Exception, match=r"3\.png: 9 x 4 pixels are all border") as caught:
        predicted(task("'objectnet-1.0'"), "objectnet")
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_images_in_memory_lose_their_border_too() -> None:
    image = np.stack([framed(pixels(1)), framed(pixels(2))])
    splits = {
        "held-out": Examples("held-out", image, [0, 1], border=2),
        "test": Examples("test", image[:, 2:-2, 2:-2].copy(), [0, 1]),
    }
    task = ImageClassification(
        "framed", "timm:test_vit", splits, label_names=["a", "b"], image_size=32
    )
    assert np.array_equal(predicted(task, "held-out"), predicted(task, "test"))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "v3 = 'sketch'",
            r"shifts.v3 has the name of no data set \(imagenet, v2, .*path = 'sketch'",
        ),
        (
            "b = { path = 'sketch', set = 'b' }",
            "shifts.b.set is 'b'; it must be one of imagenet, v2",
        ),
        ("b = { path = 'sketch', set = ['a'] }", r"shifts.b.set is \['a'\]; it must be one of"),
        ("sketch = { path = 'sketch', sets = 'a' }", "unknown key 'shifts.sketch.sets' .did you"),
        ("sketch = { set = 'sketch' }", "shifts.sketch has no path; write it as in"),
        ("sketch = 3", "shifts.sketch has no path"),
        ("sketch = { path = 'sketch', crop_border = true }", "crop_border is of objectnet alone"),
        ("objectnet = { path = 'sketch', crop_border = 2 }", "crop_border is 2; it has to be true"),
        ("sketch = 'gone'", "gone is not a folder"),
        ("sketch = 'empty'", "empty holds no class folders"),
        (
            "sketch = 'flat'",
            r"flat holds 2 images and no class folders; .*ImageNet-Sketch \(n01440",
        ),
        ("sketch = 'hollow'", "n01440764 holds no images"),
        ("a = 'sketch'", "no classes of ImageNet-A: n01440764, n01443537, "),
        ("v2 = 'sketch'", "and 1 more; give the folder of ImageNet-V2"),
        ("objectnet = 'sketch'", "sketch has no folder images"),
    ],
)
def test_what_is_wrong_in_a_task_file_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    tree(tmp_path / "val", "n01440764")
    tree(tmp_path / "sketch", *SYNSETS[:6])
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "n01440764").mkdir(parents=True)
    (tmp_path / "hollow" / "n01440764" / "._1.JPEG").write_bytes(b"what macOS leaves there")
    paint(tmp_path / "flat" / "1.png", pixels(1))
    paint(tmp_path / "flat" / "2.jpg", pixels(2))
    with pytest.raises(BadTask, match=sentence):
        load_task(write(tmp_path, f"{TASK}[shifts]\n{line}\n"))


def test_a_shift_may_have_any_name_that_says_what_it_is(tmp_path: Path) -> None:
    tree(tmp_path / "val", "n01440764")
    tree(tmp_path / "top-images", "7", "11")
    tree(tmp_path / "fog", "n01443537")
    lines = "v2-top = { path = 'top-images', set = 'v2' }\nfog = { path = 'fog', set = 'imagenet' }"
    task = load_task(write(tmp_path, f"{TASK}[shifts]\n{lines}\n"))
    assert task.splits["v2-top"].labels.tolist() == [11, 7]
    assert task.splits["fog"].labels.tolist() == [1]
    assert task.splits["fog"].role == "shift"


def test_the_classes_are_imagenets_own(tmp_path: Path) -> None:
    tree(tmp_path / "val", "n01440764")
    with pytest.raises(BadTask, match="the labels of kind 'imagenet' are ImageNet's own"):
        load_task(write(tmp_path, f"labels = ['a', 'b']\n{TASK}"))
    task = load_task(write(tmp_path, TASK))
    assert isinstance(task, ImageClassification)
    assert list(task.label_names) == SYNSETS
    assert predicted(task, "held-out").shape == (1, 1000)


def test_none_trains_on_classes_that_the_model_lacks(tmp_path: Path) -> None:
    tree(tmp_path / "val", "n01440764")
    tree(tmp_path / "imagenet-a", "n01498041")
    paint(tmp_path / "imagenet-a" / "n01498041" / "2.jpg", pixels(2))
    text = TASK.replace("[splits]", "[splits]\ntrain = { path = 'imagenet-a', set = 'a' }")
    for held_out in ("'val'", "{ n = 1 }"):
        with pytest.raises(BadTask, match="split train of task task has classes of its own"):
            load_task(write(tmp_path, text.replace('"val"', held_out)))


def test_classes_need_their_columns_and_labels(tmp_path: Path) -> None:
    found = read(tree(tmp_path / "imagenet-a", "n01498041"), "a")
    small = {"held-out": found._replace(role="held-out")}
    with pytest.raises(BadTask, match="made of 989 columns, and the model of task small has 2"):
        ImageClassification("small", "timm:test_vit", small, label_names=["a", "b"])
    wrong = {"held-out": small["held-out"]._replace(labels=[200])}
    with pytest.raises(BadTask, match="with 200 classes they go from 0 to 199"):
        ImageClassification("wrong", "timm:test_vit", wrong, label_names=SYNSETS)


def test_images_of_every_mode_are_read(tmp_path: Path) -> None:
    """ImageNet itself holds grey ones, CMYK ones and a PNG that is called JPEG."""
    for i, mode in enumerate(("L", "CMYK", "RGBA")):
        image = Image.fromarray(pixels(i)).convert(mode)
        path = tmp_path / "val" / "n01440764" / f"{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG" if mode == "RGBA" else "JPEG")
    task = load_task(write(tmp_path, TASK))
    assert isinstance(task, ImageClassification)
    assert np.isfinite(predicted(task, "held-out")).all()
