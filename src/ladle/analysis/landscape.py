"""Landscapes: the path between two models, and the plane through three, with what lies on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations
from typing import Any, Literal

import numpy as np

from ladle.analysis import path
from ladle.analysis.measures import Group, Measure, Measured
from ladle.analysis.path import Barrier
from ladle.analysis.plane import Axis, Plane, Shares
from ladle.analysis.positions import Float64, Positions, with_origin
from ladle.analysis.survey import Curve, Survey
from ladle.errors import BadInput
from ladle.recipes.portions import Portion, soup_of
from ladle.soup import Ingredient, Pool, Soup, is_adapter, uniform_soup, with_base

Role = Literal["base", "model", "soup"]


@dataclass(frozen=True)
class Grid:
    """How many points a plane has along each axis, and a path in all.

    `margin` is how far they go beyond the models, as a share of the models' extent. With the
    defaults the models lie on grid points, a tenth of the way between them apart.
    """

    columns: int = 15
    rows: int = 15
    margin: Fraction = Fraction(1, 5)

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 2:
            raise BadInput("a grid needs at least two points along each axis, as in --grid 15")
        if self.margin < 0:
            raise BadInput("the margin of a grid cannot be negative; give one as in --margin 0.2")


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
    """(k, k) between the first k places, which are the models that were given."""
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


@dataclass(frozen=True, eq=False)
class Ground:
    """The models of a landscape, before anything is measured: see `lay_out`."""

    positions: Positions
    """The two or three that it goes through, then those that are marked besides."""
    corners: Pool
    """Those it goes through."""
    roles: tuple[Role, ...]
    plane: Plane | None
    grid: Grid
    models: tuple[int, ...]
    """Which of the corners are models of the user's, not the base."""

    def evaluations(self, splits: int) -> int:
        """How often a soup is put before a split, counting those that the store may know."""
        places = len(list(self._marked()))
        count = places + sum(len(axis.at) for _, axis in self._paths())
        if self.plane:
            count += self.grid.columns * self.grid.rows
        return count * splits

    def survey(self, survey: Survey) -> Landscape:
        """Measure all of it: the models and soups that are marked first, the grid last.

        Raises:
            LadleError: see `Evaluator.predict`.
        """
        survey.evaluator.sharing(self.corners)
        places = [replace(place, values=survey.of(soup)) for place, soup in self._marked()]
        distances = self.positions.distances
        paths = []
        for (i, j), axis in self._paths():
            shares = [_on_path(len(self.corners), i, j, t) for t in axis.at]
            curves = self._curves(survey, shares, (len(shares),))
            names = (self.corners[i].name, self.corners[j].name)
            t = tuple(float(one) for one in axis.at)
            paths.append(Path(names, float(distances[i, j]), t, curves))
        given = len(self.positions.pool)
        found = Landscape(
            places,
            distances[:given, :given],
            self.positions.angle(1, 2) if self.plane else None,
            paths,
            kinds=survey.kinds,
            samples=survey.samples,
            seed=survey.seed,
        )
        if self.plane is None:
            return found
        columns = self.plane.columns(self.grid.columns, self.grid.margin)
        rows = self.plane.rows(self.grid.rows, self.grid.margin)
        points = [self.plane.shares(x, y) for y in rows.at for x in columns.at]
        return replace(
            found,
            a=tuple(float(x) * self.plane.width for x in columns.at),
            b=tuple(float(y) * self.plane.height for y in rows.at),
            curves=self._curves(survey, points, (len(rows.at), len(columns.at))),
        )

    def _curves(
        self, survey: Survey, shares: Sequence[Shares], shape: tuple[int, ...]
    ) -> list[Curve]:
        return survey.curves([survey.of(self._soup(one)) for one in shares], shape)

    def _soup(self, shares: Shares) -> Soup:
        return soup_of(self.corners, Portion("", dict(enumerate(shares))))

    def _paths(self) -> Iterator[tuple[tuple[int, int], Axis]]:
        axis = path.steps(self.grid.columns, self.grid.margin)
        among = self.models if len(self.models) > 1 else range(len(self.corners))
        for pair in combinations(among, 2):
            yield pair, axis

    def _marked(self) -> Iterator[tuple[Place, Soup]]:
        corners = len(self.corners)
        for i, one in enumerate(self.positions.pool):
            inside = i < corners
            shares = tuple(Fraction(int(i == j)) for j in range(corners)) if inside else None
            at, off = self._at(i) if shares is None else (self._at_shares(shares), 0.0)
            place = Place(
                one.name,
                self.roles[i],
                at,
                off,
                None if shares is None else tuple(map(float, shares)),
                str(one.checkpoint.path),
                one.digest,
            )
            alone = uniform_soup(Pool.of([one])) if shares is None else self._soup(shares)
            yield place, alone
        if len(self.models) > 1:
            shares = tuple(
                Fraction(int(i in self.models), len(self.models)) for i in range(corners)
            )
            name = f"soup of {', '.join(self.corners[i].name for i in self.models)}"
            weights = tuple(map(float, shares))
            at = self._at_shares(shares)
            yield Place(name, "soup", at, 0.0, weights, None, None), self._soup(shares)

    def _at(self, i: int) -> tuple[tuple[float, ...], float]:
        if self.plane:
            a, b, off = self.plane.coordinates(i)
            return (a, b), off
        t, off = path.along(self.positions, i)
        return (t,), off

    def _at_shares(self, shares: Shares) -> tuple[float, ...]:
        return self.plane.of_shares(shares) if self.plane else (float(shares[1]),)


def lay_out(
    models: Pool,
    *,
    base: Ingredient | None = None,
    marks: Sequence[Ingredient] = (),
    grid: Grid | None = None,
) -> Ground:
    """Two points, the base counted, are the ends of a path; three of a plane, its origin first.

    A base beside three models is marked, as the `marks` are, on the point of the plane that is
    nearest to it. Reads every checkpoint once.

    Raises:
        BadInput: there are too few or too many models, two of them are the same, or three lie on
            one line.
        LayoutMismatch: their tensors differ.
        NonFiniteTensor: one holds NaN or infinity.
    """
    if len(models) > 3 or len(models) + (base is not None) < 2:
        raise BadInput(
            f"{len(models)} checkpoint{'s are' if len(models) > 1 else ' is'} no landscape; give "
            "two for the path between them, three, or two and --base, for the plane, and mark "
            "others with --mark"
        )
    if base is None and any(is_adapter(one.checkpoint) for one in (*models, *marks)):
        raise BadInput("an adapter is no model without its base; give it with --base")
    together = with_origin(models, base)
    roles: list[Role] = ["base"] if base is not None else []
    roles += ["model"] * len(models)
    order = list(range(len(together)))
    if len(together) > 3:
        order = [*order[1:], 0]
    corners = together.subset(order[:3])
    roles = [roles[i] for i in order]
    besides = [together[i] for i in order[3:]]
    besides += with_base(Pool.of(marks), base) if marks and base is not None else marks
    roles += ["soup" if "ladle" in one.checkpoint.metadata else "model" for one in marks]
    every = Pool.of(_named_apart([*corners, *besides]))
    positions = Positions.of(every)
    positions.check_apart(range(len(together)))
    plane = Plane.of(positions) if len(corners) == 3 else None
    chosen = tuple(i for i in range(len(corners)) if roles[i] == "model")
    return Ground(positions, corners, tuple(roles), plane, grid or Grid(), chosen)


def _on_path(corners: int, i: int, j: int, t: Fraction) -> Shares:
    shares = [Fraction(0)] * corners
    shares[i], shares[j] = 1 - t, t
    return tuple(shares)


def _named_apart(ingredients: Sequence[Ingredient]) -> list[Ingredient]:
    """With names of their own, for marks were gathered apart from the models."""
    count: Counter[str] = Counter()
    found = []
    for one in ingredients:
        count[one.name] += 1
        again = count[one.name]
        found.append(replace(one, name=f"{one.name} ({again})") if again > 1 else one)
    return found


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
