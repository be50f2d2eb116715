"""The page is whole, safe whatever the names are, and says what it shows."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from ladle.report import render, write_report
from ladle.report.plots import WIDE, Point, left_out, scatter
from ladle.report.record import Metric
from ladle.report.svg import Box, Label, Scale, place, span

NASTY = "<script>alert(1)</script>\"'&run"
ACCURACY = Metric("accuracy", higher_is_better=True, percent=True)
NLL = Metric("nll", higher_is_better=False, percent=False)
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Tags(HTMLParser):
    """Checks that tags balance and keeps what was seen."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def drawings(text):
    """Every drawing, parsed as XML. A named entity would fail, as it should."""
    found = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    return [ElementTree.fromstring(svg) for svg in found]  # noqa: S314


def renamed(soup, lines):
    """The records with one model called something nasty, everywhere."""
    text = json.dumps([soup, lines]).replace("run-003", json.dumps(NASTY)[1:-1])
    return json.loads(text)


@pytest.fixture(params=["greedy", "nasty", "black box", "average", "uniform", "no shift", "best"])
def text(request, soup, lines, write, black_box):
    match request.param:
        case "nasty":
            soup, lines = renamed(soup, lines)
            soup["command"] = soup["tastings"][0]["reason"] = soup["recipe"]["name"] = NASTY
        case "black box":
            soup, lines = black_box, None
        case "average":
            soup |= {"metric": None, "task": None, "splits": None, "tastings": []}
            lines = None
        case "uniform":
            soup["recipe"]["name"] = "uniform"
            soup["ingredients"] = soup["pool"]
            soup["tastings"] = [t for t in soup["tastings"] if len(t["members"]) == 1]
        case "no shift":
            lines = [line for line in lines if "shift" not in line["role"]]
        case "best":
            soup["recipe"]["name"] = "best"
            soup["ingredients"] = soup["ingredients"][:1]
            lines = [line for line in lines if line["kind"] != "soup"]
    return render(write(soup, lines))


def test_tags_balance(text):
    assert Tags(text).seen.count("main") == 1


def test_drawings_are_xml(text):
    for drawing in drawings(text):
        assert "viewBox" in drawing.attrib


def test_nothing_is_loaded_or_run(text):
    tags = Tags(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(tags.seen)
    for _, attributes in tags.attributes:
        assert not {"src", "href", "onload", "onclick", "style"} & set(attributes)
    assert not re.search(r"https?:|url\(|@import|@font-face", text)


def test_drawings_and_tables_are_labelled(text):
    tags = Tags(text)
    for tag, attributes in tags.attributes:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "rowgroup")
        if tag == "table":
            assert attributes.get("class")
    assert tags.seen.count("caption") == tags.seen.count("table")


def test_no_value_is_shown_that_is_not_a_value(text):
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_names_are_escaped_and_still_readable(soup, lines, write):
    text = render(write(*renamed(soup, lines)))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;run" in text


def test_the_sections_come_in_order(soup, lines, write):
    text = render(write(soup, lines))
    headings = re.findall(r"<h[12]>(.*?)</h[12]>", text)
    assert headings == [
        "Greedy soup of 5 of 8 models",
        "Results",
        "Test and shift",
        "How the greedy soup was chosen",
        "How it was made",
    ]


def test_rows_come_baselines_first_and_the_other_singles_fold(soup, lines, write):
    text = render(write(soup, lines))
    shown, folded = text.split("<details>", 1)
    names = r'<th scope="row"><span class="model">.*?<span><span>(.*?)</span>'
    expected = ["base", "run-003", "uniform soup", "greedy soup", "ensemble of 8"]
    assert re.findall(names, shown) == expected
    assert len(re.findall(names, folded)) == 7


def test_every_verdict_is_a_word_beside_its_colour(soup, lines, write):
    text = render(write(soup, lines))
    assert '<span class="versus better">▲ better</span>' in text
    assert '<span class="versus worse">▼ worse</span>' in text
    assert '<span class="versus same">≈ no difference</span>' in text


def test_the_step_chart_fills_what_was_kept(soup, lines, write):
    text = render(write(soup, lines))
    chart = next(d for d in drawings(text) if "8 candidates" in d.get("aria-label", ""))
    classes = [c.get("class", "") for c in chart.iter("circle")]
    assert classes.count("mark best") == 5
    assert classes.count("mark single hollow") == 3


def test_better_is_up_and_right_in_either_direction():
    points = [Point("bad", "best", 0.9, 0.9), Point("good", "chosen", 0.2, 0.2)]
    chart = scatter(points, NLL, ("test", "shift"), WIDE)
    star = re.search(r'points="([\d.]+),([\d.]+) [^"]*" class="mark chosen"', chart)
    dot = re.search(r'cx="([\d.]+)" cy="([\d.]+)" r="6" class="mark best"', chart)
    assert star is not None
    assert dot is not None
    assert float(star[1]) > float(dot[1])
    assert float(star[2]) < float(dot[2])


def test_a_model_far_outside_is_hollow_on_the_edge_and_named():
    near = [Point(f"run-{i}", "single", 0.8 + i / 100, 0.7 + i / 100) for i in range(8)]
    points = [*near, Point("lost", "base", 0.1, 0.1)]
    assert [p.name for p in left_out(points, ACCURACY)] == ["lost"]
    chart = scatter(points, ACCURACY, ("test", "shift"), WIDE)
    assert chart.count('class="mark base hollow"') == 1
    assert chart.count("hollow") == 1


def test_the_legend_has_only_what_is_drawn(soup, lines, write):
    text = render(write(soup, [line for line in lines if line["kind"] != "base"]))
    (legend,) = re.findall(r'<ul class="legend">(.*?)</ul>', text)
    assert re.findall(r"</svg>([^<]+)</li>", legend) == [
        "single model",
        "best single",
        "uniform soup",
        "this soup",
        "ensemble",
    ]


def test_tastings_are_shown_in_the_metrics_own_direction(black_box, write):
    text = render(write(black_box, None))
    assert '<td class="num">3.360</td>' in text
    assert re.search(r"<title>\d\. [\w-]+: 3\.360, kept</title>", text)


def test_shas_are_short_with_the_whole_at_hand(soup, lines, write):
    sha = soup["ingredients"][0]["sha256"]
    assert f'<code title="{sha}">{sha[:12]}</code>' in render(write(soup, lines))


def test_only_held_out_was_looked_at(soup, lines, write):
    text = render(write(soup, lines))
    assert text.count("yes, the recipe chose by it") == 1


def test_the_report_replaces_the_old_one_and_leaves_nothing_else(soup, lines, write):
    folder = write(soup, lines)
    (folder / "report.html").write_text("old")
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text("utf-8") == render(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["evaluations.jsonl", "report.html", "soup.json"]


def test_a_failed_report_leaves_the_old_one(soup, lines, write, monkeypatch):
    folder = write(soup, lines)
    (folder / "report.html").write_text("old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "old"
    assert len(list(folder.iterdir())) == 3


def test_one_failed_model_does_not_flatten_the_picture():
    # Quartiles of the nine are 2 and 6, so the fence ends at 6 + 3 * 4 = 18.
    low, high = span([0, 1, 2, 3, 4, 5, 6, 7, 100.0])
    assert low < 0
    assert 7 < high < 18


def test_ticks_are_round_and_inside():
    assert Scale(0.742, 0.831, 0, 100).ticks(6) == [0.76, 0.78, 0.8, 0.82]


def test_labels_never_cover_each_other():
    frame = Box(0, 0, 300, 100)
    here = [Label("first", 100, 50), Label("second", 100, 50)]
    first, second = place(here, [Box.around(100, 50)], frame)
    assert 'text-anchor="start"' in first
    assert 'text-anchor="end"' in second
    assert place([Label("far too long for it" * 5, 100, 50)], [], frame) == []
