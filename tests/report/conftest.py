"""The records of a soup's folder, to change and write."""

from __future__ import annotations

from pathlib import Path

import pytest

from reported import Lines, Soup, Write, sample_lines, sample_soup, scored_by_a_command, write_to


@pytest.fixture
def soup() -> Soup:
    return sample_soup()


@pytest.fixture
def lines() -> Lines:
    return sample_lines()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the two records into a folder; None leaves the evaluations out."""
    return lambda soup, lines: write_to(tmp_path, soup, lines)


@pytest.fixture
def black_box(soup: Soup) -> Soup:
    return scored_by_a_command(soup)
