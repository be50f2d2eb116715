from __future__ import annotations

from pathlib import Path

import datasets
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from digits import TASK
from ladle.errors import BadTask
from ladle.tasks import ImageClassification, Task, TextClassification, load_task
from reviews import MINILM, write_task


def test_a_text_task_from_toml(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    assert isinstance(task, TextClassification)
    assert {name: split.role for name, split in task.splits.items()} == {
        "train": "train",
        "held-out": "held-out",
        "test": "test",
        "other": "shift",
    }
    assert task.splits["test"].labels.tolist() == [1, 1, 1, 1, 0, 0, 0, 0] * 2
    assert task.name == "task"


def test_a_metric_of_ones_own_is_found_beside_the_task(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def loss(predictions):\n    return 0.5\n")
    path = write_task(tmp_path)
    given = 'metric = "mine.py:loss"\nmode = "min"\n[splits]'
    path.write_text(path.read_text().replace("[splits]", given))
    metric = load_task(path).metric
    assert (metric.name, metric.higher_is_better) == ("loss", False)
    assert metric.score(None) == 0.5  # type: ignore[arg-type]


def test_a_function_in_a_python_file_is_called() -> None:
    task = load_task(TASK)
    assert isinstance(task, Task)
    assert task.name == "digits"


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('kind = "text"', 'kind = "audio"', "kind is 'audio'; it must be 'text' or 'image'"),
        ("max_length", "max_lenght", r"unknown key 'max_lenght' \(did you mean 'max_length'"),
        ("held-out =", "heldout =", r"unknown key 'splits.heldout' \(did you mean 'held-out'"),
        ('held-out = "valid.csv"', "", "held-out"),
        ('labels = ["bad", "good"]', "", "give the label names in order"),
        ('labels = ["bad", "good"]', 'labels = ["bad", "nice"]', "'good'"),
        ("valid.csv", "gone.csv", "gone.csv"),
        ('other = "other.csv"', 'test = "other.csv"', "the shift 'test' has the name of a split"),
        ("[splits]", 'metric = "acuracy"\n[splits]', "unknown metric 'acuracy'"),
        ("[splits]", 'metric = "mse"\n[splits]', "metric 'mse' is of numbers, and this task has"),
        ("[splits]", 'metric = "f1"\nmode = "min"\n[splits]', "f1 has a direction of its own"),
        ("[splits]", 'metric = "mine.py:loss"\n[splits]', "has no direction; add mode = 'max'"),
        ("freeze = 5", "freeze = ", "is no TOML"),
        ("freeze = 5", "freeze = true", "freeze is True; it has to be a whole number"),
        ("freeze = 5", "freeze = 1.5", "freeze is 1.5; it has to be a whole number"),
        ("max_length = 16", "max_length = '16'", "max_length is '16'"),
        ('labels = ["bad", "good"]', "labels = [0, 1]", "it has to be a list of texts"),
        ("[shifts]", "[space_]", "unknown key 'space_' .did you mean 'space'"),
        (MINILM.as_posix(), "nowhere", "nowhere"),
    ],
)
def test_what_is_wrong_in_a_task_file_is_named(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    path = write_task(tmp_path)
    (tmp_path / "mine.py").write_text("def loss(predictions):\n    return 0.5\n")
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(Exception, match=sentence) as caught:
        load_task(path)
    assert caught.value.exit_code == 2


def test_a_python_file_without_the_members_of_a_task(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Half:\n    name = 'half'\ntask = Half()\n")
    with pytest.raises(BadTask, match="it lacks metric, splits, digest, build, predict"):
        load_task(f"{tmp_path}/mine.py:task")


def test_a_python_file_that_does_not_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(Exception, match=r"broken\.py does not run: ZeroDivisionError"):
        load_task(f"{tmp_path}/broken.py:task")


def test_an_image_task_from_toml(tmp_path: Path) -> None:
    for number, split in enumerate(("valid", "test", "dark")):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            shade = 40 * number + (10 if name == "cat" else 200)
            Image.new("RGB", (40, 40), (shade, 0, 0)).save(tmp_path / split / name / "1.png")
    state = timm.create_model("resnet18", num_classes=2).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    (tmp_path / "task.toml").write_text(
        'kind = "image"\nmodel = "timm:resnet18"\nweights = "resnet18.pth"\nimage_size = 32\n'
        'frozen = ["conv1"]\n[splits]\nheld-out = "valid"\ntest = "test"\n'
        '[shifts]\ndark = "dark"\n'
    )
    task = load_task(tmp_path / "task.toml")
    assert isinstance(task, ImageClassification)
    assert task.label_names == ("cat", "dog")
    assert {name: split.role for name, split in task.splits.items()} == {
        "held-out": "held-out",
        "test": "test",
        "dark": "shift",
    }
    built = task.build().state_dict()
    assert all(torch.equal(built[name], tensor) for name, tensor in state.items())
    assert not task.trainable("conv1.weight")
    assert task.trainable("fc.weight")


def test_columns_of_other_names_and_labels_from_the_data(tmp_path: Path) -> None:
    frame = pd.DataFrame({"one": ["a", "b"], "two": ["c", "d"], "gold": [1, 0]})
    names = datasets.ClassLabel(names=["apart", "alike"])
    dataset = datasets.Dataset.from_pandas(frame).cast_column("gold", names)
    dataset.to_parquet(tmp_path / "dev.parquet")
    frame.assign(gold=["alike", "apart"]).to_csv(tmp_path / "test.csv", index=False)
    (tmp_path / "task.toml").write_text(
        f'kind = "text"\nmodel = "{MINILM.as_posix()}"\n'
        'columns = { text = ["one", "two"], label = "gold" }\n'
        '[splits]\nheld-out = "dev.parquet"\ntest = "test.csv"\n'
    )
    task = load_task(tmp_path / "task.toml")
    assert isinstance(task, TextClassification)
    assert task.label_names == ("apart", "alike")
    assert [split.labels.tolist() for split in task.splits.values()] == [[1, 0], [1, 0]]
    assert task._texts["test"] == (("a", "c"), ("b", "d"))


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("[splits]", "columns = { text = 'sentence' }\n[splits]", "names no column sentence"),
        ("[splits]", "columns = { txt = 'text' }\n[splits]", r"columns.txt' \(did you mean 'text'"),
        ("[splits]", "columns = { text = ['a', 'b', 'c'] }\n[splits]", "a list of two names"),
        ("[splits]", "columns = { text = [] }\n[splits]", "a list of two names"),
        ("[splits]", "columns = { label = 1 }\n[splits]", "give the name of text and of label"),
        ("[splits]", "columns = 'text'\n[splits]", "columns is 'text'; it has to be a table"),
        ("[splits]", "glue = 'mprc'\n[splits]", r"unknown glue 'mprc' \(did you mean 'mrpc'"),
        ('labels = ["bad", "good"]', "labels = 'number'", "labels is 'number'"),
        (
            'labels = ["bad", "good"]',
            "labels = 'numbers'",
            r"train.csv:2 has the label 'good'; reg",
        ),
        (
            'labels = ["bad", "good"]',
            "labels = 'numbers'\nmetric = 'f1'",
            "'f1' is of classes, and",
        ),
        ('"valid.csv"', '{ path = "valid.csv", split = "dev" }', "is no saved data set"),
        ('"other.csv"', "{ file = 'other.csv' }", "unknown key 'shifts.other.file'"),
    ],
)
def test_what_is_wrong_about_the_data_is_named(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    test_what_is_wrong_in_a_task_file_is_named(tmp_path, before, after, sentence)


@pytest.mark.parametrize("metric", ["", "mae", "spearman"])
def test_numbers_for_labels_make_a_regression(tmp_path: Path, metric: str) -> None:
    path = write_task(tmp_path)
    for file in tmp_path.glob("*.csv"):
        file.write_text(file.read_text().replace(",good", ",1.5").replace(",bad", ",-1"))
    line = f"metric = '{metric}'" if metric else ""
    text = path.read_text().replace('labels = ["bad", "good"]', f"labels = 'numbers'\n{line}")
    path.write_text(text)
    task = load_task(path)
    assert isinstance(task, TextClassification)
    assert task.label_names is None
    assert task.metric.name == (metric or "mse")
    assert task.splits["test"].labels.tolist() == ([1.5] * 4 + [-1.0] * 4) * 2
