"""The page: one HTML text that needs no other file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ladle.predictions.uncertainty import CONFIDENCE
from ladle.report import words
from ladle.report.drawing import Drawn
from ladle.report.figures.figure import Figure
from ladle.report.figures.marks import key_of
from ladle.report.figures.style import DARK, LIGHT
from ladle.report.record import Scalar

_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_ROWS_SHOWN = 50
_LARGEST_STATIC = 250_000
"""Letters of a drawing for readers without scripts; of a larger one they see the data."""


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, the template of its body, and what that shows.

    `figures` are in groups; those of a group stand side by side if they are small.
    """

    heading: str
    template: str
    figures: Sequence[Sequence[Figure]] = ()
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """What the page is about, and what came out."""

    title: str
    kicker: str
    verdict: Sequence[str]
    caveats: Sequence[str] = ()
    foot: str = ""


def render(head: Head, sections: Sequence[Section], drawings: Mapping[str, Drawn]) -> str:
    """The page; `drawings` has the figures of all sections by name.

    Names in the records are escaped wherever they stand.
    """
    scripts = [*([_bundle()] if drawings else []), _text("page.js")]
    # Scripts by their digests: nothing else runs and nothing is loaded, whatever a name holds.
    digests = " ".join(map(_digest, scripts))
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {digests}"
    page = _environment().get_template("page.html.j2")
    return page.render(
        head=head,
        sections=sections,
        drawings=drawings,
        policy=policy,
        light=LIGHT,
        dark=DARK,
        style=Markup(_text("style.css")),  # noqa: S704 -- ladle's own
        scripts=[Markup(script) for script in scripts],  # noqa: S704 -- ladle's own and Vega's
    )


@cache
def _environment() -> Environment:
    """Once in a process: to compile the templates takes longer than to fill them."""
    environment = Environment(
        loader=PackageLoader("ladle.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = ("count", "evidence", "interval", "plain", "probability", "score", "signed", "size")
    environment.globals.update(
        {name: getattr(words, name) for name in (*shown, "tasted", "weight")}
    )
    environment.globals.update(
        confidence=CONFIDENCE,
        key_of=key_of,
        largest_static=_LARGEST_STATIC,
        rows_shown=_ROWS_SHOWN,
        specification=_specification,
    )
    environment.filters.update(
        cell=_cell,
        csv_link=lambda text: f"data:text/csv;charset=utf-8,{quote(text)}",
        unbroken=_unbroken,
    )
    return environment


def _specification(figure: Figure) -> Markup:
    # In a script, < could end it; JSON may have it escaped.
    text = json.dumps(figure.spec(on_page=True), ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 -- no markup is left


def _cell(value: Scalar) -> str:
    """A value in the table of a figure's data."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _unbroken(sentence: str) -> str:
    """ "n =" at the end of a line and "800" on the next would be hard to read."""
    return sentence.replace(" = ", "\xa0=\xa0").replace(" < ", "\xa0<\xa0")


@cache
def _bundle() -> str:
    """Vega and its kin, as `window.vegaEmbed`; to put them together takes seconds."""
    return str(vl_convert.javascript_bundle(_SNIPPET)).replace("</script", "<\\/script")


def _text(name: str) -> str:
    return files("ladle.report").joinpath("templates").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
