"""Recipes: plain functions from a pool, and what they may look at, to a soup."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ladle.recipes.best_single import best
from ladle.recipes.greedy_soup import greedy
from ladle.recipes.learned_soup import learned
from ladle.recipes.uniform_soup import uniform
from ladle.soup import Soup

RECIPES: Mapping[str, Callable[..., Soup]] = {
    "best": best,
    "greedy": greedy,
    "learned": learned,
    "uniform": lambda pool, evaluate, **options: uniform(pool, **options),
}
"""The built-in recipes by name, all called as `recipe(pool, evaluate, **options)`."""

__all__ = ["RECIPES", "best", "greedy", "learned", "uniform"]
