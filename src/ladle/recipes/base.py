"""What recipes need that use the base: it as one more ingredient."""

from __future__ import annotations

from ladle.errors import BadInput
from ladle.soup import Ingredient, Pool, is_adapter

_NAME = "base"


def with_start(pool: Pool, base: Ingredient) -> Pool:
    """The base, and behind it the pool, whose dtypes stay.

    Raises:
        LayoutMismatch: the base has other tensors; all differences are named.
        BadInput: the pool is of adapters, which have nothing to do with most of the base.
    """
    if any(is_adapter(one.checkpoint) for one in pool):
        raise BadInput(
            "a recipe that uses the base takes whole models; merge the adapters into their base "
            "first, or choose another --recipe"
        )
    name = _NAME if all(one.name != _NAME for one in pool) else f"the {_NAME}"
    named = Ingredient(name, base.checkpoint, base.facts, None, base.content)
    together = Pool.of([named, *pool])
    if together.layout.names == pool.layout.names:
        return Pool(together.ingredients, pool.layout)
    return together
