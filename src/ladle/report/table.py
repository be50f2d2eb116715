"""The record as a table: one row per model, one column per split, and which rows matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ladle.report.record import Record, Versus

Part = Literal["base", "best", "uniform", "soup", "chosen", "ensemble", "curve", "single"]
_ORDER: tuple[Part, ...] = (
    "base",
    "best",
    "uniform",
    "soup",
    "chosen",
    "ensemble",
    "curve",
    "single",
)
_ROLES = ("held-out", "test", "shift")


@dataclass(frozen=True)
class Column:
    """A split that something was measured on. `n` counts its examples, None when unknown."""

    name: str
    role: str
    n: int | None


@dataclass(frozen=True)
class Cell:
    """One score in the metric's own direction, its interval, and how it compares."""

    value: float
    low: float | None = None
    high: float | None = None
    versus: Versus | None = None


@dataclass(frozen=True)
class Row:
    """One model. `mean` is the plain mean of the shifts, None unless all were measured."""

    model: str
    part: Part
    members: tuple[str, ...]
    cells: dict[str, Cell] = field(default_factory=dict)
    mean: Cell | None = None

    @property
    def cost(self) -> int | None:
        """Models that one prediction runs; None for an ensemble of unknown size."""
        if self.part != "ensemble":
            return 1
        return len(self.members) or None


@dataclass(frozen=True)
class Table:
    """Rows in the order of the page: the baselines, the soup, the ensemble, the other singles."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    chosen: Row | None
    """The row of the soup itself; a single model's, when the recipe kept only that one."""

    def of(self, part: Part) -> Row | None:
        return next((row for row in self.rows if row.part == part), None)

    def role(self, role: str) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.role == role)


def tabulate(record: Record) -> Table:
    """The table of a record. Scores that only a tasting holds fill the held-out column."""
    columns = _columns(record)
    found = _rows(record, columns)
    best = _best_single(record, found)
    chosen = _chosen(record, found)
    shifts = [column.name for column in columns if column.role == "shift"]
    means = {
        line.model: Cell(line.value, line.low, line.high, line.versus)
        for line in record.evaluations
        if line.role == "mean-shift" and line.value is not None
    }
    rows = []
    for row in found.values():
        part = row.part
        if record.recipe == "best" and row.model == chosen and record.rank is None:
            continue  # it is the best single model over again
        if row.model == chosen:
            part = "chosen"
        elif row.model == best:
            part = "best"
        elif part == "soup" and row.model.startswith("uniform"):
            part = "uniform"
        values = [row.cells[name].value for name in shifts if name in row.cells]
        plain = Cell(sum(values) / len(shifts)) if shifts and len(values) == len(shifts) else None
        rows.append(Row(row.model, part, row.members, row.cells, means.get(row.model, plain)))
    rows.sort(key=lambda row: (_ORDER.index(row.part), _rank(row, columns, record)))
    kept = tuple(ingredient.name for ingredient in record.ingredients)
    result = next((row for row in rows if row.part == "chosen"), None)
    singles = [row for row in rows if row.part in ("best", "single")]
    alone = next((row for row in singles if row.members == kept), None)
    return Table(columns, tuple(rows), result or alone)


def soup_name(record: Record) -> str:
    """What the page calls the result: `greedy soup`, `average`."""
    return record.recipe if record.recipe.endswith("average") else f"{record.recipe} soup"


def _columns(record: Record) -> tuple[Column, ...]:
    known = {split.name: Column(split.name, split.role, split.n) for split in record.splits}
    for line in record.evaluations:
        known.setdefault(line.split, Column(line.split, line.role, line.n))
    if record.tastings and not any(column.role == "held-out" for column in known.values()):
        known["held-out"] = Column("held-out", "held-out", None)
    seen = {line.split for line in record.evaluations}
    wanted = [
        column
        for column in known.values()
        if column.name in seen or (column.role == "held-out" and record.tastings)
    ]
    return tuple(column for role in _ROLES for column in wanted if column.role == role)


def _rows(record: Record, columns: tuple[Column, ...]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for line in record.evaluations:
        part: Part = line.kind
        row = rows.setdefault(line.model, Row(line.model, part, line.members))
        if line.value is not None:
            row.cells[line.split] = Cell(line.value, line.low, line.high, line.versus)
    held_out = next((column.name for column in columns if column.role == "held-out"), None)
    if record.metric is None or held_out is None:
        return rows
    soup = _members(record)
    known = {(row.part, tuple(sorted(row.members))): row for row in rows.values()}
    offered = {ingredient.name for ingredient in record.pool}
    # Soups of the same ingredients may differ in their weights: the last one kept is the result.
    kept = [t for t in record.tastings if t.kept and tuple(sorted(t.members)) == soup][-1:]
    for tasting in record.tastings:
        members = tuple(sorted(tasting.members))
        kind: Part = "single" if len(members) == 1 else "soup"
        wanted = offered.issuperset(members) if kind == "single" else tasting in kept
        if tasting.score is None or not wanted:
            continue
        if (kind, members) not in known:
            name = tasting.candidate if kind == "single" else soup_name(record)
            known[kind, members] = rows.setdefault(name, Row(name, kind, tasting.members))
        cell = Cell(tasting.score)
        known[kind, members].cells.setdefault(held_out, cell)
    return rows


def _best_single(record: Record, rows: dict[str, Row]) -> str | None:
    """The one that the others were compared with; else the best on held-out data, never on test."""
    if record.metric is None:
        return None
    named = {line.versus.model for line in record.evaluations if line.versus}
    compared = [row.model for row in rows.values() if row.part == "single" and row.model in named]
    if len(compared) == 1:
        return compared[0]
    scored = [
        (record.metric.sign * tasting.score, row.model)
        for tasting in record.tastings
        for row in rows.values()
        if row.part == "single" and tasting.members == row.members and tasting.score is not None
    ]
    if not scored:
        scored = [
            (record.metric.sign * row.cells[line.split].value, row.model)
            for line in record.evaluations
            for row in (rows[line.model],)
            if line.role == "held-out" and row.part == "single" and line.split in row.cells
        ]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _chosen(record: Record, rows: dict[str, Row]) -> str | None:
    soups = [row for row in rows.values() if row.part == "soup"]
    if any(row.model == soup_name(record) for row in soups):
        return soup_name(record)
    same = [row.model for row in soups if tuple(sorted(row.members)) == _members(record)]
    return same[0] if same else None


def _rank(row: Row, columns: tuple[Column, ...], record: Record) -> float:
    """Best held-out first; the unmeasured last."""
    if row.part == "curve":
        return 0.0  # As it runs.
    sign = record.metric.sign if record.metric else 1.0
    cells = [row.cells[column.name] for column in columns[:1] if column.name in row.cells]
    return -sign * cells[0].value if cells else float("inf")


def _members(record: Record) -> tuple[str, ...]:
    return tuple(sorted(ingredient.name for ingredient in record.ingredients))
