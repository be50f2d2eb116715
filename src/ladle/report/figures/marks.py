"""Marks of models: each part of a table has a colour and a shape of its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import altair as alt

from ladle.report.figures.figure import Key
from ladle.report.figures.scales import ordinal
from ladle.report.figures.style import PARTS, colour
from ladle.report.table import Part


def keys_of(parts: Collection[Part]) -> list[Key]:
    """The legend of these parts, the important ones first."""
    return [key_of(part) for part in reversed(PARTS) if part in parts]


def key_of(part: Part) -> Key:
    """The mark of a part."""
    words, name, shape, area, hollow = PARTS[part]
    return Key(words, name, path=shape, hollow=hollow, size=max(0.55, (area / 300) ** 0.5))


def words_of(part: Part) -> str:
    """What rows call a part in their field `part`."""
    return PARTS[part][0]


def area_of(part: Part) -> int:
    """What rows have in their field `area`."""
    return PARTS[part][3]


def order_of(part: Part) -> int:
    """Where a part is drawn: the important ones last, on top."""
    return list(PARTS).index(part)


def as_parts(parts: Collection[Part], *, outside: str = "datum.outside") -> dict[str, Any]:
    """Encodings of points by their fields `part` and `area`; what is `outside` is hollow."""
    shown = [(part, *look) for part, look in PARTS.items() if part in parts]
    names = [words for _, words, *_ in shown]

    def by_part(channel: Any, values: list[Any]) -> Any:
        # A legend needs one title to be one.
        return channel("part:N", title=None, scale=ordinal(names, values))

    fills = [colour("paper" if hollow else name) for _, _, name, _, _, hollow in shown]
    strokes = [colour(name if hollow else "paper") for _, _, name, _, _, hollow in shown]
    return {
        "fill": alt.condition(outside, alt.value(colour("paper")), by_part(alt.Fill, fills)),
        "stroke": alt.condition(outside, alt.value(colour("quiet")), by_part(alt.Stroke, strokes)),
        "shape": by_part(alt.Shape, [shape for _, _, _, shape, _, _ in shown]),
        "size": alt.Size("area:Q", scale=None, legend=None),
    }
