"""The page is whole, safe whatever the names are, and says what it shows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from ladle.report import render, write_report
from reported import sample_lines, sample_soup, scored_by_a_command, write_to

NASTY = "</script><script>alert(1)</script>\"'&run"
VOID = {"meta", "br", "link", "img", "input", "hr"}
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class Tags(HTMLParser):
    """Checks that tags balance and keeps what was seen, but for what is inside of drawings."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if "svg" not in self.open:
            self.seen.append(tag)
            self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass


def without_scripts(text):
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def figures(text):
    """The Vega-Lite specifications of a page, by the name of the figure."""
    start, end = r'<figure class="plot" id="figure-([^"]+)"', "</script>"
    found = re.findall(rf'{start}.*?<script type="application/json">(.*?){end}', text, re.DOTALL)
    return {name: json.loads(spec) for name, spec in found}


def renamed(soup, lines):
    """The records with one model called something nasty, everywhere."""
    text = json.dumps([soup, lines]).replace("run-003", json.dumps(NASTY)[1:-1])
    return json.loads(text)


CASES = ["greedy", "nasty", "black box", "average", "uniform", "no shift", "best"]


@pytest.fixture(scope="module", params=CASES)
def text(request, tmp_path_factory):
    soup, lines = sample_soup(), sample_lines()
    match request.param:
        case "nasty":
            soup, lines = renamed(soup, lines)
            soup["command"] = soup["tastings"][0]["reason"] = soup["recipe"]["name"] = NASTY
        case "black box":
            soup, lines = scored_by_a_command(soup), None
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
    return render(write_to(tmp_path_factory.mktemp("soup"), soup, lines))


@pytest.fixture(scope="module")
def greedy(tmp_path_factory):
    return render(write_to(tmp_path_factory.mktemp("greedy"), sample_soup(), sample_lines()))


def test_tags_balance(text):
    assert Tags(without_scripts(text)).seen.count("main") == 1


def test_drawings_for_readers_without_scripts_are_xml_with_names_of_their_own(text):
    names = []
    for noscript in re.findall(r"<noscript>\s*(<svg.*?</svg>)\s*</noscript>", text, re.DOTALL):
        drawing = ElementTree.fromstring(noscript)  # noqa: S314
        assert "viewBox" in drawing.attrib
        names += [part.get("id") for part in drawing.iter() if part.get("id")]
    assert len(names) == len(set(names))


def test_nothing_is_loaded_and_only_our_scripts_run(text):
    tags = Tags(without_scripts(text))
    assert not {"link", "img", "iframe", "object"} & set(tags.seen)
    for _, attributes in tags.attributes:
        assert not {"src", "onload", "onclick"} & set(attributes)
        assert attributes.get("href", "data:").startswith("data:")
    assert not re.search(r"@import|@font-face", without_scripts(text))
    policy = next(a["content"] for _, a in tags.attributes if a.get("http-equiv"))
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in SCRIPT.findall(text)
    ]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"
    assert text.count("<script") == len(digests) + len(figures(text))


def test_drawings_and_tables_are_labelled(text):
    tags = Tags(without_scripts(text))
    for tag, attributes in tags.attributes:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or "marks" in attributes["class"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "rowgroup")
    assert tags.seen.count("caption") == tags.seen.count("table")
    for spec in figures(text).values():
        assert len(spec["description"]) > 20


def test_no_value_is_shown_that_is_not_a_value(text):
    assert not re.search(r"\b(nan|NaN|inf|None|undefined)\b", without_scripts(text))
    for spec in figures(text).values():
        assert "NaN" not in json.dumps(spec)


def test_names_are_escaped_and_still_readable(soup, lines, write):
    text = render(write(*renamed(soup, lines)))
    assert "alert(1)</script>" not in text
    assert NASTY in unescape(without_scripts(text))
    shown = figures(text)["test-and-shift"]["datasets"]["rows"]
    assert NASTY in {row["model"] for row in shown}


def test_the_sections_come_in_order(greedy):
    headings = re.findall(r"<h[12][^>]*>(.*?)</h[12]>", without_scripts(greedy))
    assert headings == [
        "Greedy soup of 5 of 8 models",
        "Results",
        "Test and shift",
        "How the greedy soup was chosen",
        "Shares of the soup",
        "How it was made",
    ]


def test_rows_come_baselines_first_and_the_other_singles_fold(greedy):
    results = greedy.split("Test and shift")[0]
    shown, folded = results.split("<details>", 1)
    names = r'<th scope="row"><span class="model">.*?<span><span>(.*?)</span>'
    expected = ["base", "run-003", "uniform soup", "greedy soup", "ensemble of 8"]
    assert re.findall(names, shown, re.DOTALL) == expected
    assert len(re.findall(names, folded, re.DOTALL)) == 7


def test_every_verdict_is_a_word_beside_its_colour(greedy):
    assert '<span class="versus better">▲ better</span>' in greedy
    assert '<span class="versus worse">▼ worse</span>' in greedy
    assert '<span class="versus same">≈ no difference</span>' in greedy
    assert re.search(r'<span title="against run-003: better, difference \+[\d.]+ points', greedy)


def test_the_legend_has_only_what_is_drawn(soup, lines, write):
    text = render(write(soup, [line for line in lines if line["kind"] != "base"]))
    legend = text.split('id="figure-test-and-shift"')[1].split("</ul>")[0]
    assert re.findall(r"</svg>([^<]+)</li>", legend) == [
        "this soup",
        "best single model",
        "uniform soup",
        "ensemble",
        "single model",
    ]


def test_tastings_are_shown_in_the_metrics_own_direction(black_box, write):
    text = render(write(black_box, None))
    assert '<td class="num">3.360</td>' in text
    assert 3.36 in [row["score"] for row in figures(text)["choice"]["datasets"]["rows"]]


def test_shas_are_short_with_the_whole_at_hand(greedy, soup):
    sha = soup["ingredients"][0]["sha256"]
    assert f'<code title="{sha}">{sha[:12]}</code>' in greedy


def test_only_held_out_was_looked_at(greedy):
    assert greedy.count("yes, the recipe chose by it") == 1


def test_each_figure_has_its_data_as_a_table_and_as_csv(greedy):
    for name, spec in figures(greedy).items():
        rows = spec["datasets"]["rows"]
        part = greedy.split(f'id="figure-{name}"')[1].split("</figure>")[0]
        body = part.split("<tbody>")[1].split("</tbody>")[0]
        assert body.count("<tr>") == len(rows)
        (link,) = re.findall(rf'download="{name}\.csv" href="data:text/csv;[^,]*,([^"]*)"', part)
        assert len(unquote(link).splitlines()) == len(rows) + 1


def test_the_report_replaces_the_old_one_and_writes_its_figures(soup, lines, write):
    folder = write(soup, lines)
    (folder / "report.html").write_text("old")
    (folder / "figures").mkdir()
    (folder / "figures" / "choice.svg").write_text("old")
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text("utf-8") == render(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["evaluations.jsonl", "figures", "report.html", "soup.json"]
    files = {path.name for path in (folder / "figures").iterdir()}
    expected = ("choice", "coefficients", "test-and-shift")
    assert files == {f"{name}.{kind}" for name in expected for kind in ("csv", "png", "svg")}
    svg = (folder / "figures" / "choice.svg").read_text("utf-8")
    assert "var(" not in svg
    ElementTree.fromstring(svg)  # noqa: S314
    assert (folder / "figures" / "choice.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "figures" / "choice.csv").open(encoding="utf-8") as file:
        assert file.readline() == "step,candidate,held-out,measured,outcome,reason,best so far\n"


def test_another_page_has_no_files_beside_it(soup, lines, write, tmp_path):
    folder = write(soup, lines)
    assert write_report(folder, tmp_path / "other" / "page.html").is_file()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["page.html"]
    assert not (folder / "figures").exists()


def test_a_failed_report_leaves_the_old_one(soup, lines, write, monkeypatch):
    folder = write(soup, lines)
    (folder / "report.html").write_text("old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "old"
    assert not list(folder.rglob("*.part"))
