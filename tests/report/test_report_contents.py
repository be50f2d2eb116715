"""A page for every kind of folder, and one sentence for those that have nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from ladle.errors import BadInput
from ladle.report import render, write_report
from ladle.report.contents import read_contents
from ladle.report.sweep_record import read_sweep
from reported import SAMPLES, run_record, with_everything, write_sweep


def headings(text):
    return re.findall(r"<h[12][^>]*>(.*?)</h[12]>", text.split("<footer>")[0])


def drawn(text):
    return re.findall(r'<figure class="plot" id="figure-([^"]+)"', text)


@pytest.mark.slow
def test_landscapes_and_comparisons_show_on_the_page_of_the_folder_that_they_lie_in(tmp_path):
    text = render(with_everything(tmp_path / "soup"))
    assert headings(text)[0] == "Greedy soup of 5 of 8 models"
    assert headings(text)[6:] == [
        "Calibration",
        "Plane through base, run-0000 and run-0003",
        "Soups and ensembles of 8 models",
        "How it was made",
        "How landscapes and comparisons were made",
    ]
    assert {
        "calibration",
        "hyperparameter-0-lr",
        "hyperparameter-1-epochs",
        "hyperparameter-2-augment",
        "landscape-plane-train-loss",
        "landscape-plane-test-error",
        "landscape-plane-mean-of-shifts-error",
        "landscape-path-run-0000-run-0003-loss",
        "comparison-soup-against-ensemble",
        "comparison-matrix-barrier",
        "comparison-score-by-size-test",
        "comparison-calibration-by-size-mean-of-shifts",
    } <= set(drawn(text))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("landscape", "Plane through base, run-0000 and run-0003"),
        ("comparison", "Soups and ensembles of 8 models"),
    ],
)
def test_an_analysis_alone_has_a_page(tmp_path, name, title):
    folder = shutil.copytree(SAMPLES / name, tmp_path / name)
    assert headings(render(folder))[0] == title


def test_a_sweep_has_its_runs_best_first(tmp_path):
    runs = [run_record(i, value) for i, value in enumerate([0.8, 0.9, 0.85])]
    runs.append(run_record(3, None, failed="the loss is not finite", scores=[], training_loss=[]))
    text = render(write_sweep(tmp_path / "sweep", runs))
    assert headings(text) == [
        "Sweep of 4 runs",
        "Runs",
        "Hyper-parameters",
        "Learning",
        "How it was made",
    ]
    assert re.findall(r'<th scope="row">(run-\d+)', text) == [
        "run-0001",
        "run-0002",
        "run-0000",
        "run-0003",
    ]
    said = text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "The runs score 80.00 % to 90.00 % on held-out data; the best is run-0001." in said
    assert "1 run failed and left no weights." in said
    assert "failed: the loss is not finite" in said
    assert drawn(text) == [
        "hyperparameter-0-lr",
        "hyperparameter-1-epochs",
        "learning",
        "training-loss",
    ]


def test_what_is_best_is_not_said_where_nobody_knows_which_way_is_good(tmp_path):
    runs = [run_record(i, float(i)) for i in range(3)]
    for run in runs:
        for score in run["scores"]:
            score["metric"] = "goodness"
    sweep = read_sweep(write_sweep(tmp_path / "sweep", runs))
    assert sweep.best is None
    assert "whether a high goodness is good is not known" in render(tmp_path / "sweep")


def test_a_low_loss_is_the_best(tmp_path):
    runs = [run_record(i, float(i + 1)) for i in range(3)]
    for run in runs:
        for score in run["scores"]:
            score["metric"] = "eval_loss"
    best = read_sweep(write_sweep(tmp_path / "sweep", runs)).best
    assert best is not None
    assert best.name == "run-0000"


def test_runs_under_way_are_not_shown(tmp_path):
    folder = write_sweep(tmp_path / "sweep", [run_record(0, 0.8)])
    (folder / "run-0001.part").mkdir()
    (folder / "run-0001.part" / "run.json").write_text(json.dumps(run_record(1, 0.9)))
    assert [run.name for run in read_sweep(folder).runs] == ["run-0000"]


def test_a_folder_without_results_says_what_to_give(tmp_path):
    with pytest.raises(BadInput, match=r"has no results \(soup\.json, sweep\.json, landscape"):
        write_report(tmp_path)
    with pytest.raises(BadInput, match=r"nowhere has no results .*; give the output folder of"):
        write_report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_around_results_names_them(tmp_path):
    write_sweep(tmp_path / "sweep", [run_record(0, 0.8)])
    with pytest.raises(BadInput, match=r"; give .*sweep$"):
        read_contents(tmp_path)


def test_an_unfinished_folder_is_pointed_out(tmp_path):
    (tmp_path / "out.part").mkdir()
    with pytest.raises(BadInput, match=r"out\.part is unfinished: run its command again"):
        read_contents(tmp_path / "out")


def test_a_sweep_without_a_finished_run_is_no_page(tmp_path):
    with pytest.raises(BadInput, match="has no finished run to report on"):
        render(write_sweep(tmp_path / "sweep", []))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "soup.pt").write_text("weights")
    with pytest.raises(BadInput, match=r"soup\.pt cannot be read .*; give the output folder"):
        render(tmp_path / "soup.pt")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "has version 2, this ladle reads version 1"),
        ("kind", "sphere", "`kind` is 'sphere', known are path, plane"),
        ("a", ["x"], "`a` should be a list of numbers"),
    ],
)
def test_a_damaged_landscape_is_named_with_its_field(tmp_path, key, value, message):
    folder = shutil.copytree(SAMPLES / "landscape", tmp_path / "landscape")
    record = json.loads((folder / "landscape.json").read_text("utf-8")) | {key: value}
    (folder / "landscape.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(BadInput, match=rf"landscape\.json.*{re.escape(message)}"):
        render(folder)


def test_rows_of_a_grid_have_one_length(tmp_path):
    folder = shutil.copytree(SAMPLES / "landscape", tmp_path / "landscape")
    record = json.loads((folder / "landscape.json").read_text("utf-8"))
    record["curves"][0]["values"][1].pop()
    (folder / "landscape.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(BadInput, match=r"curves\[0\]: `values` should be a list of equally long"):
        render(folder)


def test_what_draws_is_loaded_only_when_a_page_is_written():
    """`ladle --help` and the start of `ladle cook` are quick."""
    code = (
        "import sys, ladle.cook, ladle.cli, ladle.report, ladle.report.collect; "
        "print([name for name in ('altair', 'vl_convert', 'jinja2', 'contourpy') "
        "if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
