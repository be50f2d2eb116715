"""What a landscape is: marked models, curves along paths and over a plane, and its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ladle.analysis import path
from ladle.analysis.measures import Group, Measure, Measured
from ladle.analysis.path import Barrier
from ladle.analysis.positions import Float64
from ladle.analysis.survey import Curve

Role = Literal["base", "model", "soup"]


@dataclass(frozen=True)
class Place:
    """A model or soup that is marked: where it lies, and what was measured of it.

    `at` is (a, b) in a plane, in units of distance, and (t,) on a path; `off` is how far from
    there the model is, 0 for what lies in the plane or on the path. `weights` are those of the two
    or three models that the landscape goes through; None for what is only projected.
    """

    name: str
    role: Role
    at: tuple[float, ...]
    off: float
    weights: tuple[float, ...] | None
    path: str | None
    sha256: str | None
    values: Sequence[Measured] = ()


@dataclass(frozen=True, eq=False)
class Path:
    """Curves along the straight path between two of the models, and a barrier for each."""

    names: tuple[str, str]
    distance: float
    t: tuple[float, ...]
    curves: Sequence[Curve]

    @property
    def barriers(self) -> list[Barrier]:
        return [
            path.barrier(self.t, one.values, higher_is_better=one.measure.metric.higher_is_better)
            for one in self.curves
        ]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        barriers = [
            {
                "split": curve.group.name,
                "role": curve.group.role,
                "quantity": curve.measure.name,
                "height": found.height,
                "at": found.at,
            }
            for curve, found in zip(self.curves, self.barriers, strict=True)
        ]
        return {
            "between": list(self.names),
            "distance": self.distance,
            "t": list(self.t),
            "curves": [one.record() for one in self.curves],
            "barriers": barriers,
        }


@dataclass(frozen=True, eq=False)
class Landscape:
    """What is around two or three models.

    `a` and `b` are the grid's axes in units of distance, and `curves` have (b, a) values; of a path
    alone, there are none. `paths` go between the models that were given, not to the base, unless
    there is but one.
    """

    places: Sequence[Place]
    distances: Float64
    """(k, k) between the first k places, which are the checkpoints; soups made here follow."""
    angle: float | None
    """Degrees between the second and the third model at the first."""
    paths: Sequence[Path]
    a: tuple[float, ...] = ()
    b: tuple[float, ...] = ()
    curves: Sequence[Curve] = ()
    kinds: Sequence[tuple[Group, Measure]] = ()
    samples: int | None = None
    seed: int = 0

    def record(self) -> dict[str, Any]:
        """For `landscape.json`."""
        plane = bool(self.a)
        record: dict[str, Any] = {
            "kind": "plane" if plane else "path",
            "models": [self._place(one) for one in self.places],
            "samples": self.samples,
            "seed": self.seed,
            "geometry": {"distances": self.distances.tolist(), "angle": self.angle},
        }
        if not plane:
            return record | self.paths[0].record()
        return record | {
            "a": list(self.a),
            "b": list(self.b),
            "curves": [one.record() for one in self.curves],
            "paths": [one.record() for one in self.paths],
        }

    def _place(self, one: Place) -> dict[str, Any]:
        axes = ("a", "b") if self.a else ("t",)
        return {
            "name": one.name,
            "path": one.path,
            "sha256": one.sha256,
            "role": one.role,
            "weights": None if one.weights is None else list(one.weights),
            **dict(zip(axes, one.at, strict=True)),
            "off": one.off,
            "values": [
                {
                    "split": group.name,
                    "role": group.role,
                    "quantity": measure.name,
                    "value": found.value,
                    "standard_error": found.standard_error,
                }
                for (group, measure), found in zip(self.kinds, one.values, strict=True)
            ],
        }


def beyond(found: Landscape) -> list[str]:
    """Names of the marked models that lie outside of the grid."""
    if not found.a:
        t = found.paths[0].t
        return [one.name for one in found.places if not t[0] <= one.at[0] <= t[-1]]
    low, high = np.array([[found.a[0], found.b[0]], [found.a[-1], found.b[-1]]])
    return [
        one.name
        for one in found.places
        if not (np.less_equal(low, one.at) & np.less_equal(one.at, high)).all()
    ]
