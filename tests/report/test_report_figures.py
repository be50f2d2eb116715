"""Figures: what they draw of records, and that Vega-Lite takes it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import vl_convert

from ladle.report.about_soup import about_soup
from ladle.report.analyses import About, Landmark, Landscape, Surface
from ladle.report.collect import collect
from ladle.report.compose import compose
from ladle.report.contents import read_contents
from ladle.report.drawing import draw
from ladle.report.figures.coefficients import coefficients_by_tensor
from ladle.report.figures.hyperparameters import hyperparameters
from ladle.report.figures.learning import training_losses
from ladle.report.figures.line import line_from_base
from ladle.report.figures.plane import contours, levels_of, planes, regions
from ladle.report.figures.robustness import robustness
from ladle.report.figures.scales import log_ticks, span, whole_axis
from ladle.report.figures.story import steps_of, story
from ladle.report.figures.style import DARK, LIGHT, literal
from ladle.report.figures.variation import variation_of
from ladle.report.record import Metric, Tasting
from ladle.report.sweep_record import Run, Sweep
from ladle.report.table import Cell, Column, Row, Table
from reported import run_record, with_everything, write_sweep

ACCURACY = Metric("accuracy", higher_is_better=True, percent=True)
NLL = Metric("nll", higher_is_better=False, percent=False)
NOTHING = variation_of({})


def all_figures(folder):
    _, sections = compose(read_contents(folder))
    return [figure for section in sections for group in section.figures for figure in group]


def two_splits(models):
    """A table of (name, part, test, shift)."""
    rows = [
        Row(name, part, (name,), {"test": Cell(test), "far": Cell(shift)}, Cell(shift))
        for name, part, test, shift in models
    ]
    return Table((Column("test", "test", 9), Column("far", "shift", 9)), tuple(rows), None)


def scales_of(spec, axis):
    return [
        layer["encoding"][axis]["scale"] for layer in spec["layer"] if axis in layer["encoding"]
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return with_everything(tmp_path_factory.mktemp("soup") / "soup")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    runs = [run_record(i, 0.8 + i / 100) for i in range(4)]
    return write_sweep(tmp_path_factory.mktemp("sweep"), runs)


def test_every_figure_keeps_to_the_schema_of_vega_lite(folder, sweep):
    for figure in all_figures(folder) + all_figures(sweep):
        figure.chart.to_dict(validate=True)
        assert len(figure.columns) >= 2
        assert all(set(row) & set(figure.columns) for row in figure.rows)
        json.dumps(figure.spec(on_page=True), allow_nan=False)


def test_names_of_figures_differ_and_are_safe_as_files(folder):
    names = [figure.name for figure in all_figures(folder)]
    assert len(names) == len(set(names)) > 20
    assert all(name.replace("-", "").isalnum() for name in names)


def test_a_drawing_has_the_pages_colours_and_a_file_has_values(folder):
    for figure in all_figures(folder)[:2]:
        svg = draw(figure).svg
        assert 'fill="var(--' in svg or 'stroke="var(--' in svg
        assert "var(" not in literal(svg)
        assert LIGHT["soup"] in literal(svg) or LIGHT["best"] in literal(svg)


def test_both_themes_have_the_same_colours():
    assert LIGHT.keys() == DARK.keys()


def test_better_is_up_and_right_in_either_direction():
    table = two_splits([("bad", "best", 0.9, 0.9), ("good", "chosen", 0.2, 0.2)])
    for metric in (ACCURACY, NLL):
        figure = robustness(table, metric, NOTHING)
        assert figure is not None
        spec = figure.spec(on_page=True)
        for axis in ("x", "y"):
            assert {s["reverse"] for s in scales_of(spec, axis)} == {not metric.higher_is_better}


def test_a_model_far_outside_is_hollow_on_the_edge_and_named():
    near = [(f"run-{i}", "single", 0.8 + i / 100, 0.7 + i / 100) for i in range(8)]
    figure = robustness(two_splits([*near, ("lost", "base", 0.1, 0.1)]), ACCURACY, NOTHING)
    assert figure is not None
    assert [row["model"] for row in figure.rows if row["outside"]] == ["lost"]
    (scale,) = {json.dumps(s) for s in scales_of(figure.spec(on_page=True), "x")}
    assert json.loads(scale)["clamp"]
    assert json.loads(scale)["domain"][0] > 0.7
    assert any("lost (10.0\N{NARROW NO-BREAK SPACE}% test" in note for note in figure.notes)


def test_pointing_at_a_model_shows_its_hyperparameters(folder):
    figure = next(one for one in all_figures(folder) if one.name == "test-and-shift")
    row = next(row for row in figure.rows if row["model"] == "run-003")
    assert (row["h0"], row["h1"], row["h2"]) == (pytest.approx(1e-5 * 1.7**3), 3, True)
    points = figure.spec(on_page=True)["layer"][-1]
    shown = {one["field"]: one["title"] for one in points["encoding"]["tooltip"]}
    assert shown.items() >= {"h0": "lr", "h1": "epochs", "h2": "augment"}.items()


def test_what_varies_is_neither_the_seed_nor_a_name_for_each():
    models = {
        f"run-{i}": {"lr.max": 10.0**-i, "seed": i, "out": f"runs/{i}", "sam": 0.0, "opt": opt}
        for i, opt in enumerate(["adam", "sgd", "adam"])
    }
    assert variation_of(models).names == ("lr.max", "opt")
    assert variation_of(models).of("another") == {}


def test_what_was_drawn_evenly_on_a_logarithmic_scale_is_drawn_so():
    values = {
        f"run-{i}": {"lr": 10.0**-i, "drop": 0.01 + i / 10, "epochs": i % 3} for i in range(8)
    }
    scores = {name: 0.8 + i / 100 for i, name in enumerate(values)}
    found = hyperparameters(scores, ["run-0"], ("in", "out"), ACCURACY, variation_of(values))
    axes = {figure.title: figure.spec(on_page=True)["encoding"]["x"] for figure in found}
    assert axes["lr"]["scale"]["type"] == "log"
    assert "type" not in axes["drop"]["scale"]
    assert axes["epochs"]["type"] == "ordinal"


def test_the_story_keeps_the_best_so_far_and_tells_bounds_from_scores(folder):
    steps = steps_of(
        [
            Tasting("a", ("a",), 0.8, kept=True, reason="starts"),
            Tasting("b", ("b",), 0.7, kept=False, reason="alone"),
            Tasting("b", ("a", "b"), None, kept=False, reason="dropped", bound=0.79),
            Tasting("c", ("a", "c"), 0.82, kept=True, reason="better"),
            Tasting("d", ("a", "c", "d"), None, kept=False, reason="not finite"),
        ]
    )
    figure = story(steps, ACCURACY)
    assert [(row["candidate"], row["best"], row["outcome"]) for row in figure.rows] == [
        ("a", 0.8, "kept"),
        ("b", 0.8, "not kept"),
        ("c", 0.82, "kept"),
    ]
    assert [row["measured"] == "to the end" for row in figure.rows] == [True, False, True]


def test_a_candidate_far_below_is_an_arrow_at_the_foot():
    tried = [Tasting(f"m{i}", ("a", f"m{i}"), 0.8 + i / 1000, i == 5, "") for i in range(8)]
    collapsed = Tasting("x", ("a", "x"), 0.1, kept=False, reason="")
    figure = story(steps_of([*tried, collapsed]), ACCURACY)
    assert [row["candidate"] for row in figure.rows if "far worse" in str(row["outcome"])] == ["x"]
    assert [key.words for key in figure.keys] == [
        "kept",
        "not kept",
        "not kept, far worse",
        "best so far",
    ]


def test_one_failed_model_does_not_flatten_the_picture():
    # Quartiles of the nine are 2 and 6, so the fence ends at 6 + 3 * 4 = 18.
    low, high = span([0, 1, 2, 3, 4, 5, 6, 7, 100.0])
    assert low < 0
    assert 7 < high < 18


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0012, 0.09, [0.002, 0.005, 0.01, 0.02, 0.05]),
        (8e-6, 3e-3, [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3]),
        (1e-6, 0.5, [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1]),
    ],
)
def test_ticks_on_a_logarithmic_axis_are_few_and_round(low, high, ticks):
    assert log_ticks(low, high) == ticks


def test_counts_have_ticks_at_whole_numbers():
    assert whole_axis("", [1, 2, 3]).to_dict()["values"] == [1, 2, 3]
    assert whole_axis("", [1, 72]).to_dict()["values"] == list(range(1, 73, 8))


def test_ticks_that_are_given_are_drawn():
    """Vega leaves some out where there are more than it counts on."""
    losses = [0.7 - i / 100 for i in range(8)]
    run = Run("run-0000", {}, (), tuple(losses), None, "")
    sweep = Sweep("toy", None, "", (run,), {}, {})
    figure = training_losses(sweep, NOTHING)
    assert figure is not None
    shown = re.findall(r">(\d)</text>", draw(figure).svg)
    assert shown == list("12345678")


def test_shares_by_tensor_are_divided_and_in_the_order_of_layers(soup, lines, write):
    weights = {f"layer.{i}.weight": [1.0, 2.0, 3.0, 2.0, float(i)] for i in (10, 2)}
    soup["merge"] |= {"by_tensor": weights, "divisor": 2.0}
    figure = coefficients_by_tensor(collect(write(soup, lines)))
    assert figure is not None
    assert [row["share"] for row in figure.rows] == [0.5, 1, 1.5, 1, 1, 0.5, 1, 1.5, 1, 5]
    assert figure.rows[0]["tensor"] == "layer.2.weight"
    assert "run-000 3.000" in figure.notes[0]


def test_the_line_from_the_base_has_every_split(soup, lines, write):
    for alpha in ("0", "0.5", "1"):
        lines += [
            line | {"model": f"α = {alpha}", "kind": "curve"}
            for line in lines
            if line["model"] == "greedy soup"
        ]
    head, sections = about_soup(collect(write(soup, lines)))
    assert head.title == "Greedy soup of 5 of 8 models"
    (figure,) = next(s for s in sections if s.heading == "The line from the base").figures[0]
    assert {(row["alpha"], row["split"]) for row in figure.rows} == {
        (alpha, split) for alpha in (0, 0.5, 1) for split in ("held-out", "test", "mean shift")
    }


def test_without_a_line_there_is_no_such_figure():
    assert line_from_base(two_splits([("a", "single", 0.5, 0.5)]), ACCURACY) is None


def bowl(n=31):
    """x² + y² on a square of side 2, and a model at its lowest point."""
    axis = np.linspace(-1, 1, n)
    values = axis[None, :] ** 2 + axis[:, None] ** 2
    surface = Surface("train", "train", "loss", tuple(map(tuple, values.tolist())), ())
    about = About("", "0", "", "", "")
    here = Landmark("lowest", "model", 0.0, 0.0, None, 0.0, {})
    points = tuple(axis.tolist())
    return Landscape(about, (here,), points, points, (surface,), (), None, ())


def test_contours_of_a_bowl_are_circles():
    landscape = bowl()
    rows = contours(landscape, landscape.surfaces[0], [0.25, 0.64])
    radii = {round(math.hypot(row["a"], row["b"]), 2) for row in rows}
    assert radii <= {0.5, 0.49, 0.8, 0.79}
    assert len({row["line"] for row in rows}) == 2


def test_levels_of_a_bowl_are_evenly_spaced_rings():
    radii = np.sqrt(levels_of([float(v) for row in bowl().surfaces[0].values for v in row]))
    assert np.allclose(np.diff(radii), radii[0], rtol=0.02)


def test_regions_between_contours_fill_the_square_once():
    landscape = bowl()
    rows = regions(landscape, landscape.surfaces[0], [0.25, 0.64])
    areas, outlines = dict.fromkeys(range(3), 0.0), dict.fromkeys(range(3), 0)
    ring = []
    for row in rows:
        if row["a"] is not None:
            ring.append((row["a"], row["b"]))
            continue
        # The signed area: that of a hole, which runs the other way round, counts less.
        x, y = np.array(ring).T
        outlines[row["region"]] += 1
        areas[row["region"]] += (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        ring = []
    assert areas[0] == pytest.approx(math.pi * 0.25, rel=0.01)
    assert areas[1] == pytest.approx(math.pi * (0.64 - 0.25), rel=0.01)
    assert sum(areas.values()) == pytest.approx(4)
    # A ring has two outlines; beyond it, the four corners are apart or around a hole.
    assert (outlines[0], outlines[1]) == (1, 2)


def test_points_that_are_not_finite_leave_a_gap():
    landscape = bowl(11)
    values = [list(row) for row in landscape.surfaces[0].values]
    values[10][10] = None
    surface = replace(landscape.surfaces[0], values=tuple(map(tuple, values)))
    (figure,) = planes(replace(landscape, surfaces=(surface,)))
    assert len(figure.rows) == 120
    svg = vl_convert.vegalite_to_svg(figure.spec(on_page=False))
    assert "NaN" not in svg


def test_a_flat_plane_is_drawn_too():
    landscape = bowl(5)
    flat = replace(landscape.surfaces[0], values=((0.5,) * 5,) * 5)
    (figure,) = planes(replace(landscape, surfaces=(flat,)))
    assert "NaN" not in vl_convert.vegalite_to_svg(figure.spec(on_page=False))
