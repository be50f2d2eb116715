"""The page in a real browser: it draws, answers and stays by itself, on a screen and a phone.

Screenshots are left in `artefacts/`, to be looked at.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from ladle.report import write_report
from reported import run_record, with_everything, write_sweep

pytestmark = pytest.mark.slow

ARTEFACTS = Path(__file__).parent.parent.parent / "artefacts"
NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = {"width": 1100, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        if os.environ.get("LADLE_NEEDS_CHROMIUM"):
            pytest.fail(f"none of {', '.join(NAMES)} is installed, and LADLE_NEEDS_CHROMIUM is set")
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        # As root, Chromium has no sandbox.
        arguments = ["--no-sandbox"] if is_root else []
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = [run_record(i, 0.8 + i * (5 - i) / 100) for i in range(6)]
    made = {"soup": with_everything(folder / "soup"), "sweep": write_sweep(folder / "sweep", runs)}
    return {name: write_report(place) for name, place in made.items()}


class Visit:
    """An opened page, and what it said and asked for. There is no network."""

    def __init__(
        self, browser: Browser, page: Path, *, phone: bool = False, scheme: str = "light"
    ) -> None:
        size = PHONE if phone else DESKTOP
        self.context = browser.new_context(
            viewport=size, color_scheme=scheme, offline=True, has_touch=phone, is_mobile=phone
        )
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(page.as_uri())
        self.page.wait_for_selector("html[data-drawn]", timeout=120_000)

    def keep(self, name: str) -> None:
        ARTEFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


@pytest.mark.parametrize("name", ["soup", "sweep"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_every_figure_is_drawn_and_nothing_else_is_asked_for(
    browser: Browser, pages: dict[str, Path], name: str, scheme: str, phone: bool
) -> None:
    visit = Visit(browser, pages[name], phone=phone, scheme=scheme)
    visit.keep(f"{name}-{'phone' if phone else 'desktop'}-{scheme}")
    assert visit.said == []
    assert visit.asked == [pages[name].as_uri()]
    figures = visit.page.locator("figure.plot").all()
    assert len(figures) == len(re.findall('<figure class="plot"', pages[name].read_text("utf-8")))
    for figure in figures:
        marks = figure.locator(
            ".chart svg :is(.mark-symbol, .mark-rect, .mark-line) :is(path, rect)"
        )
        assert marks.count() >= 2, figure.get_attribute("id")
        box = figure.locator(".chart svg").first.bounding_box()
        assert box is not None
        assert box["height"] > 100
        label = figure.locator(".chart").get_attribute("aria-label")
        assert label is not None
        assert len(label) > 20
    # Only tables scroll sideways, each in its own frame.
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    assert width <= visit.page.evaluate("window.innerWidth")
    visit.context.close()


def test_pointing_at_a_model_shows_what_it_was_trained_with(
    browser: Browser, pages: dict[str, Path]
) -> None:
    visit = Visit(browser, pages["soup"])
    points = visit.page.locator("#figure-test-and-shift .chart .mark-symbol path")
    labels = [point.get_attribute("aria-label") or "" for point in points.all()]
    at = next(i for i, label in enumerate(labels) if "run-003" in label)
    points.nth(at).scroll_into_view_if_needed()
    points.nth(at).hover()
    tooltip = visit.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for(timeout=5_000)
    shown = {
        row.locator("td").first.inner_text(): row.locator("td").last.inner_text()
        for row in tooltip.locator("tr").all()
    }
    assert shown["model"] == "run-003"
    assert shown["epochs"] == "3"
    assert float(shown["lr"]) == pytest.approx(1e-5 * 1.7**3)
    visit.keep("soup-tooltip")
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_the_button_is_pressed(
    browser: Browser, pages: dict[str, Path], scheme: str
) -> None:
    visit = Visit(browser, pages["soup"], scheme=scheme)
    star = visit.page.locator("#figure-coefficients .chart .mark-rect path").first
    body, button = visit.page.locator("body"), visit.page.locator("#theme")

    def colours() -> tuple[str, str]:
        return (
            star.evaluate("mark => getComputedStyle(mark).fill"),
            body.evaluate("mark => getComputedStyle(mark).backgroundColor"),
        )

    light = ("rgb(198, 83, 0)", "rgb(253, 253, 251)")
    dark = ("rgb(255, 148, 71)", "rgb(22, 24, 27)")
    first, second = (light, dark) if scheme == "light" else (dark, light)
    assert colours() == first
    drawing = star.element_handle()
    button.press("Enter")
    assert colours() == second
    assert drawing.evaluate("mark => mark.isConnected"), "it was drawn anew"
    button.click()
    assert colours() == first
    assert visit.said == []
    visit.context.close()


def test_without_scripts_there_are_drawings_and_tables(
    browser: Browser, pages: dict[str, Path]
) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True, viewport=DESKTOP)
    page = context.new_page()
    page.goto(pages["soup"].as_uri())
    figures = page.locator("figure.plot")
    assert page.locator("figure.plot noscript svg").count() == figures.count() > 5
    assert page.locator("#theme").is_hidden()
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / "soup-without-scripts.png", full_page=True)
    context.close()


def test_a_page_has_room_for_more(pages: dict[str, Path]) -> None:
    """It is under 6 MB with room to spare for sweeps of a hundred models."""
    assert pages["soup"].stat().st_size < 3_000_000
