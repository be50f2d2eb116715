"""The page's tables as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ladle.report.record import Ingredient, Metric, Record, Tasting, Versus
from ladle.report.svg import mark, tag
from ladle.report.table import Cell, Column, Row, Table
from ladle.report.words import count, plain, probability, score, signed, test_and_p

NOT_MEASURED = '<td class="none"><span aria-label="not measured">–</span></td>'
_SIGNS = {"better": "▲", "worse": "▼"}
_LOOKED_AT = {"held-out": "yes, the recipe chose by it", "train": "no, it trained the ingredients"}
_MANY = 24


def results(table: Table, metric: Metric) -> str:
    """Every model against every split; the single models that are neither best nor chosen fold
    away."""
    shown = [row for row in table.rows if row.part != "single" or row == table.chosen]
    folded = [row for row in table.rows if row not in shown]
    first = _results(shown, table, metric, "Scores of the soup and its baselines")
    if not folded:
        return first
    name = f"The other {count(len(folded), 'single model')}" if shown else "The single models"
    rest = _results(folded, table, metric, name)
    return first + tag("details", tag("summary", escape(name)), rest)


def _results(rows: Sequence[Row], table: Table, metric: Metric, caption: str) -> str:
    shifts = table.role("shift")
    heads = [_head("model")]
    heads += [_head(c.name, *_under(c), class_="num") for c in table.columns]
    if len(shifts) > 1:
        heads.append(_head("mean of shifts", "plain mean", class_="num"))
    heads.append(_head("cost", "models run", class_="num"))
    body = "".join(_row(row, row == table.chosen, table, metric) for row in rows)
    return framed(caption, "".join(heads), body, "results broad" if len(heads) > 8 else "results")


def _row(row: Row, chosen: bool, table: Table, metric: Metric) -> str:
    cells = [_name(row)]
    cells += [_cell(row.cells.get(column.name), metric) for column in table.columns]
    if len(table.role("shift")) > 1:
        cells.append(_cell(row.mean, metric))
    cost = "k" if row.cost is None else str(row.cost)
    cells.append(tag("td", escape(cost), class_="num"))
    return tag("tr", *cells, class_="is-chosen" if chosen else "")


def _name(row: Row) -> str:
    notes = []
    if row.part == "best":
        notes.append("best single, by held-out")
    if len(row.members) > 1:
        notes.append(f"{len(row.members)} models")
    if row.part == "base":
        notes.append("before fine-tuning")
    note = tag("small", escape(", ".join(notes))) if notes else ""
    icon = tag(
        "svg", mark(row.part, 10, 10), viewBox="0 0 20 20", aria_hidden="true", class_="icon"
    )
    inner = tag("span", tag("span", escape(row.model)), note)
    return tag("th", tag("span", icon, inner, class_="model"), scope="row")


def _cell(cell: Cell | None, metric: Metric) -> str:
    if cell is None:
        return NOT_MEASURED
    parts = [tag("b", escape(score(cell.value, metric)))]
    if cell.low is not None and cell.high is not None:
        parts.append(tag("small", escape(interval(cell.low, cell.high, metric))))
    if cell.versus:
        parts.append(_mark(cell.versus, metric))
    return tag("td", *parts, class_="num")


def interval(low: float, high: float, metric: Metric) -> str:
    """`80.7–83.1`, in percent where the metric is."""
    if metric.percent:
        return f"{100 * low:.1f}–{100 * high:.1f}"
    return f"{plain(low)} to {plain(high)}" if low < 0 else f"{plain(low)}–{plain(high)}"


def _mark(versus: Versus, metric: Metric) -> str:
    known = versus.verdict in _SIGNS
    words = f"{_SIGNS[versus.verdict]} {versus.verdict}" if known else "≈ no difference"
    details = [f"against {versus.model}: {versus.verdict}"]
    if versus.difference is not None:
        details.append(f"difference {signed(versus.difference, metric)}")
    if versus.low is not None and versus.high is not None:
        details.append(f"from {signed(versus.low, metric)} to {signed(versus.high, metric)}")
    if versus.wins is not None and versus.losses is not None:
        details.append(f"{count(versus.wins, 'example')} won, {versus.losses:,} lost")
    if versus.p is not None:
        details.append(test_and_p(versus))
    title = ", ".join(part for part in details if part)
    class_ = f"versus {versus.verdict if known else 'same'}"
    p = tag("small", escape(probability(versus)))
    return tag("span", tag("span", escape(words), class_=class_), p, title=title)


def tastings(tried: Sequence[Tasting], metric: Metric) -> str:
    """Everything that was tried, in order, with its score and what came of it."""
    alone = [t for t in tried if len(t.members) == 1]
    together = [t for t in tried if len(t.members) > 1]
    heads = _head("step", class_="num") + _head("candidate")
    heads += _head("models tasted", class_="num") + _head("held-out", class_="num")
    heads += _head("outcome") + _head("reason")
    # The single models that were kept are the first steps of the chart, the others none.
    body, step = "", 0
    for name, group in (("Alone", alone), ("Together", together)):
        if group:
            body += tag("tr", tag("th", escape(name), colspan=6, scope="rowgroup"), class_="group")
        for tasting in group:
            counts = tasting.kept or group is together
            step += counts
            body += _tasting(str(step) if counts else "", tasting, metric)
    made = framed("Tastings on the held-out set", heads, body, "tastings")
    if len(tried) <= _MANY:
        return made
    return tag("details", tag("summary", f"All {len(tried)} tastings"), made)


def _tasting(step: str, tasting: Tasting, metric: Metric) -> str:
    shown = "not finite" if tasting.score is None else score(tasting.score, metric, 2)
    outcome = "● kept" if tasting.kept else "○ not kept"
    return tag(
        "tr",
        tag("td", step, class_="num quiet"),
        tag("th", escape(tasting.candidate), scope="row"),
        tag("td", str(len(tasting.members)), class_="num", title=", ".join(tasting.members)),
        tag("td", escape(shown), class_="num"),
        tag("td", outcome, class_="kept" if tasting.kept else "quiet"),
        tag("td", escape(tasting.reason), class_="reason"),
    )


def ingredients(record: Record) -> str:
    """The pool with each model's weight in the soup, the chosen ones first."""
    kept = {ingredient.name for ingredient in record.ingredients}
    rest = [ingredient for ingredient in record.pool if ingredient.name not in kept]
    heads = _head("model") + _head("weight", class_="num") + _head("path") + _head("sha256")
    heads += _head("size", class_="num")
    body = "".join(_ingredient(one, "by tensor") for one in record.ingredients)
    body += "".join(_ingredient(one, "not used") for one in rest)
    return framed("Ingredients", heads, body, "ingredients")


def _ingredient(one: Ingredient, without: str) -> str:
    weight = escape(without) if one.weight is None else f"{one.weight:.4f}".replace("-", "−")
    digest = tag("code", escape(one.sha256[:12]), title=one.sha256) if one.sha256 else "–"
    size = "–" if one.nbytes is None else _bytes(one.nbytes)
    return tag(
        "tr",
        tag("th", escape(one.name), scope="row"),
        tag("td", weight, class_="num quiet" if one.weight is None else "num"),
        tag("td", tag("code", escape(one.path)), class_="path"),
        tag("td", digest),
        tag("td", size, class_="num"),
        class_="quiet" if without == "not used" else "",
    )


def splits(record: Record) -> str:
    """The data sets, and which of them the choice has seen."""
    heads = _head("split") + _head("role") + _head("examples", class_="num")
    heads += _head("was it looked at to choose?") + _head("digest")
    body = "".join(
        tag(
            "tr",
            tag("th", escape(split.name), scope="row"),
            tag("td", escape(split.role)),
            tag("td", "–" if split.n is None else f"{split.n:,}", class_="num"),
            tag("td", _LOOKED_AT.get(split.role, "no")),
            tag("td", tag("code", escape(split.digest[:12]), title=split.digest)),
        )
        for split in record.splits
    )
    return framed("Data", heads, body, "splits")


def framed(caption: str, heads: str, body: str, class_: str) -> str:
    """A table that scrolls sideways in its own frame when the screen is narrow."""
    table = tag(
        "table",
        tag("caption", escape(caption)),
        tag("thead", tag("tr", heads)),
        tag("tbody", body),
        class_=class_,
    )
    frame = "frame broad" if "broad" in class_ else "frame"
    return tag("div", table, class_=frame, role="region", tabindex="0", aria_label=caption)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values as a definition list."""
    rows = (tag("dt", escape(name)) + tag("dd", escape(value)) for name, value in pairs if value)
    return tag("dl", *rows)


def _head(name: str, *under: str, class_: str = "") -> str:
    small = "".join(tag("small", escape(words)) for words in under)
    whole = tag("span", escape(name), class_="whole" if len(name) <= 10 else "")
    return tag("th", whole, small, scope="col", class_=class_)


def _under(column: Column) -> list[str]:
    words = [column.role] if column.role == "shift" and column.name != "shift" else []
    return words + ([f"n\xa0=\xa0{column.n:,}"] if column.n else [])


def _bytes(nbytes: int) -> str:
    size, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
