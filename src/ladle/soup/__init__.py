"""Pools, soups and what is kept of them."""

from ladle.merge import Policy
from ladle.soup.adapter import is_adapter, with_base, without_changes
from ladle.soup.inputs import Gathered, gather, open_pool
from ladle.soup.pool import Ingredient, Pool
from ladle.soup.running import RunningSoup
from ladle.soup.scoring import (
    Apart,
    Compares,
    Ensembles,
    Prepared,
    Speculates,
    Verdict,
    apart,
    compared,
    ensembles_of,
    reaches,
)
from ladle.soup.soup import Evaluate, Soup, Tasting, uniform_soup

__all__ = [
    "Apart",
    "Compares",
    "Ensembles",
    "Evaluate",
    "Gathered",
    "Ingredient",
    "Policy",
    "Pool",
    "Prepared",
    "RunningSoup",
    "Soup",
    "Speculates",
    "Tasting",
    "Verdict",
    "apart",
    "compared",
    "ensembles_of",
    "gather",
    "is_adapter",
    "open_pool",
    "reaches",
    "uniform_soup",
    "with_base",
    "without_changes",
]
