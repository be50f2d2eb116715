"""Where ingredients lie as seen from the base: norms of task vectors and angles between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ladle.checkpoint import Checkpoint
from ladle.checkpoint.dtypes import AVERAGED, ITEMSIZE
from ladle.errors import LayoutMismatch
from ladle.merge.slices import SLICE, read_numbers, slices
from ladle.soup.adapter import touched
from ladle.soup.pool import Pool


@dataclass(frozen=True, eq=False)
class Geometry:
    """Inner products of task vectors θᵢ - θ₀ of k ingredients.

    `gram` is (k, k) float64. `base_norm` is the norm of θ₀, `norms` (k,) are those of the θᵢ.
    `non_finite` (k,) counts NaN and infinity; where there are any, the rest means nothing.
    """

    names: tuple[str, ...]
    gram: npt.NDArray[np.float64]
    base_norm: float
    norms: npt.NDArray[np.float64]
    non_finite: npt.NDArray[np.int64]

    @property
    def distances(self) -> npt.NDArray[np.float64]:
        """(k,) norms of the task vectors."""
        return np.asarray(np.sqrt(np.diag(self.gram)))

    @property
    def between(self) -> npt.NDArray[np.float64]:
        """(k, k) distances between ingredients."""
        squares = np.diag(self.gram)
        return np.asarray(np.sqrt(np.maximum(squares + squares[:, None] - 2 * self.gram, 0)))

    @property
    def cosines(self) -> npt.NDArray[np.float64]:
        """(k, k) cosines of the angles at the origin of weight space; NaN for a zero vector."""
        squares = self.norms**2
        inner = (squares + squares[:, None] - self.between**2) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.clip(inner / np.outer(self.norms, self.norms), -1, 1))

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

    Of adapters on their base, over those that they change: the others did not move, and a new head
    that they hold did not come from the base. Streams slice by slice, so memory does not grow with
    the checkpoints.

    Raises:
        LayoutMismatch: the base lacks tensors of the pool, or has them in other shapes.
    """
    by_tensor: dict[str, Geometry] = {}
    moved = {name for name in touched(pool) if name in base.layout.tensors}
    for name, spec in pool.layout.tensors.items():
        if spec.dtype not in AVERAGED or (moved and name not in moved):
            continue
        in_base = base.layout.tensors.get(name)
        if in_base is None or in_base.shape != spec.shape:
            raise LayoutMismatch(
                f"the base {base.path} has {in_base or 'no tensor'} where the ingredients have "
                f"{name!r} of {spec}; give the checkpoint they were fine-tuned from"
            )
        by_tensor[name] = tensor_geometry(pool, name, base)
    return total(pool, by_tensor.values()), by_tensor


def total(pool: Pool, parts: Iterable[Geometry]) -> Geometry:
    """The geometry of several tensors together."""
    k = len(pool)
    gram, squares, base, bad = np.zeros((k, k)), np.zeros(k), 0.0, np.zeros(k, np.int64)
    for part in parts:
        gram += part.gram
        squares += part.norms**2
        base += part.base_norm**2
        bad += part.non_finite
    names = tuple(one.name for one in pool)
    return Geometry(names, gram, base**0.5, np.asarray(np.sqrt(squares)), bad)


def tensor_geometry(
    pool: Pool, name: str, base: Checkpoint, *, advance: Callable[[int], None] = lambda nbytes: None
) -> Geometry:
    """The geometry of one tensor, which `base` has too. Reads slice by slice."""
    k = len(pool)
    gram, squares, base_square, bad = np.zeros((k, k)), np.zeros(k), 0.0, np.zeros(k, np.int64)
    spec = pool.layout.tensors[name]
    # Fewer elements of many ingredients, so that memory does not grow with their number.
    for start, stop in slices(spec, SLICE // max(1, k // 8)):
        origin = read_numbers(base, name, start, stop).astype(np.float64)
        vectors = np.empty((k, stop - start))
        for i, one in enumerate(pool):
            vectors[i] = read_numbers(one.checkpoint, name, start, stop)
        with np.errstate(invalid="ignore", over="ignore"):
            bad += np.count_nonzero(~np.isfinite(vectors), axis=1)
            squares += np.einsum("ij,ij->i", vectors, vectors)
            vectors -= origin
            gram += vectors @ vectors.T
            base_square += float(origin @ origin)
        advance(k * (stop - start) * ITEMSIZE[spec.dtype])
    names = tuple(one.name for one in pool)
    return Geometry(names, gram, base_square**0.5, np.sqrt(squares), bad)
