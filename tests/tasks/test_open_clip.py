"""Models of open_clip: what they say is what open_clip's own arithmetic says."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn

import ladle
from clips import (
    CLASSES,
    RESNET,
    SIZE,
    TEMPLATES,
    VIT,
    Official,
    build,
    draw_pictures,
    save_as_training,
    tuned,
    write_task,
)
from ladle.errors import BadTask, LadleError, LayoutMismatch, MissingExtra
from ladle.evaluate import BatchNormTaster, Evaluator
from ladle.sweep import sweep
from ladle.tasks import ImageClassification, load_task
from ladle.tasks.vision_clip import FixedHead, OpenClip
from ladle.tasks.vision_models import Architecture
from reviews import MINILM

ZERO_SHOT = ('head = "zero-shot"', 'weights = "base.pt"', f"templates = {json.dumps(TEMPLATES)}")


def pictures(folder: Path, split: str = "test", **config: Any) -> torch.Tensor:
    """As open_clip's own transform prepares them, in the order of the task."""
    transform = image_transform_v2(PreprocessCfg(**{"size": SIZE, **config}), is_train=False)
    paths = [path for name in CLASSES for path in sorted((folder / split / name).iterdir())]
    return torch.stack([transform(Image.open(path)) for path in paths])


def zero_shot_logits(model: nn.Module, base: nn.Module, images: torch.Tensor) -> np.ndarray:
    """The image tower of `model` beside the text tower of `base`, with open_clip's functions."""
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    with torch.no_grad():
        classifier = open_clip.build_zero_shot_classifier(base, tokenizer, CLASSES, TEMPLATES)
        features = model.encode_image(images, normalize=True)
        return (base.logit_scale.exp() * features @ classifier).numpy()


def said(task: ImageClassification, checkpoint: Path, split: str = "test") -> np.ndarray:
    return Evaluator(task).predict(ladle.uniform(ladle.open([checkpoint])), split).logits


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that tests make are no business of the person who runs them."""
    monkeypatch.setenv("LADLE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def base(tmp_path: Path) -> nn.Module:
    model = build()
    torch.save(model.state_dict(), tmp_path / "base.pt")
    return model


# Zero-shot heads


def test_a_zero_shot_head_says_what_open_clip_says(tmp_path: Path, base: nn.Module) -> None:
    task = load_task(write_task(tmp_path, *ZERO_SHOT))
    model = tuned(base, 1)
    run = save_as_training([model], tmp_path / "run")
    expected = zero_shot_logits(model, base, pictures(tmp_path))
    found = said(task, run / "checkpoints" / "epoch_1.pt")
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_zero_shot_head_is_made_once(
    tmp_path: Path, base: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all commands: another base, or other prompts, get another."""
    made = []
    original = OpenClip.zero_shot_head

    def counted(self: OpenClip, *given: Any) -> FixedHead:
        made.append(given)
        return original(self, *given)

    monkeypatch.setattr(OpenClip, "zero_shot_head", counted)
    path = write_task(tmp_path, *ZERO_SHOT)

    def head() -> list[list[float]]:
        model = load_task(path).build()
        return model.classification_head.weight.tolist()  # type: ignore[no-any-return, union-attr]

    first = head()
    assert head() == first
    assert len(made) == 1
    (kept,) = (tmp_path / "cache" / "zero-shot-heads").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert head() == first
    assert len(made) == 2
    torch.save(build(seed=3).state_dict(), tmp_path / "base.pt")
    assert head() != first
    assert len(made) == 3


def test_images_of_any_size_are_prepared_as_open_clip_does(tmp_path: Path, base: nn.Module) -> None:
    draw_pictures(tmp_path, ("train", "valid", "test"), each=3, size=75)
    config = {
        "model_cfg": VIT,
        "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.3] * 3, "interpolation": "bilinear"},
    }
    task = load_task(write_task(tmp_path, *ZERO_SHOT, config=config))
    images = pictures(tmp_path, mean=(0.4,) * 3, std=(0.3,) * 3, interpolation="bilinear")
    prepared = next(iter(task.batches(batch_size=9, augmentation=0, generator=torch.Generator())))
    order = torch.randperm(9, generator=torch.Generator())
    assert prepared[0].shape == images.shape
    expected = pictures(tmp_path, "train", **config["preprocess_cfg"])[order]
    # PIL and torch resize with rounding of their own: at most one step of 255 apart.
    torch.testing.assert_close(prepared[0], expected, rtol=0, atol=1.01 / 255 / 0.3)


def test_whole_towers_and_image_towers_are_judged_alike(tmp_path: Path, base: nn.Module) -> None:
    """The text tower of a checkpoint does not matter, nor does a head in it, nor where it lies."""
    task = load_task(write_task(tmp_path, *ZERO_SHOT))
    whole = tuned(base, 1).state_dict()
    image_tower = {n: t for n, t in whole.items() if n.startswith("visual.")}
    other = {n: t if n in image_tower else t + 1 for n, t in whole.items()}
    headed = {f"model.{n}": t for n, t in whole.items()} | {
        "classification_head.weight": torch.ones(7, 16)
    }
    found = []
    for number, state in enumerate((whole, image_tower, other, headed)):
        torch.save(state, tmp_path / f"{number}.pt")
        found.append(said(task, tmp_path / f"{number}.pt"))
    assert all(np.array_equal(found[0], one) for one in found[1:])


def test_class_names_may_differ_from_labels_and_lie_in_files(
    tmp_path: Path, base: nn.Module
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("a cat\n\na dog\na light\n")
    (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES))
    lines = (*ZERO_SHOT[:2], 'class_names = "names.txt"', 'templates = "templates.txt"')
    one = load_task(write_task(tmp_path, *lines)).build()
    listed = (*ZERO_SHOT, 'class_names = ["a cat", "a dog", "a light"]')
    two, plain = (load_task(write_task(tmp_path, *given)).build() for given in (listed, ZERO_SHOT))
    weights = [model.classification_head.weight for model in (one, two, plain)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_names_and_templates_of_imagenet_come_with_open_clip() -> None:
    from ladle.tasks.vision_clip import Prompts, texts_named

    names = texts_named("class_names", "openai-imagenet", Path())
    prompts = Prompts(tuple(names), tuple(texts_named("templates", "openai-imagenet", Path())))
    assert len(names) == 1000
    own = [template(names[5]) for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert len(own) == 80
    assert prompts.texts_of(names[5]) == own


def test_a_bias_of_the_logits_counts(tmp_path: Path) -> None:
    """As SigLIP has one, whose text tower is a module of its own."""
    config = {**VIT, "custom_text": True, "init_logit_bias": -10}
    torch.manual_seed(0)
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    base = open_clip.CustomTextCLIP(**arguments).eval()
    torch.save(base.state_dict(), tmp_path / "base.pt")
    task = load_task(write_task(tmp_path, *ZERO_SHOT, config=config))
    tokens = open_clip.SimpleTokenizer(context_length=12)([TEMPLATES[0].format(c) for c in CLASSES])
    with torch.no_grad():
        expected, _ = base.get_logits(pictures(tmp_path), tokens)
    one = load_task(write_task(tmp_path, *ZERO_SHOT[:2], config=config))
    np.testing.assert_allclose(said(one, tmp_path / "base.pt"), expected, rtol=1e-4, atol=1e-4)
    assert task.digest != one.digest


def test_a_sweep_keeps_the_head_and_writes_what_open_clip_loads(
    tmp_path: Path, base: nn.Module
) -> None:
    task = load_task(write_task(tmp_path, *ZERO_SHOT))
    runs = sweep(task, tmp_path / "sweep", runs=2)
    start = said(task, tmp_path / "sweep" / "base")
    expected = zero_shot_logits(base, base, pictures(tmp_path))
    np.testing.assert_allclose(start, expected, rtol=1e-4, atol=1e-4)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{runs[0]}")
    for name, tensor in model.eval().state_dict().items():
        assert torch.equal(tensor, base.state_dict()[name]) == (not name.startswith("visual."))
    assert not np.allclose(said(task, runs[0]), start, atol=1e-3)
    image = Image.open(tmp_path / "test" / "cat" / "0.png")
    assert torch.equal(transform(image), pictures(tmp_path)[0])
    np.testing.assert_allclose(
        said(task, runs[0]), zero_shot_logits(model, base, pictures(tmp_path)), rtol=1e-4, atol=1e-4
    )


# Heads in the checkpoints


def test_the_files_of_the_paper_say_what_its_code_says(tmp_path: Path, base: nn.Module) -> None:
    task = load_task(write_task(tmp_path))
    models = [Official(tuned(base, i), i) for i in range(2)]
    for i, model in enumerate(models):
        torch.save(model.state_dict(), tmp_path / f"model_{i}.pt")
        with torch.no_grad():
            expected = model(pictures(tmp_path)).numpy()
        found = said(task, tmp_path / f"model_{i}.pt")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    soup = ladle.uniform(ladle.open(str(tmp_path / "model_?.pt")))
    averaged = Official(tuned(base, 0))
    averaged.load_state_dict(soup.state_dict())
    with torch.no_grad():
        expected = averaged(pictures(tmp_path)).numpy()
    found = Evaluator(task).predict(soup, "test").logits
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_base_without_a_head_starts_at_zero_and_one_with_a_head_there(
    tmp_path: Path, base: nn.Module
) -> None:
    task = load_task(write_task(tmp_path, 'weights = "base.pt"'))
    built = task.build().state_dict()
    assert not built["classification_head.weight"].any()
    assert torch.equal(built["visual.proj"], base.state_dict()["visual.proj"])
    probe = Official(tuned(base, 0))
    torch.save(probe.state_dict(), tmp_path / "base.pt")
    built = load_task(write_task(tmp_path, 'weights = "base.pt"')).build().state_dict()
    assert torch.equal(built["classification_head.weight"], probe.classification_head.weight)


def test_a_sweep_with_a_probed_head_is_souped(tmp_path: Path, base: nn.Module) -> None:
    task = load_task(write_task(tmp_path, 'weights = "base.pt"'))
    runs = sweep(task, tmp_path / "sweep", runs=2)
    evaluator = Evaluator(task)
    probed = evaluator(ladle.uniform(ladle.open([tmp_path / "sweep" / "base"])))
    assert probed > 0.6, "the colours can be told apart"
    assert evaluator(ladle.uniform(ladle.open(runs))) > 0.6


def test_batchnorm_of_a_soup_is_estimated_under_the_checkpoints_names(tmp_path: Path) -> None:
    base = build(RESNET)
    task = load_task(write_task(tmp_path, config=RESNET))
    for i in range(2):
        torch.save(Official(tuned(base, i, RESNET), i).state_dict(), tmp_path / f"model_{i}.pt")
    soup = ladle.uniform(ladle.open(str(tmp_path / "model_?.pt")))
    evaluator = Evaluator(task, batch_size=8)
    settled = BatchNormTaster(evaluator, "recalibrate").settled(soup)
    before, after = soup.state_dict(), settled.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "running" in name}
    assert all(name.startswith("model.visual.") for name in changed)
    logits = [evaluator.predict(one, "test").logits for one in (soup, settled)]
    assert not np.allclose(*logits)


# Names and preprocessing


def test_preprocessing_is_what_the_weights_of_a_name_agree_in() -> None:
    one = Architecture("open_clip:ViT-B-32", 3).data_config
    assert (one["input_size"], one["interpolation"]) == ((3, 224, 224), "bicubic")
    assert one["mean"] == open_clip.OPENAI_DATASET_MEAN
    two = Architecture("open_clip:ViT-B-16-SigLIP-256", 3).data_config
    assert (two["input_size"], two["crop_mode"], two["mean"]) == (
        (3, 256, 256),
        "squash",
        (0.5, 0.5, 0.5),
    )
    other = Architecture("open_clip:ViT-B-32", 3, image_size=96)
    assert other.data_config["input_size"] == (3, 96, 96)
    # 3 x 3 patches and the class token.
    assert other.build(None, None, str).visual.positional_embedding.shape == (10, 768)


def test_where_weights_disagree_it_is_the_librarys_default() -> None:
    tags = open_clip.list_pretrained_tags_by_model("ViT-H-14")
    modes = {
        open_clip.pretrained.get_pretrained_cfg("ViT-H-14", t).get("resize_mode") for t in tags
    }
    assert len(modes) > 1
    assert Architecture("open_clip:ViT-H-14", 3).data_config["crop_mode"] == "center"


def test_image_towers_of_timm_are_built_without_downloads(tmp_path: Path) -> None:
    tower = {"timm_model_name": "test_vit", "timm_model_pretrained": True, "image_size": 160}
    config = {**VIT, "vision_cfg": tower}
    model = load_task(write_task(tmp_path, "image_size = 64", config=config)).build()
    # 4 x 4 patches and the class token.
    assert model.visual.trunk.pos_embed.shape == (1, 17, 64)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_a_tokenizer_beside_the_configuration_is_found(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    for file in MINILM.glob("*token*"):
        shutil.copy(file, tmp_path / "words")
    shutil.copy(MINILM / "config.json", tmp_path / "words")
    shutil.copy(MINILM / "vocab.txt", tmp_path / "words")
    text = {**VIT["text_cfg"], "vocab_size": 30522, "hf_tokenizer_name": "words"}
    config = {**VIT, "text_cfg": text}
    arguments = {**VIT, "text_cfg": {**text, "hf_tokenizer_name": None}}
    base = build(arguments)
    torch.save(base.state_dict(), tmp_path / "base.pt")
    model = load_task(write_task(tmp_path, *ZERO_SHOT, config=config)).build()
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path / "words"), context_length=12)
    with torch.no_grad():
        classes = open_clip.build_zero_shot_classifier(base, tokenizer, CLASSES, TEMPLATES)
        expected = base.logit_scale.exp() * classes.T
    torch.testing.assert_close(model.classification_head.weight, expected)


def test_only_the_image_tower_is_built() -> None:
    """Of a text tower, even its configuration may have to be downloaded."""
    model = Architecture("open_clip:roberta-ViT-B-32", 3).build(None, None, str)
    assert {name.partition(".")[0] for name in model.state_dict()} == {
        "visual",
        "classification_head",
    }


def test_digests_change_with_what_they_cover(tmp_path: Path, base: nn.Module) -> None:
    variants = [
        (),
        ZERO_SHOT,
        ZERO_SHOT[:2],
        (*ZERO_SHOT, 'class_names = ["a", "b", "c"]'),
    ]
    digests = {load_task(write_task(tmp_path, *lines)).digest for lines in variants}
    other = {**VIT, "quick_gelu": True}
    digests |= {load_task(write_task(tmp_path, config=other)).digest}
    torch.save(tuned(base, 1).state_dict(), tmp_path / "base.pt")
    digests |= {load_task(write_task(tmp_path, *ZERO_SHOT)).digest}
    assert len(digests) == 6


# What cannot be used


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (('head = "text"',), "head is 'text' in task task; choose 'checkpoint' or 'zero-shot'"),
        (('head = "zero-shot"',), "give the file of the CLIP"),
        (('templates = ["a {}"]',), "templates of task task belong to head = 'zero-shot'"),
        ((*ZERO_SHOT, 'class_names = ["a"]'), "has 1 names, and there are 3 labels"),
        ((*ZERO_SHOT[:2], 'templates = ["a photo"]'), r"template 'a photo' has no \{\} where"),
        ((*ZERO_SHOT[:2], "templates = []"), "templates is empty"),
        ((*ZERO_SHOT[:2], "templates = [1]"), "it has to be a list of texts, or a file"),
        ((*ZERO_SHOT[:2], 'templates = "gone.txt"'), "templates = 'gone.txt' cannot be read"),
    ],
)
def test_what_is_wrong_with_a_head_is_named(
    tmp_path: Path, base: nn.Module, lines: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(BadTask, match=sentence):
        load_task(write_task(tmp_path, *lines))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("open_clip:ViT-B32", r"no model 'ViT-B32' \(did you mean 'ViT-B-32'\?\)"),
        ("open_clip:gone.json", r"gone\.json is no configuration of open_clip .*No such file"),
        ("open_clip:half.json", "it lacks embed_dim, text_cfg"),
        ("open_clip:list.json", "it lacks embed_dim, vision_cfg, text_cfg"),
        ("open_clip:broken.json", "broken.json is no configuration"),
        ("open_clip:wide.json", r"wants images of \[32, 64\] pixels"),
    ],
)
def test_what_is_wrong_with_a_model_is_named(tmp_path: Path, source: str, sentence: str) -> None:
    wide = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "image_size": [32, 64]}}
    for name, text in {
        "half": '{"vision_cfg": {}}',
        "list": "[1]",
        "broken": "{",
        "wide": json.dumps(wide),
    }.items():
        (tmp_path / f"{name}.json").write_text(text)
    path = write_task(tmp_path)
    path.write_text(path.read_text().replace("open_clip:clip.json", source))
    with pytest.raises(BadTask, match=sentence):
        load_task(path)


def test_a_zero_shot_head_needs_a_text_tower(tmp_path: Path, base: nn.Module) -> None:
    path = write_task(tmp_path, *ZERO_SHOT)
    path.write_text(path.read_text().replace("open_clip:clip.json", "timm:test_vit"))
    with pytest.raises(BadTask, match="made by a text tower, which test_vit does not have"):
        load_task(path)
    torch.save(Official(base).state_dict(), tmp_path / "base.pt")
    with pytest.raises(BadTask, match=r"base\.pt hold no text tower \(transformer\."):
        load_task(write_task(tmp_path, *ZERO_SHOT))


def test_a_base_of_another_model_is_refused(tmp_path: Path, base: nn.Module) -> None:
    wider = {**VIT, "embed_dim": 24}
    with pytest.raises(BadTask, match=r"base\.pt do not fit .*clip\.json: text_projection is"):
        load_task(write_task(tmp_path, *ZERO_SHOT, config=wider)).build()
    with pytest.raises(BadTask, match=r"base\.pt do not fit .*visual\.proj is \(64, 16\)"):
        load_task(write_task(tmp_path, 'weights = "base.pt"', config=wider)).build()


def test_nothing_is_downloaded_for_a_text_tower(tmp_path: Path, base: nn.Module) -> None:
    foreign = {**VIT, "text_cfg": {**VIT["text_cfg"], "hf_tokenizer_name": "some/hub"}}
    with pytest.raises(BadTask, match=r"'some/hub' \(hf_tokenizer_name\) from a hub"):
        load_task(write_task(tmp_path, *ZERO_SHOT, config=foreign))
    # Its image tower alone needs no tokenizer.
    assert load_task(write_task(tmp_path, config=foreign)).build()


def test_a_tokenizer_of_more_words_is_refused(tmp_path: Path) -> None:
    few = {**VIT, "text_cfg": {**VIT["text_cfg"], "vocab_size": 50}}
    torch.save(build(few).state_dict(), tmp_path / "base.pt")
    with pytest.raises(BadTask, match="more tokens than the 50 of its text tower"):
        load_task(write_task(tmp_path, *ZERO_SHOT, config=few)).build()


def test_checkpoints_that_do_not_fit_are_named(tmp_path: Path, base: nn.Module) -> None:
    task = load_task(write_task(tmp_path, *ZERO_SHOT))
    headless = load_task(write_task(tmp_path))
    with pytest.raises(LayoutMismatch, match=r"hold no classifier .*give head = 'zero-shot'"):
        said(headless, tmp_path / "base.pt")
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(LayoutMismatch, match=r"no image tower of open_clip: .*conv\.weight"):
        said(task, tmp_path / "other.pt")
    tower = base.visual.state_dict()
    twice = {f"{one}.visual.{n}": t for one in ("student", "teacher") for n, t in tower.items()}
    torch.save(twice, tmp_path / "twice.pt")
    with pytest.raises(LayoutMismatch, match="hold several models"):
        said(task, tmp_path / "twice.pt")
    del tower["proj"]
    torch.save({f"visual.{name}": tensor for name, tensor in tower.items()}, tmp_path / "less.pt")
    with pytest.raises(LayoutMismatch, match=r"the soup lacks visual\.proj"):
        said(task, tmp_path / "less.pt")


def test_dropout_it_does_not_have_is_refused(tmp_path: Path, base: nn.Module) -> None:
    for lines in ((), ZERO_SHOT):
        task = load_task(write_task(tmp_path, *lines))
        with pytest.raises(BadTask, match="has no dropout layers"):
            task.build(dropout=0.1)
        assert task.build(dropout=0.0)


def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_task(tmp_path)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtra, match=r"open-clip-torch is not installed; .*ladle\[clip\]"):
        load_task(path)
    assert issubclass(MissingExtra, LadleError)
