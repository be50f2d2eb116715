"""GLUE in the files in which it is distributed, cut down to a few lines each."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from ladle.errors import BadTask
from ladle.tasks import TextClassification, load_task
from reviews import MINILM

MRPC = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
FILES = {
    "mrpc": (
        MRPC + '1\t1\t2\t"We won, he said .\tHe said " we won .\n0\t3\t4\tIt rose .\tIt fell .\n',
        [('"We won, he said .', 'He said " we won .'), ("It rose .", "It fell .")],
        [1, 0],
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n"
        '0\tDana Reeve, the "widow" has died.\tShe died.\tentailment\n'
        "1\tYet no one knows.\tAll know.\tnot_entailment\n",
        [('Dana Reeve, the "widow" has died.', "She died."), ("Yet no one knows.", "All know.")],
        [0, 1],
    ),
    "cola": (
        'gj04\t1\t\tOne more "pseudo generalization.\ngj04\t0\t*\tThey drank the pub.\n',
        ['One more "pseudo generalization.', "They drank the pub."],
        [1, 0],
    ),
    "sst2": (
        'sentence\tlabel\nhide new secretions \t0\n" a gorgeous film \t1\n',
        ["hide new secretions ", '" a gorgeous film '],
        [0, 1],
    ),
}
METRIC = {"mrpc": "accuracy-f1", "rte": "accuracy", "cola": "matthews", "sst2": "accuracy"}
ENDINGS = {"mrpc": "txt"}


def write_task(folder: Path, glue: str, dev: str, extra: str = "") -> Path:
    path = folder / "task.toml"
    path.write_text(
        f'kind = "text"\nglue = "{glue}"\nmodel = "{MINILM.as_posix()}"\n{extra}\n'
        f"[splits]\nheld-out = {dev}\n"
    )
    return path


@pytest.mark.parametrize("glue", FILES)
def test_the_files_are_read_as_they_are(tmp_path: Path, glue: str) -> None:
    content, texts, labels = FILES[glue]
    for name in ("dev.tsv", f"train.{ENDINGS.get(glue, 'tsv')}"):
        (tmp_path / name).write_text(content, "utf-8")
        task = load_task(write_task(tmp_path, glue, f'"{name}"'))
        assert isinstance(task, TextClassification)
        assert list(task._texts["held-out"]) == texts
        assert task.splits["held-out"].labels.tolist() == labels
        assert task.metric.name == METRIC[glue]


def test_what_the_user_says_counts_more(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text(FILES["mrpc"][0], "utf-8")
    extra = (
        'metric = "f1"\nlabels = ["different", "same"]\n'
        'columns = { text = ["#2 String", "#1 String"] }'
    )
    task = load_task(write_task(tmp_path, "mrpc", '"dev.tsv"', extra))
    assert isinstance(task, TextClassification)
    assert task.metric.name == "f1"
    assert task.label_names == ("different", "same")
    assert task._texts["held-out"][1] == ("It fell .", "It rose .")


@pytest.mark.parametrize(
    ("glue", "header"),
    [
        ("mrpc", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA .\tB .\n"),
        ("rte", "index\tsentence1\tsentence2\n0\tA\tB\n"),
        ("cola", "index\tsentence\n0\tBill whistled past the house.\n"),
        ("sst2", "index\tsentence\n0\tuneasy mishmash\n"),
    ],
)
def test_test_files_have_no_labels_and_are_refused(tmp_path: Path, glue: str, header: str) -> None:
    (tmp_path / "test.tsv").write_text(header)
    with pytest.raises(BadTask, match=r"test\.tsv:1 .*labels") as caught:
        load_task(write_task(tmp_path, glue, '"test.tsv"'))
    assert caught.value.exit_code == 2


def hub(glue: str) -> datasets.DatasetDict:
    """The columns and features of the data set `glue` on the hub."""
    names = {"mrpc": ["not_equivalent", "equivalent"], "rte": ["entailment", "not_entailment"]}
    text = {"sentence1": ["a", "b"], "sentence2": ["c", "d"]} if glue in names else {}
    text = text or {"sentence": ["a", "b"]}
    features = datasets.Features(
        {name: datasets.Value("string") for name in text}
        | {
            "label": datasets.ClassLabel(
                names=names.get(glue)
                or {"cola": ["unacceptable", "acceptable"]}.get(glue)
                or ["negative", "positive"]
            ),
            "idx": datasets.Value("int32"),
        }
    )
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {**text, "label": labels, "idx": [0, 1]}, features=features
            )
            for split, labels in {"validation": [1, 0], "test": [-1, -1]}.items()
        }
    )


@pytest.mark.parametrize("glue", FILES)
def test_the_same_data_as_a_saved_data_set(tmp_path: Path, glue: str) -> None:
    datasets.disable_progress_bars()
    hub(glue).save_to_disk(tmp_path / "glue")
    path = write_task(tmp_path, glue, '{ path = "glue", split = "validation" }')
    task = load_task(path)
    assert task.splits["held-out"].labels.tolist() == [1, 0]
    with pytest.raises(BadTask, match=r"glue\[test\] row 0 has no label \(-1\)"):
        load_task(write_task(tmp_path, glue, '{ path = "glue", split = "test" }'))


def test_an_unknown_glue_task_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadTask, match=r"unknown glue 'sst-2' \(did you mean 'sst2'\?\)"):
        load_task(write_task(tmp_path, "sst-2", '"dev.tsv"'))
