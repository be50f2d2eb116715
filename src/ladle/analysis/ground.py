"""Where a landscape goes: from two or three models to soups, and what is measured of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations

from ladle.analysis import path
from ladle.analysis.landscape import Landscape, Path, Place, Role
from ladle.analysis.plane import Axis, Plane, Shares
from ladle.analysis.positions import Positions, with_origin
from ladle.analysis.survey import Curve, Survey
from ladle.errors import BadInput
from ladle.recipes.portions import Portion, soup_of
from ladle.soup import Ingredient, Pool, Soup, is_adapter, uniform_soup, with_base


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
        found = Landscape(
            places,
            distances,
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
