"""The uniform soup: the mean of all ingredients, without a look at any score."""

from __future__ import annotations

from ladle.soup import Evaluate, Policy, Pool, Soup, uniform_soup


def uniform(pool: Pool, evaluate: Evaluate | None = None, *, integers: Policy = "equal") -> Soup:
    """The mean of all ingredients (paper, section 2); `evaluate` is not asked.

    Better than the best single where all are good; ruined by one that went astray.

    Example:
        >>> ladle.uniform(ladle.open("runs/*")).save("soup")
    """
    return uniform_soup(pool, integers=integers)
