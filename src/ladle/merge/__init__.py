"""How one tensor is made from several, and the stream that does it for all of them."""

from ladle.merge.linear import Linear, Merge, mean
from ladle.merge.stream import Ingredients, Sink, stream, with_dtype, without_weightless
from ladle.merge.unaveraged import Policy

__all__ = [
    "Ingredients",
    "Linear",
    "Merge",
    "Policy",
    "Sink",
    "mean",
    "stream",
    "with_dtype",
    "without_weightless",
]
