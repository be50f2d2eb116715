"""How one tensor is made from several, and the stream that does it for all of them."""

from ladle.merge.base import Merge, Readings
from ladle.merge.linear import Linear, mean
from ladle.merge.model_stock import ModelStock
from ladle.merge.products import differing, inner_products
from ladle.merge.running import Quotient, RunningSums
from ladle.merge.stream import Ingredients, Sink, stream, with_dtype
from ladle.merge.unaveraged import Policy

__all__ = [
    "Ingredients",
    "Linear",
    "Merge",
    "ModelStock",
    "Policy",
    "Quotient",
    "Readings",
    "RunningSums",
    "Sink",
    "differing",
    "inner_products",
    "mean",
    "stream",
    "with_dtype",
]
