"""Recipes: plain functions from a pool, and what they may look at, to a soup."""

from ladle.recipes.best_single import best
from ladle.recipes.greedy_soup import greedy
from ladle.recipes.uniform_soup import uniform

RECIPES = {"best": best, "greedy": greedy, "uniform": uniform}

__all__ = ["RECIPES", "best", "greedy", "uniform"]
