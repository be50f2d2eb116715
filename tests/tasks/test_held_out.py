"""Held-out examples cut out of train, for images and for texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from imagenets import paint, pixels
from ladle.errors import BadInput, BadTask
from ladle.evaluate import Evaluator
from ladle.sweep import sweep
from ladle.tasks import ImageClassification, TextClassification, load_task
from ladle.tasks.held_out import Rule, write_list
from reviews import MINILM, write_texts

NAMES = [f"{c}/{i}.png" for c in ("cat", "dog", "owl") for i in range(10)]
LABELS = np.arange(3).repeat(10)
CLASSES = ["cat", "dog", "owl"]

PINNED = {
    "per_class = 2, seed = 0": "cat/6 cat/8 dog/7 dog/8 owl/4 owl/5",
    "per_class = 2, seed = 1": "cat/3 cat/8 dog/5 dog/8 owl/4 owl/5",
    "fraction = 0.1, seed = 0": "cat/6 dog/8 owl/3",
}
"""What was drawn once, without its .png."""


def pinned(rule: str) -> list[str]:
    return [f"{name}.png" for name in PINNED[rule].split()]


def taken(rule: Rule, names: Sequence[str] = NAMES, labels: np.ndarray = LABELS) -> list[str]:
    flags, drawn = rule.divide(names, labels, CLASSES)
    assert sorted(np.array(names)[flags]) == list(drawn.names)
    return list(drawn.names)


# The choice


def test_the_choice_is_the_same_everywhere() -> None:
    """These names were drawn once; that they come again is the promise."""
    assert taken(Rule("", per_class=2, seed=0)) == pinned("per_class = 2, seed = 0")
    assert taken(Rule("", per_class=2, seed=1)) == pinned("per_class = 2, seed = 1")
    assert taken(Rule("", fraction=0.1, seed=0)) == pinned("fraction = 0.1, seed = 0")
    assert taken(Rule("", n=3, seed=0)) == pinned("fraction = 0.1, seed = 0")


@pytest.mark.parametrize("rule", [Rule("", per_class=4), Rule("", n=7, seed=3)])
def test_the_choice_depends_on_no_order(rule: Rule) -> None:
    order = np.random.default_rng(0).permutation(len(NAMES))
    assert taken(rule, [NAMES[i] for i in order], LABELS[order]) == taken(rule)


def test_each_class_is_drawn_from_on_its_own() -> None:
    """Neither other classes nor the numbers they push a class to change what is drawn from it."""
    rule = Rule("", per_class=3)
    dogs = [name for name in taken(rule) if name.startswith("dog")]
    assert len(dogs) == 3
    flags, drawn = rule.divide(NAMES[10:20], np.zeros(10, int), ["dog"])
    assert (list(drawn.names), flags.sum()) == (dogs, 3)
    of_each = [[name[4:] for name in taken(rule) if name.startswith(c)] for c in CLASSES]
    assert len(set(map(tuple, of_each))) == 3


def test_as_many_are_taken_as_are_asked_for() -> None:
    assert len(taken(Rule("", n=7))) == 7
    assert len(taken(Rule("", fraction=0.2))) == 6
    assert [name[:3] for name in taken(Rule("", per_class=9))] == [
        c for c in CLASSES for _ in range(9)
    ]
    many = [f"{i:05}" for i in range(20_000)]
    flags, _ = Rule("", fraction=0.02).divide(many, np.zeros(20_000, int), ["a"])
    halves = flags[:10_000].sum(), flags[10_000:].sum()
    assert sum(halves) == 400
    assert abs(int(halves[0]) - int(halves[1])) < 60  # three standard deviations


def test_what_cannot_be_taken_is_refused() -> None:
    names, labels = [*NAMES, "cat/x.png"], np.array([*LABELS, 0])
    with pytest.raises(BadTask, match=r"nothing for training where .* than that: dog \(10\), owl"):
        Rule("t.toml: held-out", per_class=10).divide(names, labels, CLASSES)
    for rule in (Rule("", n=30), Rule("", fraction=0.99), Rule("", fraction=0.01)):
        with pytest.raises(BadTask, match=r"takes (30|0) of 30 training examples; it has to take"):
            rule.divide(NAMES, LABELS, CLASSES)
    with pytest.raises(BadTask, match="per_class needs classes; use fraction or n"):
        Rule("", per_class=1).divide(NAMES, LABELS.astype(float), CLASSES)
    assert Rule("", n=2).divide(NAMES, LABELS.astype(float), CLASSES)[0].sum() == 2


# Lists


def test_a_list_says_what_is_held_out(tmp_path: Path) -> None:
    file = tmp_path / "held out.txt"
    file.write_text("owl/9.png\r\n\r\ncat/0.png\n", "utf-8")
    assert taken(Rule("", listed=file)) == ["cat/0.png", "owl/9.png"]
    flags = np.zeros(30)
    flags[[0, 3]] = 1
    np.save(tmp_path / "idxs.npy", flags)
    backwards = NAMES[::-1]
    assert taken(Rule("", listed=tmp_path / "idxs.npy"), backwards, LABELS[::-1]) == [
        "cat/0.png",
        "cat/3.png",
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("cat/0.png\ncat/77.png\nape/1.png\n", "not among the training .*: ape/1.png, cat/77.png;"),
        ("\n", "lists nothing; it has to name at least one"),
        ("\n".join(NAMES), "lists every training example"),
        (b"\xff\xfe", "cannot be read"),
        (None, "does not exist; check the path"),
        (
            np.zeros(29),
            r"holds float64 \(29,\); .* it has to be 30 numbers, 1 for what is held out",
        ),
        (np.full(30, 2), r"holds int64 \(30,\)"),
        (np.array([{}], object), "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(tmp_path: Path, content: object, sentence: str) -> None:
    file = tmp_path / ("list.npy" if isinstance(content, np.ndarray) else "list.txt")
    if isinstance(content, np.ndarray):
        np.save(file, content)
    elif content is not None:
        file.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    with pytest.raises(BadTask, match=sentence) as caught:
        Rule("t.toml: held-out", listed=file).divide(NAMES, LABELS, CLASSES)
    assert file.name in str(caught.value)


# Tasks of images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        paint(tmp_path / "train" / name, pixels(i))
    for i, name in enumerate(("cat", "dog")):
        paint(tmp_path / "test" / name / "1.png", pixels(100 + i))
    return tmp_path


def task_of(folder: Path, rule: str, test: str = "test = 'test'") -> ImageClassification:
    (folder / "task.toml").write_text(
        "kind = 'image'\nmodel = 'timm:test_vit'\nimage_size = 32\n"
        f"[splits]\ntrain = 'train'\nheld-out = {rule}\n{test}\n"
    )
    task = load_task(folder / "task.toml")
    assert isinstance(task, ImageClassification)
    return task


def test_images_are_cut_out_of_train_and_leave_it(images: Path) -> None:
    task = task_of(images, "{ per_class = 2, seed = 1 }")
    splits = task.splits
    assert list(splits) == ["train", "held-out", "test"]
    assert [len(split) for split in splits.values()] == [24, 6, 2]
    assert splits["held-out"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert splits["train"].labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert splits["held-out"].drawn is not None
    assert list(splits["held-out"].drawn.names) == pinned("per_class = 2, seed = 1")
    contents = [splits[name].contents for name in ("train", "held-out")]
    assert len({*contents[0].tolist(), *contents[1].tolist()}) == 30  # type: ignore[union-attr]
    assert Evaluator(task).describe()["splits"]["held-out"]["drawn"] == {
        "from": "train",
        "per_class": 2,
        "seed": 1,
    }
    batches = task.batches(batch_size=5, augmentation=0, generator=torch.Generator())
    assert sum(len(labels) for _, labels in batches) == 24


def test_a_choice_that_was_written_down_is_made_again(images: Path) -> None:
    drawn = task_of(images, "{ fraction = 0.3, seed = 5 }").splits
    write_list(drawn["held-out"], images / "held_out.txt")
    assert (images / "held_out.txt").read_text().splitlines() == list(
        drawn["held-out"].drawn.names  # type: ignore[union-attr]
    )
    task = task_of(images, "{ list = 'held_out.txt' }")
    assert {name: split.digest for name, split in task.splits.items()} == {
        name: split.digest for name, split in drawn.items()
    }
    rule = Evaluator(task).describe()["splits"]["held-out"]["drawn"]
    assert rule["list"] == "held_out.txt"
    assert len(rule["sha256"]) == 64
    with pytest.raises(BadInput, match="'test' was not cut out of the training examples"):
        write_list(task.splits["test"], images / "other.txt")


def test_a_table_with_a_path_is_a_path(images: Path) -> None:
    task = task_of(images, "{ path = 'test' }", "")
    assert len(task.splits["held-out"]) == 2
    assert task.splits["held-out"].drawn is None


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("{ per_class = 2, n = 3 }", "held-out is given per_class and n; write it as { per_class"),
        ("{ seed = 3 }", "held-out is given no way to choose; write it as"),
        ("{ per_clas = 2 }", "held-out has the unknown key 'per_clas'; write it as"),
        ("{ path = 'test', per_class = 2 }", "unknown key 'splits.held-out.per_class'"),
        ("{ per_class = 0 }", "held-out.per_class is 0; it has to be a whole number from 1 on"),
        ("{ per_class = true }", "held-out.per_class is True; it has to be a whole number"),
        ("{ n = 2.5 }", "held-out.n is 2.5; it has to be a whole number from 1 on"),
        ("{ n = 2, seed = -1 }", "held-out.seed is -1; it has to be a whole number from 0 on"),
        ("{ fraction = 2 }", "held-out.fraction is 2; it has to be a number between 0 and 1"),
        ("{ fraction = 1.0 }", "held-out.fraction is 1.0; it has to be a number between 0 and 1"),
        ("{ list = 3 }", "held-out.list is the path of a file and takes no seed"),
        ("{ list = 'l.txt', seed = 0 }", "held-out.list is the path of a file and takes no seed"),
        ("{ list = 'l.txt' }", r"l\.txt does not exist"),
        (
            "{ per_class = 10 }",
            r"nothing for training where .*: cat \(10\), dog \(10\), owl \(10\)",
        ),
        ("3", "splits.held-out has no path"),
    ],
)
def test_what_is_wrong_with_a_rule_is_named(images: Path, rule: str, sentence: str) -> None:
    with pytest.raises(BadTask, match=sentence) as caught:
        task_of(images, rule)
    assert "task.toml: " in str(caught.value)


def test_a_shift_does_not_take_the_place_of_what_is_cut_out(images: Path) -> None:
    with pytest.raises(BadTask, match="the shift 'held-out' has the name of a split; rename it"):
        task_of(images, "{ n = 2 }", "[shifts]\nheld-out = 'test'")


def test_without_train_there_is_nothing_to_cut_from(images: Path) -> None:
    task_of(images, "{ n = 2 }")
    text = (images / "task.toml").read_text().replace("train = 'train'\n", "")
    (images / "task.toml").write_text(text)
    with pytest.raises(BadTask, match="held-out is cut out of train, which is not there"):
        load_task(images / "task.toml")


# Tasks of texts


def test_texts_are_cut_out_by_their_numbers(tmp_path: Path) -> None:
    write_texts(tmp_path / "train.csv", repeat=3)

    def task(rule: str) -> TextClassification:
        (tmp_path / "task.toml").write_text(
            f"kind = 'text'\nmodel = '{MINILM.as_posix()}'\nlabels = ['bad', 'good']\n"
            f"[splits]\ntrain = 'train.csv'\nheld-out = {rule}\n"
        )
        found = load_task(tmp_path / "task.toml")
        assert isinstance(found, TextClassification)
        return found

    splits = task("{ per_class = 5 }").splits
    assert np.bincount(splits["held-out"].labels).tolist() == [5, 5]
    assert np.bincount(splits["train"].labels).tolist() == [7, 7]
    assert splits["held-out"].drawn is not None
    numbers = sorted(map(int, splits["held-out"].drawn.names))
    labels = np.array(([1] * 4 + [0] * 4) * 3)
    assert labels[numbers].tolist() == splits["held-out"].labels.tolist()
    write_list(splits["held-out"], tmp_path / "rows.txt")
    again = task("{ list = 'rows.txt' }").splits
    assert [again[name].digest for name in splits] == [split.digest for split in splits.values()]
    (tmp_path / "rows.txt").write_text("3\n24\n")
    with pytest.raises(BadTask, match=r"not among the training examples: 24; .*numbers of rows"):
        task("{ list = 'rows.txt' }")


def test_a_sweep_writes_the_choice_down(tmp_path: Path) -> None:
    """And the list is a rule that makes the same choice."""
    write_texts(tmp_path / "train.csv", repeat=3)

    def task(rule: str) -> TextClassification:
        (tmp_path / "task.toml").write_text(
            f"kind = 'text'\nmodel = '{MINILM.as_posix()}'\nlabels = ['bad', 'good']\n"
            f"freeze = 5\n[splits]\ntrain = 'train.csv'\nheld-out = {rule}\n"
            "[space]\nepochs = { choice = [1] }\n"
        )
        found = load_task(tmp_path / "task.toml")
        assert isinstance(found, TextClassification)
        return found

    drawn = task("{ n = 6, seed = 3 }")
    sweep(drawn, tmp_path / "sweep", runs=1)
    again = task("{ list = 'sweep/held_out.txt' }")
    for name in ("train", "held-out"):
        assert again.splits[name].digest == drawn.splits[name].digest
