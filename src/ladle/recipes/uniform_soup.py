"""The uniform soup: the mean of all ingredients, without a look at any score."""

from __future__ import annotations

from ladle.soup import Policy, Pool, Soup, uniform_soup


def uniform(pool: Pool, *, integers: Policy = "equal") -> Soup:
    """The mean of all ingredients (paper, section 2).

    Better than the best single where all are good; ruined by one that went astray.

    Example:
        >>> ladle.uniform(ladle.open("runs/*")).save("soup")
    """
    return uniform_soup(pool, integers=integers)
