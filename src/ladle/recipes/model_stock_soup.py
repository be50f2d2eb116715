"""Model Stock: as near to the base as the models' disagreement advises, without any data."""

from __future__ import annotations

from ladle.errors import BadInput
from ladle.merge import ModelStock
from ladle.recipes.base import with_start
from ladle.soup import Evaluate, Ingredient, Policy, Pool, Soup


def model_stock(
    pool: Pool,
    evaluate: Evaluate | None = None,
    *,
    base: Ingredient,
    integers: Policy = "equal",
) -> Soup:
    """Pull every tensor of the mean towards the base, the more the less the models agree there.

    `evaluate` is not asked. See `ladle.merge.ModelStock` for the rule, also for more than two.

    Args:
        base: the checkpoint that the ingredients were fine-tuned from.

    Raises:
        BadInput: there is only one model.
        LayoutMismatch: the base has other tensors than the ingredients.
    """
    if len(pool) < 2:
        raise BadInput("--recipe model-stock compares models, and there is only one; name another")
    everything = with_start(pool, base)
    merge = ModelStock(len(everything))
    return Soup(everything, merge, recipe="model-stock", integers=integers)
