"""The page: verdict, table, scatter, the story of the choice, how it was made."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from html import escape
from importlib.resources import files

from ladle.predictions.uncertainty import CONFIDENCE
from ladle.report import tables
from ladle.report.plots import NARROW, WIDE, Bar, Point, Step, dots, left_out, scatter, steps
from ladle.report.record import Metric, Record
from ladle.report.svg import mark, tag
from ladle.report.table import Part, Row, Table, soup_name, tabulate
from ladle.report.words import distance, listed, score, title, verdict

# Nothing is loaded and nothing runs, whatever a name in the record holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(record: Record) -> str:
    """The whole page as one HTML text that needs no other file."""
    table = tabulate(record)
    sections = [_head(record, table)]
    if record.metric is not None:
        sections += [
            _results(table, record.metric),
            _robustness(table, record.metric),
            _story(record, table, record.metric),
        ]
    sections.append(_making(record))
    style = files("ladle.report").joinpath("style.css").read_text(encoding="utf-8")
    foot = f"Written by ladle {record.ladle} from soup.json and evaluations.jsonl."
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            tag("title", escape(title(record))),
            tag("style", style),
            "</head>",
            "<body>",
            tag("main", *sections),
            tag("footer", tag("p", escape(foot))),
            "</body>",
            "</html>",
            "",
        ]
    )


def _head(record: Record, table: Table) -> str:
    about = [record.task and f"task {record.task}", record.created[:10]]
    if record.metric is not None:
        about.insert(1, record.metric.name + _lower_note(record.metric))
    kicker = " · ".join(part for part in about if part)
    # "n =" at the end of a line and "800" on the next would be hard to read.
    joined = [
        s.replace(" = ", "\xa0=\xa0").replace(" < ", "\xa0<\xa0") for s in verdict(record, table)
    ]
    lead = [tag("p", escape(sentence)) for sentence in joined]
    return tag(
        "header",
        tag("p", escape(kicker), class_="kicker"),
        tag("h1", escape(title(record))),
        tag("div", *lead, class_="lead"),
        _caveats(record),
    )


def _caveats(record: Record) -> str:
    items = [tag("li", escape(sentence)) for sentence in record.caveats]
    return tag("ul", *items, class_="caveats", aria_label="Caveats") if items else ""


def _results(table: Table, metric: Metric) -> str:
    if not table.rows:
        return _section("Results", tag("p", "No model was measured."))
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
    note = tag("p", escape(" ".join(notes)), class_="note")
    return _section("Results", tables.results(table, metric) + note)


def _robustness(table: Table, metric: Metric) -> str:
    test, shifts = table.role("test"), table.role("shift")
    if not test:
        return ""
    if not shifts:
        bars = _bars(table, test[0].name)
        drawn = _both(lambda width: dots(bars, metric, test[0].name, width))
        note = "No split with a distribution shift was measured, so robustness is not known."
        return _section("Test scores", drawn + tag("p", note, class_="note"))
    name = "mean shift" if len(shifts) > 1 else shifts[0].name
    points = [
        Point(row.model, row.part, row.cells[test[0].name].value, row.mean.value)
        for row in table.rows
        if test[0].name in row.cells and row.mean is not None
    ]
    if len(points) < 2:
        return ""
    names = (test[0].name, name)
    drawn = _both(lambda width: scatter(points, metric, names, width))
    notes = ["Better is up and to the right."]
    if any(point.part == "best" for point in points):
        notes.append("The dashed lines cross at the best single model.")
    outside = [
        f"{p.name} ({score(p.x, metric)} {names[0]}, {score(p.y, metric)} {names[1]})"
        for p in left_out(points, metric)
    ]
    if outside:
        notes.append(f"Far from the others and drawn hollow on the edge: {listed(outside)}.")
    caption = tag("p", escape(" ".join(notes)), class_="note")
    return _section("Test and shift", _legend({p.part for p in points}) + drawn + caption)


_TASTED = "Candidates were tasted on the held-out set, in this order."
_HOW = {
    "greedy": "Each candidate was added to what had been kept so far and the result was tasted on "
    "the held-out set.",
    "learned": "The weights were learned on a part of the held-out set; now and then they were "
    "tasted on the rest of it, and those with the lowest loss there were kept. At last the soup "
    "was measured on all of the set, where it has to be no worse than the best single model.",
}
"""How the candidates of a recipe came about."""


def _story(record: Record, table: Table, metric: Metric) -> str:
    tried = [t for t in record.tastings if len(t.members) > 1]
    listing = tables.tastings(record.tastings, metric) if record.tastings else ""
    if len(tried) < 2:
        return _singles(table, metric, listing)
    first = [t for t in record.tastings if len(t.members) == 1 and t.kept]
    reached = [(t, t.bound if t.score is None else t.score) for t in [*first, *tried]]
    order = [Step(t.candidate, value, t.kept) for t, value in reached if value is not None]
    kept = sum(step.kept for step in order)
    words = (
        f"{_HOW.get(record.recipe, _TASTED)} Filled dots were kept ({kept}), hollow ones were not "
        f"({len(order) - kept}); the line is the best so far."
    )
    words += _repeats(record, metric)
    if any(t.score is None and t.bound is not None for t in tried):
        words += " Some were dropped early, and are drawn at the best that they could have reached."
    if not metric.higher_is_better:
        words += " Lower is better: the axis is reversed, so better is up."
    drawn = _both(lambda width: steps(order, metric, width)) if order else ""
    body = tag("p", escape(words)) + drawn + listing
    return _section(f"How the {soup_name(record)} was chosen", body)


def _repeats(record: Record, metric: Metric) -> str:
    """What is to be known of a soup that is the best of several."""
    scores = record.repeats
    if len(scores) < 2:
        return ""
    mean, spread = statistics.fmean(scores), statistics.stdev(scores)
    return (
        f" This is the best of {len(scores)} random orders, whose scores are "
        f"{score(mean, metric, 2)} on average with a standard deviation of "
        f"{distance(spread, metric)}; to be the best of several flatters a held-out score."
    )


def _singles(table: Table, metric: Metric, listing: str) -> str:
    held_out = table.role("held-out")
    bars = _bars(table, held_out[0].name) if held_out else []
    if not bars:
        words = "No held-out scores were recorded, so nothing is known about how it was chosen."
        return _section("Held-out scores", tag("p", words) + listing)
    drawn = _both(lambda width: dots(bars, metric, held_out[0].name, width))
    return _section("Held-out scores", _legend({bar.part for bar in bars}) + drawn + listing)


def _making(record: Record) -> str:
    options = ", ".join(f"{key} = {value}" for key, value in record.options.items())
    merge = ", ".join([record.merge, *(f"{k} = {v}" for k, v in record.merge_options.items())])
    data = tables.splits(record) if record.splits else tag("p", "No data splits are recorded.")
    pairs = [
        ("recipe", f"{record.recipe} ({options})" if options else record.recipe),
        ("merge", merge),
        ("task", " ".join([record.task, record.task_digest[:12]]).strip()),
        ("seed", "" if record.seed is None else str(record.seed)),
        ("created", record.created),
        ("ladle", record.ladle),
        *record.versions.items(),
    ]
    if record.other_metrics:
        pairs.append(("also in evaluations.jsonl", ", ".join(record.other_metrics)))
    command = ""
    if record.command:
        command = tag("h3", "Command") + tag("pre", tag("code", escape(record.command)))
    body = tables.ingredients(record) + data + command + tables.facts(pairs)
    return _section("How it was made", body)


def _bars(table: Table, name: str) -> list[Bar]:
    best_first: list[Row] = [row for row in table.rows if name in row.cells]
    return [
        Bar(row.model, row.part, cell.value, cell.low, cell.high)
        for row in best_first
        for cell in (row.cells[name],)
    ]


def _legend(parts: set[Part]) -> str:
    words: dict[Part, str] = {
        "single": "single model",
        "best": "best single",
        "uniform": "uniform soup",
        "soup": "other soup",
        "chosen": "this soup",
        "ensemble": "ensemble",
        "curve": "on the line",
        "base": "base",
    }
    items = [
        tag(
            "li",
            tag("svg", mark(part, 10, 10), viewBox="0 0 20 20", aria_hidden="true", class_="icon"),
            escape(name),
        )
        for part, name in words.items()
        if part in parts
    ]
    return tag("ul", *items, class_="legend")


def _both(draw: Callable[[int], str]) -> str:
    """Drawn for screens and for phones; the style sheet shows the one that fits."""
    return tag("figure", draw(WIDE), draw(NARROW))


def _section(heading: str, body: str) -> str:
    return tag("section", tag("h2", escape(heading)), body)


def _lower_note(metric: Metric) -> str:
    return "" if metric.higher_is_better else " (lower is better)"
