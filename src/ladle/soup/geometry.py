"""Where ingredients lie as seen from the base: norms of task vectors and angles between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ladle.checkpoint import Checkpoint
from ladle.checkpoint.dtypes import AVERAGED
from ladle.errors import LayoutMismatch
from ladle.merge.slices import read_numbers, slices
from ladle.soup.pool import Pool


@dataclass(frozen=True, eq=False)
class Geometry:
    """Inner products of task vectors θᵢ - θ₀ of k ingredients.

    `gram` is (k, k) float64. `base_norm` is the norm of θ₀.
    """

    names: tuple[str, ...]
    gram: npt.NDArray[np.float64]
    base_norm: float

    @property
    def distances(self) -> npt.NDArray[np.float64]:
        """(k,) norms of the task vectors."""
        return np.asarray(np.sqrt(np.diag(self.gram)))

    @property
    def angles(self) -> npt.NDArray[np.float64]:
        """(k, k) angles in degrees; NaN where an ingredient is the base itself."""
        norms = self.distances
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = self.gram / np.outer(norms, norms)
        angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
        np.fill_diagonal(angles, 0.0)
        return np.asarray(angles)


def geometry(pool: Pool, base: Checkpoint) -> tuple[Geometry, Mapping[str, Geometry]]:
    """Task-vector geometry over all averaged tensors, and tensor by tensor.

    Streams slice by slice, so memory does not grow with the checkpoints.

    Raises:
        LayoutMismatch: the base lacks tensors of the pool, or has them in other shapes.
    """
    names = tuple(one.name for one in pool)
    by_tensor: dict[str, Geometry] = {}
    for name, spec in pool.layout.tensors.items():
        if spec.dtype not in AVERAGED:
            continue
        in_base = base.layout.tensors.get(name)
        if in_base is None or in_base.shape != spec.shape:
            raise LayoutMismatch(
                f"the base {base.path} has {in_base or 'no tensor'} where the ingredients have "
                f"{name!r} of {spec}; give the checkpoint they were fine-tuned from"
            )
        gram, square = np.zeros((len(pool), len(pool))), 0.0
        for start, stop in slices(spec):
            origin = read_numbers(base, name, start, stop).astype(np.float64)
            vectors = np.stack(
                [read_numbers(one.checkpoint, name, start, stop) - origin for one in pool]
            )
            gram += vectors @ vectors.T
            square += float(origin @ origin)
        by_tensor[name] = Geometry(names, gram, square**0.5)
    total = sum((one.gram for one in by_tensor.values()), np.zeros((len(pool), len(pool))))
    norm = sum(one.base_norm**2 for one in by_tensor.values()) ** 0.5
    return Geometry(names, np.asarray(total), norm), by_tensor
