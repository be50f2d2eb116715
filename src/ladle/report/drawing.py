"""Figures as text: SVG with the page's colours, and CSV."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import vl_convert

from ladle.files import new_file
from ladle.report.figures.figure import Figure
from ladle.report.figures.style import LIGHT, literal

_PNG_SCALE = 2.0
"""Pixels of a picture per pixel of the drawing, for screens and print."""


@dataclass(frozen=True)
class Drawn:
    """A figure, drawn once: `svg` has CSS variables as colours, and is for readers without
    scripts; with the colours of the light theme it is the file's."""

    figure: Figure
    svg: str
    csv: str


def draw(figure: Figure) -> Drawn:
    """A figure as text."""
    svg = _with_own_names(vl_convert.vegalite_to_svg(figure.spec(on_page=False)), figure.name)
    return Drawn(figure, svg, _csv(figure))


def _with_own_names(svg: str, name: str) -> str:
    """Vega counts its identifiers through all that a process draws; here they begin anew, and have
    the figure's name, for several drawings stand in one document."""
    found = dict.fromkeys(re.findall(r'\bid="([^"]+)"', svg))
    for i, old in enumerate(found):
        svg = svg.replace(f'id="{old}"', f'id="{name}-{i}"').replace(
            f"url(#{old})", f"url(#{name}-{i})"
        )
    return svg


def write_files(drawn: Drawn, folder: Path) -> None:
    """NAME.svg, NAME.png and NAME.csv in a folder; each appears whole or not at all."""
    start = drawn.svg.index(">") + 1
    ground = f'<rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>'
    svg = literal(drawn.svg[:start] + ground + drawn.svg[start:])
    png = vl_convert.svg_to_png(svg, scale=_PNG_SCALE)
    name = drawn.figure.name
    for suffix, content in (("svg", svg.encode()), ("png", png), ("csv", drawn.csv.encode())):
        with new_file(folder / f"{name}.{suffix}") as part:
            part.write_bytes(content)


def _csv(figure: Figure) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(figure.columns.values())
    for row in figure.rows:
        writer.writerow(row.get(name) for name in figure.columns)
    return text.getvalue()
