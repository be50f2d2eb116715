"""Landscapes, comparisons and calibration: the figures say what the records say."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ladle.report.about_analyses import about_comparison, about_landscape
from ladle.report.about_soup import about_soup
from ladle.report.analyses import read_comparison, read_landscape
from ladle.report.collect import collect
from ladle.report.contents import read_contents
from ladle.report.drawing import draw
from ladle.report.figures.matrix import matrices
from ladle.report.figures.pairs import (
    angle_against_advantage,
    formula_against_truth,
    soup_against_ensemble,
)
from ladle.report.figures.path import paths
from ladle.report.figures.plane import planes
from ladle.report.figures.sizes import calibration_by_size, scores_by_size
from reported import SAMPLES, load, with_everything


@pytest.fixture(scope="module")
def comparison():
    return read_comparison(SAMPLES / "comparison")


@pytest.fixture(scope="module")
def landscape():
    return read_landscape(SAMPLES / "landscape")


def first_pair(split):
    """The first pair of the sample, its name, and what there is of it on a split."""
    record = load("comparison/comparison.json")
    pair = record["pairs"][0]
    name = " + ".join(record["models"][i]["name"] for i in pair["models"])
    return pair, name, pair["splits"][split]


def test_pairs_are_drawn_with_their_own_numbers(comparison):
    for split in ("test", "mean of shifts"):
        pair, name, on = first_pair(split)
        expected = {
            soup_against_ensemble: (on["ensemble"]["metric"], on["soup"]["metric"]),
            formula_against_truth: (on["approximation"], on["loss_difference"]),
            angle_against_advantage: (pair["angle"], on["advantage"]),
        }
        for make, values in expected.items():
            figure = make(comparison)
            assert figure is not None
            found = next(r for r in figure.rows if (r["pair"], r["split"]) == (name, split))
            assert (found["x"], found["y"]) == values
            assert len(figure.rows) == 2 * 28


def test_correlation_and_signs_are_told(comparison):
    figure = formula_against_truth(comparison)
    assert figure is not None
    said = load("comparison/comparison.json")["summary"]["splits"]["test"]["approximation"]
    assert f"On test: correlation {said['pearson']:.2f}, the same sign in 16 of 28 pairs." in (
        figure.notes
    )
    head, _ = about_comparison(comparison)
    assert "the formula has the sign of the true difference in 16 of 28" in head.verdict[0]
    assert "No barrier parts the models: all lie in one basin." in head.verdict
    apart = replace(comparison, clusters=(0, 0, 0, 0, 0, 1, 1, 1))
    assert "Barriers part the models into 2 basins." in about_comparison(apart)[0].verdict


def test_matrices_are_in_the_order_that_shows_clusters(comparison):
    record = load("comparison/comparison.json")
    names = [one["name"] for one in record["models"]]
    order = [names[i] for i in record["matrices"]["order"]]
    assert order != names
    for figure, kind in zip(matrices(comparison), ("angle", "barrier"), strict=True):
        encoding = figure.spec(on_page=True)["encoding"]
        assert encoding["x"]["sort"] == encoding["y"]["sort"] == order
        values = {(row["model"], row["other"]): row["value"] for row in figure.rows}
        assert len(values) == 8 * 7
        for i, j in ((0, 1), (5, 2)):
            assert values[names[i], names[j]] == record["matrices"][kind][i][j]


def test_a_barrier_that_is_none_does_not_stand_out(comparison):
    _, barrier = matrices(comparison)
    scale = barrier.spec(on_page=True)["encoding"]["fill"]["scale"]
    assert comparison.apart == pytest.approx(0.1 * 0.39, rel=0.1)
    assert max(scale["domain"]) > 0.8 * comparison.apart
    assert "lie in different basins" in barrier.notes[0]


def test_sizes_are_those_of_the_split(comparison):
    record = load("comparison/comparison.json")
    for figure, split in zip(scores_by_size(comparison), ("test", "mean of shifts"), strict=True):
        expected = {
            (one["kind"], one["size"]): one["mean"]
            for one in record["sizes"]
            if one["split"] == split
        }
        assert {(r["kind"], r["size"]): r["mean"] for r in figure.rows} == expected
        assert len(figure.rows) == len(expected) == 16


def test_a_single_model_is_a_soup_and_an_ensemble_of_one(comparison):
    singles = [
        one
        for one in load("comparison/comparison.json")["calibration"]
        if (one["kind"], one["split"]) == ("single", "test")
    ]
    figure = calibration_by_size(comparison)[0]
    means = {(r["kind"], r["way"]): r["ece"] for r in figure.rows if r["size"] == 1}
    for kind in ("soup", "ensemble"):
        assert means[kind, "as it is"] == pytest.approx(np.mean([s["ece"] for s in singles]))
        fitted = np.mean([s["ece_scaled"] for s in singles])
        assert means[kind, "with a fitted temperature"] == pytest.approx(fitted)


def test_planes_are_those_of_the_paper(landscape):
    figures = planes(landscape)
    assert [one.title for one in figures] == [
        "Train loss (100 examples)",
        "Test error (100 examples)",
        "Mean of shifts error (100 examples)",
    ]
    record = load("landscape/landscape.json")
    surface = record["curves"][0]
    assert (surface["split"], surface["quantity"]) == ("train", "loss")
    for row in figures[0].rows:
        i, j = record["b"].index(row["b"]), record["a"].index(row["a"])
        assert row["value"] == surface["values"][i][j]
        assert row["error"] == surface["standard_error"][i][j]
    marks = {row["model"]: (row["a"], row["b"]) for row in figures[0].beside["landmarks"]}
    assert marks["base"] == (0.0, 0.0)
    assert len(marks) == 4


def test_without_those_of_the_paper_all_planes_are_drawn(landscape):
    only = [s for s in landscape.surfaces if (s.role, s.quantity) == ("train", "error")]
    (figure,) = planes(replace(landscape, surfaces=tuple(only)))
    assert figure.title == "Train error (100 examples)"


def test_paths_have_bands_of_one_standard_error(landscape):
    loss, error = paths(landscape)
    assert loss.title == "Loss between run-0000 and run-0003"
    assert error.title == "Error between run-0000 and run-0003"
    for row in loss.rows:
        assert row["high"] - row["value"] == pytest.approx(row["error"])
        assert row["value"] - row["low"] == pytest.approx(row["error"])
    # The mean of the shifts stands for them.
    assert {row["split"] for row in loss.rows} == {"train", "test", "mean of shifts"}


def test_barriers_are_told_and_so_are_those_that_are_not_there(landscape):
    head, _ = about_landscape(landscape)
    assert head.verdict[0] == (
        "On the way between run-0000 and run-0003 this rises above the straight line: mean of "
        "shifts error by 1.5 points at 0.50 of it; there is no barrier in train loss, train error, "
        "test loss, test error and mean of shifts loss."
    )
    assert "100 examples of each split" in head.verdict[1]


def test_an_unfinished_landscape_is_left_out(tmp_path):
    folder = with_everything(tmp_path / "soup")
    shutil.copytree(folder / "landscape", folder / "another.part")
    assert len(read_contents(folder).landscapes) == 1


def test_two_landscapes_of_one_folder_have_files_of_their_own(tmp_path):
    folder = with_everything(tmp_path / "soup")
    shutil.copytree(folder / "landscape", folder / "another")
    one, two = read_contents(folder).landscapes
    assert not {f.name for f in planes(one)} & {f.name for f in planes(two)}


def test_reliability_curves_have_every_bin_and_the_error(tmp_path):
    record = collect(with_everything(tmp_path / "soup"))
    _, sections = about_soup(record)
    ((figure,),) = next(s for s in sections if s.heading == "Calibration").figures
    models = ["base", "run-003", "uniform soup", "greedy soup", "ensemble of 8"]
    assert [key.words for key in figure.keys] == [f"{model}, ECE 0.020" for model in models]
    assert len(figure.rows) == 5 * len(models)
    assert figure.rows[0]["confidence"] == 0.5
    assert figure.rows[0]["accuracy"] == 0.48


def test_names_inside_of_drawings_differ_from_drawing_to_drawing(comparison):
    figures = [formula_against_truth(comparison), angle_against_advantage(comparison)]
    drawings = [draw(figure).svg for figure in figures if figure is not None]
    names = [set(re.findall(r'id="([^"]+)"', svg)) for svg in drawings]
    assert all(names)
    assert not names[0] & names[1]
    for svg, own in zip(drawings, names, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) == own


def test_a_figure_is_drawn_to_the_same_bytes_again(comparison):
    figure = formula_against_truth(comparison)
    assert figure is not None
    assert draw(figure).svg == draw(figure).svg


def test_a_path_alone_shows_soups_that_lie_beside_it():
    record = load("path/landscape.json")
    head, section = about_landscape(read_landscape(SAMPLES / "path"))
    assert head.title == "Path between run-0000 and run-0003"
    ((loss, error),) = section.figures
    assert len(loss.rows) == 3 * len(record["t"])
    soup = next(one for one in record["models"] if one["name"] == "soup")
    own = {(one["split"], one["quantity"]): one["value"] for one in soup["values"]}
    for figure, quantity in ((loss, "loss"), (error, "error")):
        stars = {(row["model"], row["split"]): row for row in figure.beside["soups"]}
        assert len(stars) == 2 * 3
        assert stars["soup", "test"]["value"] == own["test", quantity]
        assert stars["soup", "test"]["t"] == soup["t"]
