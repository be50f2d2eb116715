"""Numbers and sentences: what a record says, in plain English. Text, not yet escaped."""

from __future__ import annotations

from collections.abc import Sequence

from ladle.report.record import Metric, Record, Tasting, Versus
from ladle.report.table import Cell, Column, Row, Table, soup_name

MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NARROW NO-BREAK SPACE}"
_NO_DIFFERENCE = "no difference that this set can show"


def score(value: float, metric: Metric, digits: int = 1) -> str:
    """`81.9 %` for an accuracy, else four significant digits."""
    if metric.percent:
        return f"{100 * value:.{digits}f}{NO_BREAK}%".replace("-", MINUS)
    return plain(value)


def plain(value: float) -> str:
    """Four significant digits, large numbers whole."""
    if abs(value) >= 10_000:
        return f"{value:,.0f}".replace("-", MINUS)
    return f"{value:#.4g}".rstrip(".").replace("-", MINUS)


def distance(difference: float, metric: Metric) -> str:
    """The size of a difference: `0.7 points`; two digits more where one would hide it."""
    if not metric.percent:
        return plain(abs(difference))
    points = 100 * abs(difference)
    digits = 1 if points >= 0.05 else 3 if points < 0.005 else 2
    return f"{points:.{digits}f} points"


def signed(difference: float, metric: Metric) -> str:
    sign = "+" if difference > 0 else MINUS if difference < 0 else "±"
    return sign + distance(difference, metric)


def probability(versus: Versus) -> str:
    if versus.p is None:
        return ""
    return "p < 0.001" if versus.p < 0.001 else f"p = {versus.p:.2g}"


def test_and_p(versus: Versus) -> str:
    """`exact McNemar p = 0.02`."""
    return f"{versus.test} {probability(versus)}".strip()


def interval(low: float, high: float, metric: Metric) -> str:
    """`80.7–83.1`, in percent where the metric is."""
    if metric.percent:
        return f"{100 * low:.1f}–{100 * high:.1f}"
    return f"{plain(low)} to {plain(high)}" if low < 0 else f"{plain(low)}–{plain(high)}"


def evidence(versus: Versus, metric: Metric) -> str:
    """All that is known of a paired comparison, in one line."""
    details = [f"against {versus.model}: {versus.verdict}"]
    if versus.difference is not None:
        details.append(f"difference {signed(versus.difference, metric)}")
    if versus.low is not None and versus.high is not None:
        details.append(f"from {signed(versus.low, metric)} to {signed(versus.high, metric)}")
    if versus.wins is not None and versus.losses is not None:
        details.append(f"{count(versus.wins, 'example')} won, {versus.losses:,} lost")
    if versus.p is not None:
        details.append(test_and_p(versus))
    return ", ".join(details)


def tasted(tasting: Tasting, metric: Metric) -> str:
    """The score of a candidate, or what it could at best have been."""
    if tasting.score is not None:
        return score(tasting.score, metric, 2)
    if tasting.bound is not None:
        return f"{'≤' if metric.sign > 0 else '≥'} {score(tasting.bound, metric, 2)}"
    return "not finite"


def weight(share: float | None) -> str:
    """The share of an ingredient in the soup."""
    return "by tensor" if share is None else f"{share:.4f}".replace("-", MINUS)


def size(nbytes: int) -> str:
    """`90.9 MB`."""
    amount, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def title(record: Record) -> str:
    """`Greedy soup of 5 of 8 models`."""
    name = soup_name(record)
    names = {ingredient.name for ingredient in record.pool}
    kept = len(names & {ingredient.name for ingredient in record.ingredients})
    offered = len(record.pool)
    if record.recipe == "best":
        return f"Best single model of {offered}"
    of = f"{kept} of {count(offered, 'model')}" if offered > kept else count(kept, "model")
    base = " and the base" if any(one.name not in names for one in record.ingredients) else ""
    return f"{name[:1].upper()}{name[1:]} of {of}{base}"


def verdict(record: Record, table: Table) -> list[str]:
    """What came out, in a few sentences: test first, then the shifts, then what is not known,
    then the other baselines. Says better, worse or no difference only where the record does."""
    if record.metric is None:
        return [
            f"This is the {_lower(title(record))}. Nothing was evaluated when it was made, so "
            "whether it is better than its ingredients is not known."
        ]
    chosen, best, metric = table.chosen, table.of("best"), record.metric
    if chosen is None:
        return [
            f"The {_lower(title(record))} was not evaluated itself; below is what was measured."
        ]
    sentences = []
    measured = [c for c in table.role("test") + table.role("held-out") if c.name in chosen.cells]
    if measured:
        sentences.append(_first(record, metric, chosen, best, measured[0]))
        if measured[0].role == "held-out":
            sentences.append(
                "The soup was chosen on this held-out data, so the number is optimistic; "
                "it was not measured on test data."
            )
    shifts = [column for column in table.role("shift") if column.name in chosen.cells]
    if shifts:
        sentences.append(_shifts(record, chosen, best, shifts, metric))
    elif any(column.role == "test" for column in measured):
        sentences.append("It was not measured under distribution shift.")
    sentences += _beside(table, metric, measured[:1])
    return sentences or [f"The {_lower(title(record))} has no finite score."]


def _first(record: Record, metric: Metric, chosen: Row, best: Row | None, column: Column) -> str:
    cell = chosen.cells[column.name]
    what = "" if metric.percent else f" ({metric.name}{_direction(metric)})"
    kept_best = _is_best(record, chosen, best)
    subject = f"The {_lower(title(record))}"
    if record.recipe == "best":
        cut = f", truncated to rank {record.rank}" if record.rank is not None else ""
        subject += f" is {listed(chosen.members)}{cut}; it"
    elif record.rank is not None:
        subject += f", truncated to rank {record.rank},"
    elif kept_best and best is not None:
        subject += f" is the best single model ({best.model}) itself; it"
    sentence = f"{subject} scores {score(cell.value, metric)}{what} on {column.name}"
    size = f"n = {column.n:,}" if column.n else ""
    if kept_best or best is None:
        return f"{sentence}, {size}." if size else f"{sentence}."
    gap = _gap(cell, best.cells.get(column.name), metric)
    against = f"the best single model ({best.model})"
    sentence += f", {gap} {against}" if gap else f", compared with {against}"
    if cell.versus is None:
        return f"{sentence}{', ' + size if size else ''}; the difference was not tested."
    return f"{sentence}: {_outcome(cell.versus, size)}."


def _is_best(record: Record, chosen: Row, best: Row | None) -> bool:
    """Whether the soup is the best single model as it was given."""
    return best is not None and chosen.members == best.members and record.rank is None


def _shifts(
    record: Record, chosen: Row, best: Row | None, shifts: Sequence[Column], metric: Metric
) -> str:
    one = chosen.cells[shifts[0].name] if len(shifts) == 1 else None
    whole = one or chosen.mean
    other: Cell | None = None
    if best is not None:
        other = best.cells.get(shifts[0].name) if one else best.mean
    start = f"Over the {len(shifts)} shifts its mean"
    start = f"On the shift {shifts[0].name} it" if one else start
    if whole is None:
        return f"Of the shifts: {_apart(chosen, shifts)}."
    start += f" {'scores' if one else 'is'} {score(whole.value, metric)}"
    if best is None or _is_best(record, chosen, best):
        return f"{start}."
    gap = _gap(whole, other, metric)
    start += f", {gap} the best single model" if gap else ""
    if one:
        size = f"n = {shifts[0].n:,}" if shifts[0].n else ""
        tested = one.versus and _outcome(one.versus, size)
        return f"{start}: {tested}." if tested else f"{start}; the difference was not tested."
    if whole.versus is None:
        return f"{start}; one by one: {_apart(chosen, shifts)}."
    tested = _outcome(whole.versus, "")
    return f"{start}: {tested}. One by one: {_apart(chosen, shifts)}."


def _beside(table: Table, metric: Metric, measured: Sequence[Column]) -> list[str]:
    """`For comparison, against the same best single model: the uniform soup ...; ...`."""
    groups = []
    for part in ("uniform", "ensemble"):
        row = table.of(part)
        if row is None:
            continue
        cells = [(f"on {c.name}", row.cells[c.name]) for c in measured if c.name in row.cells]
        if row.mean and row.mean.versus:
            cells.append(("over the shifts", row.mean))
        shown = [
            f"{score(cell.value, metric)} {where} ({versus.verdict}, {probability(versus)})"
            for where, cell in cells
            if (versus := cell.versus)
        ]
        if shown:
            groups.append(f"the {row.model} {listed(shown)}")
    if not groups:
        return []
    return [f"For comparison, each against the best single model: {'; '.join(groups)}."]


def _apart(chosen: Row, shifts: Sequence[Column]) -> str:
    """`better on a (p = 0.01, n = 900); worse on b (...)`: each shift under its verdict."""
    groups = []
    for name in ("better", "worse", _NO_DIFFERENCE):
        same = [_evidence(c, chosen) for c in shifts if _verdict_of(chosen.cells[c.name]) == name]
        if same:
            shown = name if len(same) == 1 else name.replace("this set", "these sets")
            groups.append(f"{shown} on {listed(same)}")
    untested = [c.name for c in shifts if chosen.cells[c.name].versus is None]
    if untested:
        groups.append(f"not tested on {listed(untested)}")
    return "; ".join(groups)


def _outcome(versus: Versus, size: str) -> str:
    return ", ".join(part for part in (versus.verdict, test_and_p(versus), size) if part)


def _evidence(column: Column, row: Row) -> str:
    versus = row.cells[column.name].versus
    p = probability(versus) if versus else ""
    size = f"n = {column.n:,}" if column.n else ""
    inside = ", ".join(part for part in (p, size) if part)
    return f"{column.name} ({inside})" if inside else column.name


def _verdict_of(cell: Cell) -> str:
    return cell.versus.verdict if cell.versus else ""


def _gap(cell: Cell, other: Cell | None, metric: Metric) -> str:
    """`0.7 points above`, from the two scores, or from the comparison when one is missing."""
    if other is not None:
        difference: float | None = cell.value - other.value
    else:
        difference = cell.versus.difference if cell.versus else None
    if difference is None:
        return ""
    if abs(difference) < 1e-12:
        return "the same as"
    return f"{distance(difference, metric)} {'above' if difference > 0 else 'below'}"


def _direction(metric: Metric) -> str:
    return "" if metric.higher_is_better else ", lower is better"


def capitalised(words: str) -> str:
    """The words with a capital at the start."""
    return words[:1].upper() + words[1:]


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
