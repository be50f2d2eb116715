"""Recipes: plain functions from a pool, and what they may look at, to a soup."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ladle.recipes.best_single import best
from ladle.recipes.greedy_soup import greedy
from ladle.recipes.hierarchical_soup import hierarchical
from ladle.recipes.learned_soup import learned
from ladle.recipes.model_stock_soup import model_stock
from ladle.recipes.options import OPTIONS, Option
from ladle.recipes.pruned_soup import pruned
from ladle.recipes.screened_soup import screened
from ladle.recipes.top_k_soup import top_k
from ladle.recipes.uniform_soup import uniform
from ladle.recipes.window_soup import window
from ladle.recipes.wise_ft_line import wise_ft
from ladle.soup import Soup

RECIPES: Mapping[str, Callable[..., Soup]] = {
    "greedy": greedy,
    "uniform": uniform,
    "best": best,
    "top-k": top_k,
    "pruned": pruned,
    "hierarchical": hierarchical,
    "screened": screened,
    "learned": learned,
    "wise-ft": wise_ft,
    "model-stock": model_stock,
    "window": window,
}
"""The built-in recipes by name, all called as `recipe(pool, evaluate, **options)`.

The signature says the rest: see `ladle.cli.recipe_options` for what the command line makes of it.
"""

OF_TASKS = ("screened", "learned")
"""Those that look at predictions or gradients, which a score alone has none of."""

__all__ = [
    "OF_TASKS",
    "OPTIONS",
    "RECIPES",
    "Option",
    "best",
    "greedy",
    "hierarchical",
    "learned",
    "model_stock",
    "pruned",
    "screened",
    "top_k",
    "uniform",
    "window",
    "wise_ft",
]
