"""The plane through three models (paper, section 4.1; the construction is of Garipov et al., 2018).

With θ₀ the first of them, u₁ points from it to θ₁, and u₂ is what is left of θ₂ - θ₀ without its
part along u₁, both of length 1; θ₀ + a·u₁ + b·u₂ is the point (a, b), in units of distance in
weight space. It is an affine combination of the three models, so nothing but their weights in it
is needed to have the soup that lies there:

    θ₀ + x·(θ₁ - θ₀) + y·(θ₂ - θ₀ - r·(θ₁ - θ₀)),    r = ⟨θ₂ - θ₀, θ₁ - θ₀⟩ / ‖θ₁ - θ₀‖²

with x = a / ‖θ₁ - θ₀‖ and y = b / ‖θ₂ - θ₀ - r·(θ₁ - θ₀)‖. Grids are regular in x and y, which are
fractions, and so are the weights: they sum to 1 exactly. Of what is measured only r is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ladle.analysis.positions import Positions
from ladle.errors import BadInput

Shares = tuple[Fraction, ...]

_DIGITS = 9
"""Of r after the point. More would depend on how many threads added up the inner products, and a
point whose weights differ in the last bit is another soup, which no store knows."""


@dataclass(frozen=True)
class Axis:
    """Where the points of a grid lie along one axis, in fractions of its unit, rising."""

    at: tuple[Fraction, ...]

    @classmethod
    def over(cls, low: Fraction, high: Fraction, *, points: int, margin: Fraction) -> Axis:
        """From `low` to `high`, and beyond both by `margin` times their distance."""
        beyond = margin * (high - low)
        first, last = low - beyond, high + beyond
        return cls(tuple(first + (last - first) * i / (points - 1) for i in range(points)))


@dataclass(frozen=True, eq=False)
class Plane:
    """Through the first three models of `positions`, the first of which is its origin.

    `slant` is r above; `width` and `height` are the lengths that x = 1 and y = 1 stand for.
    """

    positions: Positions
    slant: Fraction
    width: float
    height: float

    @classmethod
    def of(cls, positions: Positions) -> Plane:
        """
        Raises:
            BadInput: two of the three are the same model, or they lie on a line; they are named.
        """
        positions.check_apart(range(3))
        gram = positions.gram
        scale = 10**_DIGITS
        slant = Fraction(round(float(gram[1, 2] / gram[1, 1]) * scale), scale)
        r = float(slant)
        square = float(gram[2, 2] - 2 * r * gram[1, 2] + r * r * gram[1, 1])
        height = max(square, 0.0) ** 0.5
        if height <= positions.rounding:
            names = [one.name for one in positions.pool]
            raise BadInput(
                f"{names[0]}, {names[1]} and {names[2]} lie on one line, as nearly as their "
                "precision tells, so no plane is theirs alone; give two of them for the path, or "
                "another third"
            )
        return cls(positions, slant, float(gram[1, 1]) ** 0.5, height)

    def shares(self, x: Fraction, y: Fraction) -> Shares:
        """The weights of the three models at a point; they sum to 1."""
        second = x - y * self.slant
        return (1 - second - y, second, y)

    def weights(self, a: float, b: float) -> tuple[float, ...]:
        """The same for a point in units of distance."""
        found = self.shares(Fraction(a / self.width), Fraction(b / self.height))
        return tuple(float(share) for share in found)

    def of_shares(self, shares: Sequence[Fraction]) -> tuple[float, float]:
        """Where a soup of the three models lies: (a, b)."""
        _, second, y = shares
        return float(second + y * self.slant) * self.width, float(y) * self.height

    def coordinates(self, i: int) -> tuple[float, float, float]:
        """(a, b) of the point of the plane that is nearest to model i, and how far that is."""
        gram, r = self.positions.gram, float(self.slant)
        a = float(gram[i, 1]) / self.width
        b = float(gram[i, 2] - r * gram[i, 1]) / self.height
        return a, b, max(float(gram[i, i]) - a * a - b * b, 0.0) ** 0.5

    def columns(self, points: int, margin: Fraction) -> Axis:
        """x of a grid that covers the three models."""
        low, high = min(Fraction(0), self.slant), max(Fraction(1), self.slant)
        return Axis.over(low, high, points=points, margin=margin)

    def rows(self, points: int, margin: Fraction) -> Axis:
        """y of a grid that covers the three models."""
        return Axis.over(Fraction(0), Fraction(1), points=points, margin=margin)
