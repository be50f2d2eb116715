"""What the page says and shows of landscapes and comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from ladle.report.analyses import About, Comparison, Landscape, Path
from ladle.report.figures.comparison_style import shown_splits, the
from ladle.report.figures.landscape_style import is_share
from ladle.report.figures.matrix import matrices
from ladle.report.figures.pairs import (
    angle_against_advantage,
    formula_against_truth,
    soup_against_ensemble,
)
from ladle.report.figures.path import paths
from ladle.report.figures.plane import planes
from ladle.report.figures.sizes import calibration_by_size, scores_by_size
from ladle.report.page import Head, Section
from ladle.report.words import count, listed, plain


def about_landscape(landscape: Landscape) -> tuple[Head, Section]:
    """Verdict and figures of a plane and paths."""
    names = [one.name for one in landscape.landmarks if one.role != "soup"]
    if landscape.surfaces:
        title = f"Plane through {listed(names)}"
    else:
        title = f"Path between {listed([n for path in landscape.paths for n in path.between])}"
    words = [sentence for path in landscape.paths for sentence in _barriers(path)]
    words += _sampled(landscape.samples)
    groups = [planes(landscape), paths(landscape)]
    values = {"words": words, "notes": [*_planes(landscape), *landscape.remarks]}
    section = Section(title, "plots.html.j2", [group for group in groups if group], values)
    return _head(landscape.about, title, words), section


def about_comparison(comparison: Comparison) -> tuple[Head, list[Section]]:
    """Verdict and figures of a comparison of soups and ensembles."""
    title = f"Soups and ensembles of {count(len(comparison.models), 'model')}"
    words = [*_compared(comparison), *_sampled(comparison.samples)]
    pairs = [
        soup_against_ensemble(comparison),
        formula_against_truth(comparison),
        angle_against_advantage(comparison),
    ]
    groups = [
        [figure for figure in pairs if figure is not None],
        matrices(comparison),
        scores_by_size(comparison),
        calibration_by_size(comparison),
    ]
    values = {"words": words, "notes": comparison.remarks}
    section = Section(title, "plots.html.j2", [group for group in groups if group], values)
    return _head(comparison.about, title, words), [section]


def making_of_analyses(abouts: Sequence[About]) -> Section:
    """Commands, times and versions."""
    groups = [
        {
            "command": one.command,
            "facts": [
                ("folder", one.place),
                ("task", one.task),
                ("created", one.created),
                ("ladle", one.ladle),
            ],
        }
        for one in abouts
    ]
    heading = "How landscapes and comparisons were made"
    return Section(heading, "facts.html.j2", values={"groups": groups})


def _head(about: About, title: str, words: Sequence[str]) -> Head:
    kicker = " · ".join(part for part in (about.task and f"task {about.task}", about.created[:10]))
    return Head(title, kicker, words, foot=f"Written by ladle {about.ladle} from its records.")


def _sampled(samples: int | None) -> list[str]:
    if samples is None:
        return []
    return [
        f"Everything was measured on {samples:,} examples of each split, so small differences are "
        "noise."
    ]


def _barriers(path: Path) -> list[str]:
    """What rises on the way beyond the straight line, and what does not."""
    flat, high = [], []
    mean = any(one.role == "mean-shift" for one in path.barriers)
    for one in path.barriers:
        if one.height is None or (mean and one.role == "shift"):
            continue
        share = any(
            is_share(surface)
            for surface in path.surfaces
            if (surface.split, surface.quantity) == (one.split, one.quantity)
        )
        what = f"{one.split} {one.quantity}"
        if one.height <= 0:
            flat.append(what)
            continue
        height = f"{100 * one.height:.1f} points" if share else plain(one.height)
        where = "" if one.at is None else f" at {one.at:.2f} of it"
        high.append(f"{what} by {height}{where}")
    way = f"On the way between {' and '.join(path.between)}"
    if not high:
        return [f"{way} there is no barrier in {listed(flat)}."] if flat else []
    words = f"{way} this rises above the straight line: {listed(high)}"
    return [f"{words}; there is no barrier in {listed(flat)}." if flat else f"{words}."]


def _planes(landscape: Landscape) -> list[str]:
    if not landscape.surfaces:
        return []
    points = len(landscape.a) * len(landscape.b)
    return [
        f"The {points:,} points of the plane are mixtures of its models; distances in the pictures "
        "are distances between weights. Lines join points of equal value. What is not drawn here "
        "is in landscape.json."
    ]


def _compared(comparison: Comparison) -> list[str]:
    words = []
    for split in shown_splits(comparison):
        found = comparison.agreements.get(split)
        if found is None:
            continue
        if found.soups.pearson is not None:
            words.append(
                f"On {the(split)}, soups and ensembles of the same two models correlate by "
                f"{found.soups.pearson:.2f} over {count(found.soups.pairs, 'pair')}; the "
                f"formula has the sign of the true difference in {found.formula.same_sign} of "
                f"{found.formula.pairs}."
            )
    basins = len(set(comparison.clusters))
    if basins == 1:
        words.append("No barrier parts the models: all lie in one basin.")
    elif basins > 1:
        words.append(f"Barriers part the models into {basins} basins.")
    return words
