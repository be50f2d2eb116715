"""Evaluations that know nothing but who is in a soup and how much: scores out of a table."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from ladle.soup import Soup


def table(seed: int, *, values: int = 6, nan: float = 0.0) -> Callable[[Soup], float]:
    """Random scores 0, 1, ... for soups by their content, many of them equal, some of them NaN."""

    def evaluate(soup: Soup) -> float:
        shares = sorted(zip(soup.members, soup.weights, strict=True))
        known = random.Random(f"{seed} {shares}")  # noqa: S311
        return math.nan if known.random() < nan else float(known.randrange(values))

    return evaluate


def one_each(evaluate: Callable[[Soup], float]) -> tuple[Callable[[Soup], float], list[str]]:
    """The same evaluation, and the digests of what it was asked, in order."""
    asked: list[str] = []

    def counting(soup: Soup) -> float:
        asked.append(soup.digest)
        return evaluate(soup)

    return counting, asked
