"""What the page says and shows of a soup."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ladle.predictions.uncertainty import CONFIDENCE
from ladle.report.figures.coefficients import coefficients, coefficients_by_tensor
from ladle.report.figures.figure import Figure
from ladle.report.figures.hyperparameters import hyperparameters
from ladle.report.figures.line import line_from_base
from ladle.report.figures.reliability import reliability
from ladle.report.figures.robustness import robustness
from ladle.report.figures.scores import scores
from ladle.report.figures.story import Step, steps_of, story
from ladle.report.figures.variation import Variation, variation_of
from ladle.report.page import Head, Section
from ladle.report.record import Metric, Record, Tasting
from ladle.report.table import Row, Table, soup_name, tabulate
from ladle.report.words import count, distance, score, title, verdict

_LOOKED_AT = {"held-out": "yes, the recipe chose by it", "train": "no, it trained the ingredients"}
_TASTED = "Candidates were tasted on the held-out set, in this order."
_HOW = {
    "greedy": "Each candidate was added to what had been kept so far and the result was tasted on "
    "the held-out set.",
    "learned": "The weights were learned on a part of the held-out set; now and then they were "
    "tasted on the rest of it, and those with the lowest loss there were kept. At last the soup "
    "was measured on all of the set, where it has to be no worse than the best single model.",
}
"""How the candidates of a recipe came about."""


def about_soup(record: Record) -> tuple[Head, list[Section]]:
    """Verdict, tables and figures of a soup, but for how it was made: see `making`."""
    table, metric = tabulate(record), record.metric
    sections: list[Section | None] = []
    if metric is not None:
        variation = variation_of({one.name: one.hyperparameters for one in record.pool})
        sections += [
            _results(table, metric),
            _robustness(table, metric, variation),
            _choice(record, table, metric, variation),
            _plots("Shares of the soup", coefficients(record), coefficients_by_tensor(record)),
            _plots("The line from the base", line_from_base(table, metric)),
            _hyperparameters(record, table, metric, variation),
            _plots("Calibration", reliability(record, table)),
        ]
    else:
        sections.append(
            _plots("Shares of the soup", coefficients(record), coefficients_by_tensor(record))
        )
    return _head(record, table), [section for section in sections if section is not None]


def making(record: Record) -> Section:
    """Ingredients, data, command and versions."""
    options = ", ".join(f"{key} = {value}" for key, value in record.options.items())
    merge = ", ".join([record.merge, *(f"{k} = {v}" for k, v in record.merge_options.items())])
    facts = [
        ("recipe", f"{record.recipe} ({options})" if options else record.recipe),
        ("merge", merge),
        ("task", " ".join([record.task, record.task_digest[:12]]).strip()),
        ("seed", "" if record.seed is None else str(record.seed)),
        ("created", record.created),
        ("ladle", record.ladle),
        *record.versions.items(),
        ("also in evaluations.jsonl", ", ".join(record.other_metrics)),
    ]
    kept = {one.name for one in record.ingredients}
    return Section(
        "How it was made",
        "making.html.j2",
        values={
            "record": record,
            "unused": [one for one in record.pool if one.name not in kept],
            "looked_at": _LOOKED_AT,
            "facts": facts,
        },
    )


def _head(record: Record, table: Table) -> Head:
    about = [record.task and f"task {record.task}", record.created[:10]]
    if record.metric is not None:
        about.insert(1, record.metric.name + _lower_note(record.metric))
    return Head(
        title=title(record),
        kicker=" · ".join(part for part in about if part),
        verdict=verdict(record, table),
        caveats=record.caveats,
        foot=f"Written by ladle {record.ladle} from soup.json and evaluations.jsonl.",
    )


def _plots(
    heading: str,
    *figures: Figure | None,
    words: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Section | None:
    shown = [figure for figure in figures if figure is not None]
    if not shown and not words:
        return None
    return Section(
        heading,
        "plots.html.j2",
        [shown] if shown else [],
        {"words": words, "notes": notes},
    )


def _results(table: Table, metric: Metric) -> Section:
    """Every model against every split. What folds away are points of a line, and single models
    that are neither best nor chosen."""
    curve = [row for row in table.rows if row.part == "curve"]
    rest = [row for row in table.rows if row.part == "single" and row != table.chosen]
    main = [row for row in table.rows if row not in curve and row not in rest]
    others = f"The other {count(len(rest), 'single model')}" if main else "The single models"
    folded = [(f"The {count(len(curve), 'point')} of the line", curve), (others, rest)]
    return Section(
        "Results",
        "results.html.j2",
        values={
            "table": table,
            "metric": metric,
            "shown": [("Scores of the soup and its baselines", main)] if main else [],
            "folded": [(caption, rows) for caption, rows in folded if rows],
            "notes": _notes(table, metric),
        },
    )


def _notes(table: Table, metric: Metric) -> list[str]:
    notes = [f"Scores are {metric.name}{' in %' if metric.percent else _lower_note(metric)}."]
    cells = [cell for row in table.rows for cell in row.cells.values()]
    if any(cell.low is not None for cell in cells):
        notes.append(f"Below each stands its {CONFIDENCE:.0%} confidence interval.")
    if table.role("held-out"):
        notes.append(
            "The recipe chose by the held-out column, so that column is optimistic for what it "
            "chose: judge by the others."
        )
    if any(cell.versus for cell in cells):
        notes.append(
            "▲ better, ▼ worse, ≈ no difference that this set can show: each against the best "
            "single model on the same examples."
        )
    if len(table.role("shift")) > 1:
        notes.append("The mean of shifts is their plain mean, whatever their sizes.")
    if not table.role("test") and not table.role("shift"):
        notes.append("Nothing was measured on test data or under shift.")
    notes.append("Cost is the number of models that one prediction runs.")
    return notes


def _robustness(table: Table, metric: Metric, variation: Variation) -> Section | None:
    test = table.role("test")
    if not test:
        return None
    if table.role("shift"):
        return _plots("Test and shift", robustness(table, metric, variation))
    return _plots(
        "Test scores",
        scores(table, test[0].name, metric, variation),
        notes=["No split with a distribution shift was measured, so robustness is not known."],
    )


def _choice(record: Record, table: Table, metric: Metric, variation: Variation) -> Section:
    tried = [t for t in record.tastings if len(t.members) > 1]
    steps = steps_of(record.tastings)
    values = {
        "metric": metric,
        "tastings": _numbered(record.tastings),
        "tried": len(record.tastings),
        "notes": (),
    }
    if len(tried) >= 2:
        words = _told(record, tried, steps, metric)
        figures = [[story(steps, metric)]] if steps else []
        heading = f"How the {soup_name(record)} was chosen"
        return Section(heading, "choice.html.j2", figures, values | {"words": [words]})
    held_out = table.role("held-out")
    figure = scores(table, held_out[0].name, metric, variation) if held_out else None
    unknown = "No held-out scores were recorded, so nothing is known about how it was chosen."
    return Section(
        "Held-out scores",
        "choice.html.j2",
        [[figure]] if figure else [],
        values | {"words": [] if figure else [unknown]},
    )


def _numbered(tastings: Sequence[Tasting]) -> list[tuple[str, list[tuple[str, Tasting]]]]:
    """Alone and together. The single models that were kept are the first steps of the chart, the
    others none."""
    alone = [t for t in tastings if len(t.members) == 1]
    together = [t for t in tastings if len(t.members) > 1]
    numbers = iter(range(1, len(tastings) + 1))
    return [
        ("Alone", [(str(next(numbers)) if t.kept else "", t) for t in alone]),
        ("Together", [(str(next(numbers)), t) for t in together]),
    ]


def _told(record: Record, tried: Sequence[Tasting], steps: Sequence[Step], metric: Metric) -> str:
    kept = sum(step.kept for step in steps)
    words = (
        f"{_HOW.get(record.recipe, _TASTED)} Filled dots were kept ({kept}), hollow ones were not "
        f"({len(steps) - kept}); the line is the best so far."
    )
    words += _repeats(record, metric)
    if any(t.score is None and t.bound is not None for t in tried):
        words += " Some were dropped early, and are drawn at the best that they could have reached."
    if not metric.higher_is_better:
        words += " Lower is better: the axis is reversed, so better is up."
    return words


def _repeats(record: Record, metric: Metric) -> str:
    """What is to be known of a soup that is the best of several."""
    found = record.repeats
    if len(found) < 2:
        return ""
    mean, spread = statistics.fmean(found), statistics.stdev(found)
    return (
        f" This is the best of {len(found)} random orders, whose scores are "
        f"{score(mean, metric, 2)} on average with a standard deviation of "
        f"{distance(spread, metric)}; to be the best of several flatters a held-out score."
    )


def _hyperparameters(
    record: Record, table: Table, metric: Metric, variation: Variation
) -> Section | None:
    held_out = table.role("held-out")
    if not held_out:
        return None
    name = held_out[0].name
    alone: list[Row] = [row for row in table.rows if row.part in ("single", "best", "chosen")]
    found = {row.model: row.cells[name].value for row in alone if name in row.cells}
    kept = {one.name for one in record.ingredients}
    figures = hyperparameters(found, kept, ("in the soup", "not in it"), metric, variation)
    return _plots(
        "Hyper-parameters",
        *figures,
        words=["What the ingredients were trained with, and how they do on held-out data."]
        if figures
        else [],
    )


def _lower_note(metric: Metric) -> str:
    return "" if metric.higher_is_better else " (lower is better)"
