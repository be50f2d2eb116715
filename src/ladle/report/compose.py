"""From what is in a folder to the head and the sections of its page."""

from __future__ import annotations

from ladle.report.about_analyses import about_comparison, about_landscape, making_of_analyses
from ladle.report.about_soup import about_soup, making
from ladle.report.about_sweep import about_sweep, making_of_sweep
from ladle.report.contents import Contents
from ladle.report.page import Head, Section


def compose(contents: Contents) -> tuple[Head, list[Section]]:
    """The head is about the first thing that is there: soup, sweep, landscape, comparison."""
    heads: list[Head] = []
    sections: list[Section] = []
    last: list[Section] = []
    if contents.soup is not None:
        head, shown = about_soup(contents.soup)
        heads.append(head)
        sections += shown
        last.append(making(contents.soup))
    if contents.sweep is not None:
        head, shown = about_sweep(contents.sweep)
        heads.append(head)
        sections += shown
        last.append(making_of_sweep(contents.sweep))
    for landscape in contents.landscapes:
        head, section = about_landscape(landscape)
        heads.append(head)
        sections.append(section)
    for comparison in contents.comparisons:
        head, shown = about_comparison(comparison)
        heads.append(head)
        sections += shown
    abouts = [one.about for one in contents.landscapes]
    abouts += [one.about for one in contents.comparisons]
    if abouts:
        last.append(making_of_analyses(abouts))
    return heads[0], [*sections, *last]
