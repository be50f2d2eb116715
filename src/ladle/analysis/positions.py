"""Where models lie in weight space: one of them is the origin, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ladle.checkpoint.dtypes import AVERAGED
from ladle.errors import BadInput, NonFiniteTensor
from ladle.soup import Ingredient, Pool, with_base, without_changes
from ladle.soup.geometry import geometry

Float64 = npt.NDArray[np.float64]

# The unit roundoff: how far rounding moves a number, relative to it, at most.
_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-9}


def with_origin(models: Pool, base: Ingredient | None) -> Pool:
    """The base as the first ingredient, called `base`, and the models behind it.

    Adapters become the models that they make of the base. Without a base, the models as they are.

    Raises:
        LayoutMismatch: the base has other tensors than the models; all differences are named.
    """
    if base is None:
        return models
    models = with_base(models, base)
    start = without_changes(base, models)
    name = "base" if all(one.name != "base" for one in models) else "the base"
    named = Ingredient(name, start.checkpoint, start.facts, None, start.content)
    together = Pool.of([named, *models], models.remarks)
    # The base's dtypes must not change what the models' soups are rounded to.
    same = together.layout.names == models.layout.names
    return Pool(together.ingredients, models.layout, models.remarks) if same else together


@dataclass(frozen=True, eq=False)
class Positions:
    """Models as points of weight space, seen from the first, which is the origin.

    `gram` is (k, k) float64: the inner products of θᵢ - θ₀; the origin's row is 0. `rounding` is
    how far apart two points may lie by nothing but the rounding of what they are stored in.
    """

    pool: Pool
    gram: Float64
    rounding: float

    @classmethod
    def of(cls, pool: Pool) -> Positions:
        """Of the averaged tensors; each checkpoint is read once, slice by slice.

        Raises:
            NonFiniteTensor: a model holds NaN or infinity.
        """
        total, tensors = geometry(pool, pool[0].checkpoint)
        for name, bad in zip(total.names, total.non_finite, strict=True):
            if bad:
                raise NonFiniteTensor(
                    f"{name} has NaN or infinity in {bad} of its weights; leave it out"
                )
        square = 0.0
        for name, part in tensors.items():
            if part.gram.any():
                stored = {one.checkpoint.layout.tensors[name].dtype for one in pool}
                roundoff = max(_ROUNDOFF.get(kind, 0.0) for kind in stored & set(AVERAGED))
                square += (roundoff * float(part.norms.max())) ** 2
        return cls(pool, total.gram, square**0.5)

    @property
    def distances(self) -> Float64:
        """(k, k) distances between the models."""
        squares = np.diag(self.gram)
        return np.asarray(np.sqrt(np.maximum(squares + squares[:, None] - 2 * self.gram, 0)))

    def angle(self, i: int, j: int) -> float:
        """Degrees between models i and j as seen from the origin."""
        norms = np.sqrt(self.gram[i, i] * self.gram[j, j])
        return float(np.degrees(np.arccos(np.clip(self.gram[i, j] / norms, -1, 1))))

    def check_apart(self, among: Iterable[int] | None = None) -> None:
        """Check that no two of these models are the same one, but for rounding.

        Raises:
            BadInput: two are; both are named.
        """
        distances = self.distances
        for i, j in combinations(range(len(self.pool)) if among is None else among, 2):
            if distances[i, j] <= self.rounding:
                raise BadInput(
                    f"{self.pool[i].name} and {self.pool[j].name} are the same model "
                    f"({self.pool[i].checkpoint.path} and {self.pool[j].checkpoint.path}); give "
                    "each once, and a base that is none of the others"
                )
