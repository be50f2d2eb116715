"""That a learned soup is on held-out examples no worse than the best single model.

Its loss says that it is better, on examples that it did not learn from. The best single is the
best of many on the very examples that it is compared on, which flatters it, so a better soup may
score a little less there; and the data may say so rightly. Either way this makes it true, at the
least cost in what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ladle.checkpoint.numbers import Float64
from ladle.recipes.learned_progress import Best
from ladle.recipes.learned_school import School, members_of, told
from ladle.recipes.trial import try_out
from ladle.soup import Evaluate, Soup, Tasting, uniform_soup

_TENTHS = 10


@dataclass(frozen=True)
class Guarded:
    """A soup, what its logits are multiplied by, and its loss then on the examples kept back.

    `pulled` says where it had to be pulled to, and how far; None if it was good as it was.
    """

    soup: Soup
    factor: float
    loss: float
    tastings: tuple[Tasting, ...]
    pulled: Mapping[str, Any] | None = None

    @property
    def is_single(self) -> bool:
        """Whether it is the best single, which has no learned weights."""
        return len(members_of(self.soup)) == 1


@dataclass(frozen=True)
class Guard:
    """The best ingredient, by its place in the pool, and its score on all held-out examples."""

    evaluate: Evaluate
    place: int
    score: float

    def guarded(self, school: School, best: Best) -> Guarded:
        """The best step, or one near it that is no worse than the best single.

        Where the step is worse, a way leads from it to the start, or, if that is worse too, to the
        best single. Of its tenths that are no worse, the one with the lowest loss on the examples
        kept back is taken.
        """
        first, split = school.first, school.gradients.split
        alone = uniform_soup(first.pool.subset([self.place]), integers=first.integers)
        tastings: list[Tasting] = []

        def passes(soup: Soup, name: str, loss: float) -> bool:
            one = try_out(soup, name, self.evaluate, self.score, rival=alone)
            versus = f"against the best alone, {alone.members[0]}: {one.reason}"
            reason = f"{told(loss)}; {versus}"
            tastings.append(replace(one, members=members_of(soup), reason=reason))
            return one.kept

        chosen = school.soup(best.shares) if best.step else first
        what = f"step {best.step}" if best.step else "start"
        if passes(chosen, f"{what}, on all of {split}", best.loss):
            return Guarded(chosen, best.factor, best.loss, tuple(tastings))
        end, shares, towards = alone, _one_hot(best.shares, self.place), alone.members[0]
        if best.step and passes(first, f"start, on all of {split}", school.judged(first)[1]):
            end, shares, towards = first, school.start(), "start"
        points = [tenth / _TENTHS for tenth in range(1, _TENTHS)]
        soups = {at: school.soup((1 - at) * best.shares + at * shares) for at in points} | {
            1.0: end
        }
        judged = {at: school.judged(soup) for at, soup in soups.items()}
        # Few are measured, and the last one is no worse.
        at = next(
            at
            for at in sorted(judged, key=lambda at: _or_most(judged[at][1]))
            if passes(
                soups[at], towards if at == 1 else f"{at:g} of the way to {towards}", judged[at][1]
            )
        )
        pulled = {"towards": towards, "share": at}
        return Guarded(soups[at], *judged[at], tuple(tastings), pulled)


def _one_hot(shares: Float64, place: int) -> Float64:
    found = np.zeros_like(shares)
    found[:, place] = 1
    return found


def _or_most(loss: float) -> float:
    """To sort by: a loss that is no number comes last."""
    return math.inf if math.isnan(loss) else loss
