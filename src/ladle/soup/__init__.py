"""Pools, soups and what is kept of them."""

from ladle.merge import Policy
from ladle.soup.pool import Ingredient, Pool, find_checkpoints, open_pool
from ladle.soup.soup import Evaluate, Soup, Tasting, uniform_soup

__all__ = [
    "Evaluate",
    "Ingredient",
    "Policy",
    "Pool",
    "Soup",
    "Tasting",
    "find_checkpoints",
    "open_pool",
    "uniform_soup",
]
