"""Recipes: plain functions from a pool, and what they may look at, to a soup."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ladle.recipes.best_single import best
from ladle.recipes.greedy_soup import greedy
from ladle.recipes.options import OPTIONS, Option
from ladle.recipes.uniform_soup import uniform
from ladle.soup import Soup

RECIPES: Mapping[str, Callable[..., Soup]] = {
    "greedy": greedy,
    "uniform": uniform,
    "best": best,
}
"""The built-in recipes by name, all called as `recipe(pool, evaluate, **options)`.

The signature says the rest: see `ladle.cli.recipe_options` for what the command line makes of it.
"""

__all__ = ["OPTIONS", "RECIPES", "Option", "best", "greedy", "uniform"]
