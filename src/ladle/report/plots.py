"""The page's pictures as SVG text. Each comes in a width: one for screens, one for phones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ladle.report.record import Metric
from ladle.report.svg import (
    LETTER,
    Box,
    Label,
    Scale,
    drawing,
    line,
    mark,
    place,
    span,
    tag,
    write,
)
from ladle.report.table import Part
from ladle.report.words import score

WIDE, NARROW = 720, 350
_FEW = 12


@dataclass(frozen=True)
class Point:
    """A model at (x, y), both in the metric's own units."""

    name: str
    part: Part
    x: float
    y: float


@dataclass(frozen=True)
class Bar:
    """A model's score with its interval, None where unknown."""

    name: str
    part: Part
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Step:
    """A candidate in the order it was tried, and the score of the soup with it."""

    name: str
    value: float
    kept: bool


def scatter(points: Sequence[Point], metric: Metric, names: tuple[str, str], width: int) -> str:
    """Every model at (test, mean shift), better to the upper right whatever the metric's
    direction; a model far outside is drawn hollow on the edge."""
    height = 0.62 * width if width == WIDE else 0.95 * width
    frame = Box(54, 12, width - 14, height - 46)
    important = [p for p in points if p.part in ("chosen", "best")]
    x = _scale([p.x for p in points], [p.x for p in important], metric, (frame.left, frame.right))
    y = _scale([p.y for p in points], [p.y for p in important], metric, (frame.bottom, frame.top))
    parts = _axes(frame, metric, x, y)
    parts += _axis_names(frame, f"{names[0]}{_unit(metric)}", f"{names[1]}{_unit(metric)}")
    taken, guides = [Box.around(x(p.x), y(p.y)) for p in points], []
    best = next((p for p in points if p.part == "best"), None)
    if best is not None:
        across, down = y(best.y), x(best.x)
        parts.append(line(down, frame.top, down, frame.bottom, "guide"))
        parts.append(line(frame.left, across, frame.right, across, "guide"))
        guides.append(Box(down - 1, frame.top, down + 1, frame.bottom))
        guides.append(Box(frame.left, across - 1, frame.right, across + 1))
    curve = " ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in points if p.part == "curve")
    if curve:
        parts.append(tag("polyline", points=curve, class_="curve"))
    drawn = sorted(points, key=lambda p: p.part in ("chosen", "best"))
    for p in drawn:
        outside = not (x.holds(p.x) and y.holds(p.y))
        tooltip = f"{p.name}: {score(p.x, metric)} {names[0]}, {score(p.y, metric)} {names[1]}"
        parts.append(mark(p.part, x(p.x), y(p.y), tooltip, hollow=outside))
    labels = [
        Label(p.name, x(p.x), y(p.y), p.part)
        for p in reversed(drawn)
        if p.part != "single" or len(points) <= _FEW + 5
    ]
    labels.sort(key=lambda label: label.class_ == "single")
    parts += place(labels, taken, frame, avoid=guides)
    said = f"Scatter plot of {len(points)} models: {names[0]} against {names[1]}"
    return drawing(width, height, said, *parts, class_=_class(width))


def left_out(points: Sequence[Point], metric: Metric) -> list[Point]:
    """The points that `scatter` puts on the edge, because they lie far from the others."""
    important = [p for p in points if p.part in ("chosen", "best")]
    x = _scale([p.x for p in points], [p.x for p in important], metric, (0, 1))
    y = _scale([p.y for p in points], [p.y for p in important], metric, (0, 1))
    return [p for p in points if not (x.holds(p.x) and y.holds(p.y))]


def steps(tried: Sequence[Step], metric: Metric, width: int) -> str:
    """Held-out score against candidate order, the running best as a line."""
    height = 0.46 * width if width == WIDE else 0.85 * width
    frame = Box(54, 22, width - 14, height - 46)
    values, kept = [s.value for s in tried], [s.value for s in tried if s.kept]
    y = _scale(values, kept, metric, (frame.bottom, frame.top))
    room = (frame.right - frame.left) / len(tried)
    named = max(len(s.name) for s in tried) * LETTER < room
    parts = _axes(frame, metric, None, y)
    parts += _axis_names(frame, "candidate, in the order tried", f"held-out{_unit(metric)}")
    path, labels, marks, best = "", [], [], None
    taken: list[Box] = []
    for i, step in enumerate(tried):
        x = frame.left + (i + 0.5) * room
        if step.kept:
            rise = f"V{y(step.value):.1f}" if path else f"M{x:.1f},{y(step.value):.1f}"
            path += f"H{x:.1f}{rise}" if path else rise
            # No label may cross the line: this step up, and on to the next kept one.
            later = next((j for j in range(i + 1, len(tried)) if tried[j].kept), len(tried))
            end, top = frame.left + (later + 0.5) * room, y(step.value)
            foot = top if best is None else y(best)
            taken += [Box(x, top - 1, end, top + 1), Box(x - 1, top, x + 1, max(top, foot))]
            best = step.value
        taken.append(Box.around(x, y(step.value)))
        every = max(1, round(30 / room))
        if named or i % every == 0:
            tick = step.name if named else str(i + 1)
            parts.append(write(tick, x, frame.bottom + 18, "middle", "tick"))
        outcome = "kept" if step.kept else "rejected"
        tooltip = f"{i + 1}. {step.name}: {score(step.value, metric, 2)}, {outcome}"
        marks.append(_step_mark(step, x, y, tooltip))
        if step.kept:
            words = score(step.value, metric, 2)
            labels.append(Label(words if named else step.name, x, y(step.value), "best"))
    if best is not None:
        parts.append(tag("path", d=f"{path}H{frame.right - 2:.1f}", class_="running"))
    parts += [*marks, *place(labels, taken, Box(frame.left, 2, frame.right, frame.bottom))]
    said = f"Step chart: {len(tried)} candidates tried in order, {len(kept)} kept"
    return drawing(width, height, said, *parts, class_=_class(width))


def dots(bars: Sequence[Bar], metric: Metric, name: str, width: int) -> str:
    """One line per model: its score on one split, with the interval."""
    widest = max(len(bar.name) for bar in bars)
    left = min(1.1 * LETTER * widest + 18, 0.42 * width)
    height = 24 * len(bars) + 62
    frame = Box(left, 8, width - 14, height - 46)
    keep = [bar.value for bar in bars if bar.part in ("chosen", "best")]
    whole = [v for bar in bars for v in (bar.low, bar.high, bar.value) if v is not None]
    low, high = span([bar.value for bar in bars], keep or [bars[0].value])
    near = [v for v in whole if low - (high - low) <= v <= high + (high - low)]
    x = _scale(near, near, metric, (frame.left, frame.right))
    parts = _axes(frame, metric, x, None)
    parts += _axis_names(frame, f"{name}{_unit(metric)}", "")
    for i, bar in enumerate(bars):
        y = frame.top + 12 + 24 * i
        letters = int((left - 14) / LETTER / 1.1)
        shown = bar.name if len(bar.name) <= letters else f"{bar.name[: letters - 1]}…"
        parts.append(write(shown, left - 12, y + 4, "end", f"label {bar.part}"))
        if bar.low is not None and bar.high is not None:
            parts.append(line(x(bar.low), y, x(bar.high), y, f"whisker {bar.part}"))
        tooltip = f"{bar.name}: {score(bar.value, metric, 2)}"
        parts.append(mark(bar.part, x(bar.value), y, tooltip, hollow=not x.holds(bar.value)))
    said = f"Dot plot of the {name} scores of {len(bars)} models"
    return drawing(width, height, said, *parts, class_=_class(width))


def _step_mark(step: Step, x: float, y: Scale, tooltip: str) -> str:
    if y.holds(step.value):
        return mark("best" if step.kept else "single", x, y(step.value), tooltip, not step.kept)
    # Far worse than the rest: an arrow at the foot says that the score lies below the chart.
    arrow = tag("path", d=f"M{x - 5:.1f},{y(step.value) - 9:.1f}h10l-5,8z", class_="mark single")
    return tag("g", tag("title", escape(tooltip)), arrow)


def _scale(
    values: Sequence[float], keep: Sequence[float], metric: Metric, ends: tuple[float, float]
) -> Scale:
    """From the worse end to the better one."""
    low, high = span(values, keep)
    return Scale(low, high, *(ends if metric.higher_is_better else ends[::-1]))


def _axes(frame: Box, metric: Metric, x: Scale | None, y: Scale | None) -> list[str]:
    parts = []
    for value, words in _ticks(y, metric, 6 if y is not None else 0):
        parts.append(line(frame.left, value, frame.right, value, "grid"))
        parts.append(write(words, frame.left - 8, value + 4, "end", "tick"))
    for value, words in _ticks(x, metric, int((frame.right - frame.left) / 62)):
        parts.append(line(value, frame.top, value, frame.bottom, "grid"))
        parts.append(write(words, value, frame.bottom + 18, "middle", "tick"))
    parts.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    return parts


def _ticks(scale: Scale | None, metric: Metric, most: int) -> list[tuple[float, str]]:
    if scale is None:
        return []
    values = scale.ticks(most)
    factor = 100 if metric.percent else 1
    return [
        (scale(value), f"{factor * value:.6g}".replace("-", "\N{MINUS SIGN}")) for value in values
    ]


def _axis_names(frame: Box, x: str, y: str) -> list[str]:
    parts = [write(x, (frame.left + frame.right) / 2, frame.bottom + 38, "middle", "axis-name")]
    if y:
        middle = (frame.top + frame.bottom) / 2
        turned = f"rotate(-90 13 {middle:.1f})"
        parts.append(tag("g", write(y, 13, middle, "middle", "axis-name"), transform=turned))
    return parts


def _unit(metric: Metric) -> str:
    if metric.percent:
        return f" {metric.name}, %"
    return f" {metric.name}{'' if metric.higher_is_better else ' (better →)'}"


def _class(width: int) -> str:
    return "chart wide" if width == WIDE else "chart narrow"
