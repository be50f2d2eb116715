"""Which points of a space a sweep tries. Optuna's samplers choose them.

A study in memory is asked for one trial after the other, from the first, whenever the runs of a
sweep are wanted. So they depend on space, seed and kind of points alone: not on which runs there
are already, nor on how those went.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ladle.errors import BadInput, MissingExtra
from ladle.sweep.distributions import Constant, Distribution
from ladle.sweep.quiet_optuna import quiet_optuna

POINTS = ("random", "sobol", "grid")
_LARGEST_GRID = 1_000_000  # Optuna lists all of it in memory.


def draw(
    distributions: Mapping[str, Distribution], seed: int, count: int, points: str
) -> list[dict[str, Any]]:
    """A value per distribution for each of `count` points of one of the kinds in `POINTS`.

    Raises:
        BadInput: there is no such kind or no grid, or it has fewer points.
        MissingExtra: Optuna is not installed, or SciPy, which Sobol sequences need.
    """
    if points not in POINTS:
        raise BadInput(f"there are no points {points!r}; choose {' or '.join(POINTS)}")
    if points == "grid":
        return _grid(distributions, seed, count)
    sides = list(distributions)
    if points == "sobol":
        # The first sides of a sequence are its most even ones.
        sides = [key for key in sides if not isinstance(distributions[key], Constant)]
    return [
        {key: one.at(shares.get(key, 0.0)) for key, one in distributions.items()}
        for shares in _shares(sides, seed, count, points)
    ]


def _shares(sides: list[str], seed: int, count: int, points: str) -> list[dict[str, float]]:
    """Points of the unit cube with these sides."""
    with quiet_optuna() as optuna:
        cube = {side: optuna.distributions.FloatDistribution(0.0, 1.0) for side in sides}
        if points == "random":
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(_whole(seed)))
        else:
            if importlib.util.find_spec("scipy") is None:
                raise MissingExtra("scipy", "sweep")
            sampler = optuna.samplers.QMCSampler(
                scramble=True, seed=_whole(seed), warn_independent_sampling=False
            )
            study = optuna.create_study(sampler=sampler)
            # The sampler learns from its first trial, which is not of the sequence, what to draw.
            study.tell(study.ask(cube), 0.0)
        return [study.ask(cube).params for _ in range(count)]


def _grid(distributions: Mapping[str, Distribution], seed: int, count: int) -> list[dict[str, Any]]:
    options = {}
    for key, distribution in distributions.items():
        listed = distribution.options
        if listed is None:
            raise BadInput(
                f"{key} is not from a list of values, so the space has no grid; "
                f"give it a {{choice = [...]}}, or choose other points"
            )
        options[key] = listed
    size = math.prod(len(listed) for listed in options.values())
    if size < count:
        raise BadInput(f"the grid has {size} points, fewer than {count} runs; ask for {size}")
    if size > _LARGEST_GRID:
        raise BadInput(f"the grid has {size} points, too many to list; choose random points")
    # By number, for Optuna does not tell 1 from 1.0.
    numbers = {key: range(len(listed)) for key, listed in options.items()}
    with quiet_optuna() as optuna:
        sides = {
            key: optuna.distributions.IntDistribution(0, len(listed) - 1)
            for key, listed in options.items()
        }
        sampler = optuna.samplers.GridSampler(numbers, _whole(seed))
        study = optuna.create_study(sampler=sampler)
        asked = [study.ask(sides).params for _ in range(count)]
    return [{key: options[key][place] for key, place in point.items()} for point in asked]


def _whole(seed: int) -> int:
    """A seed of 32 bits, which is what Optuna's samplers take."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])
