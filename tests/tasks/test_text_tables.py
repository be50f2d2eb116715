"""Texts from the files people have, each written by the library that people write it with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ladle.errors import BadTask, MissingExtra
from ladle.tasks.sources import Columns, Source
from ladle.tasks.text_files import names_in, read_texts

NAMES = ("no", "yes")
TEXTS = ['so "good", really', "bad\tluck", "tab, comma"]
FRAME = {"sentence": TEXTS, "gold": ["yes", "no", "yes"], "idx": [0, 1, 2]}
GOLD = Columns(("sentence",), "gold")
CLASSES = datasets.ClassLabel(names=["yes", "no"])


def saved(path: Path, labels: object = CLASSES, **columns: list) -> Path:
    features = {name: datasets.Value("string") for name in columns} | {"label": labels}
    columns["label"] = columns.get("label", [0, 1, 0])
    datasets.Dataset.from_dict(columns, datasets.Features(features)).save_to_disk(path)
    return path


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_what_pandas_writes_is_read(tmp_path: Path, ending: str) -> None:
    frame, path = pd.DataFrame(FRAME), tmp_path / f"a.{ending}"
    match ending:
        case "csv":
            frame.to_csv(path, index=False)
        case "tsv":
            frame.to_csv(path, index=False, sep="\t")
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "parquet":
            frame.astype({"gold": "category"}).to_parquet(path)
    assert read_texts(path, NAMES, GOLD) == (TEXTS, [1, 0, 1])


def test_pairs_are_two_columns_in_the_order_given(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"b": ["x", "y"], "label": [1, 0], "a": ["u", "v"]}).to_parquet(path)
    found = read_texts(path, NAMES, Columns(("a", "b")))
    assert found == ([("u", "x"), ("v", "y")], [1, 0])


def test_a_saved_data_set_is_read_with_the_names_of_its_own_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "set", text=TEXTS)
    # Its 0 is "yes", ours is "no".
    assert read_texts(path, NAMES) == (TEXTS, [1, 0, 1])
    assert names_in(Source(path)) == ("yes", "no")
    with pytest.raises(BadTask, match=r"set row 1 has the label 'no'; write one of nein, yes"):
        read_texts(path, ("nein", "yes"))


def test_a_shuffled_and_formatted_data_set_keeps_its_rows_together(tmp_path: Path) -> None:
    many = {"text": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]}
    shuffled = datasets.Dataset.from_dict(many).shuffle(seed=1).with_format("numpy")
    shuffled.save_to_disk(tmp_path / "set")
    texts, labels = read_texts(tmp_path / "set", NAMES)
    assert texts != many["text"]
    assert dict(zip(texts, labels, strict=True)) == dict(zip(*many.values(), strict=True))


def test_parquet_of_the_datasets_library_keeps_its_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    datasets.load_from_disk(saved(tmp_path / "set", text=TEXTS)).to_parquet(path)
    assert read_texts(path, NAMES) == (TEXTS, [1, 0, 1])
    assert names_in(Source(path)) == ("yes", "no")


def test_one_split_of_several_saved_together(tmp_path: Path) -> None:
    parts = {
        name: datasets.Dataset.from_dict({"text": [f"{name} text"], "label": [number]})
        for number, name in enumerate(("train", "validation"))
    }
    path = tmp_path / "sets"
    datasets.DatasetDict(parts).save_to_disk(path)
    assert read_texts(Source(path, "validation"), NAMES) == (["validation text"], [1])
    with pytest.raises(BadTask, match=r"has no split 'validaton' \(did you mean 'validation'\?\)"):
        read_texts(Source(path, "validaton"), NAMES)
    with pytest.raises(BadTask, match=r"holds several splits \(train, validation\); name one"):
        read_texts(path, NAMES)
    with pytest.raises(BadTask, match="single data set without splits; leave `split` out"):
        read_texts(Source(path / "train", "train"), NAMES)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": ["a", None], "label": [0, 1]}, "row 1 has no text in 'text'"),
        ({"text": ["a", "b"], "label": [0, -1]}, r"row 1 has no label \(-1\).* take a split with"),
        ({"text": ["a", "b"], "label": [0.0, float("nan")]}, r"row 1 has no label \(nan\)"),
        ({"text": ["a", "b"], "label": [0, None]}, r"row 1 has no label \(None\)"),
        ({"text": ["a", "b"], "label": [0, 2]}, r"row 1 has the label 2; .* from 0 to 1"),
        ({"text": ["a", "b"], "label": [0.0, 0.5]}, r"row 1 has the label 0\.5;"),
        ({"text": ["a", "b"], "label": ["no", "Yes"]}, "row 1 has the label 'Yes'; write one of"),
        ({"text": [1, 2], "label": [0, 1]}, "row 0 has no text in 'text'"),
        ({"txt": ["a"], "label": [0]}, r"names no column text \(did you mean 'txt'\?\); say"),
        ({"text": ["a"], "labels": [0]}, r"label \(did you mean 'labels'\?\); take data with"),
        ({"text": [], "label": []}, "holds no examples"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "set"])
def test_what_is_wrong_in_a_table_is_named_with_its_row(
    tmp_path: Path, kind: str, columns: dict, says: str
) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        datasets.Dataset.from_dict(columns).save_to_disk(path)
    with pytest.raises(BadTask, match=f"a.{kind} .*{says}") as caught:
        read_texts(path, NAMES)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_lines_with_more_or_fewer_fields_than_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\ngood,1\ngood, really,1\n")
    with pytest.raises(BadTask, match=r"a\.csv:3 has 3 fields, but the columns are text, label;"):
        read_texts(path, NAMES)


def test_folders_and_files_that_are_no_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.parquet").write_text("text,label\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_info.json").write_text("{")
    (tmp_path / "a.csv").write_text("text,label\na,1\n")
    for name, says in (
        ("folder", "is not a .csv"),
        ("none.parquet", "does not exist"),
        ("nowhere", "does not exist"),
        ("a.parquet", "cannot be read as Parquet"),
        ("set", "the datasets library cannot read"),
    ):
        with pytest.raises(BadTask, match=says):
            read_texts(tmp_path / name, NAMES)
    with pytest.raises(BadTask, match="is no saved data set"):
        read_texts(Source(tmp_path / "a.csv", "train"), NAMES)


def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.DataFrame({"text": ["a"], "label": [0]}).to_parquet(tmp_path / "a.parquet")
    saved(tmp_path / "set", text=TEXTS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("a.parquet", "set"):
        with pytest.raises(MissingExtra, match=r"pip install 'ladle\[datasets\]'"):
            read_texts(tmp_path / name, NAMES)


@pytest.mark.parametrize(
    ("given", "number"), [(1, 1.0), (2.5, 2.5), ("-3e-1", -0.3), ("4", 4.0), (-1, -1.0)]
)
def test_numbers_for_regression(tmp_path: Path, given: object, number: float) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x", "label": given}))
    assert read_texts(path, None) == (["x"], [number])


@pytest.mark.parametrize("given", ["many", "nan", "", None, True, float("inf"), [1.0]])
def test_labels_that_are_no_numbers_are_refused(tmp_path: Path, given: object) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x", "label": given}))
    with pytest.raises(BadTask, match=r"a\.jsonl:1 has (no label|the label .*finite numbers)"):
        read_texts(path, None)
