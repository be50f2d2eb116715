"""Soups against ensembles: pairs of models, soups of growing size, and basins, in one go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ladle.analysis.basins import Basins, basins, require_scipy
from ladle.analysis.growth import Grown, Size, grow, sizes
from ladle.analysis.measures import Group, groups_of
from ladle.analysis.pairs import Pair, PairOnSplit, average, pair_on_split, relative_barrier
from ladle.analysis.plan import Plan
from ladle.analysis.positions import Float64, Positions
from ladle.analysis.said import Said
from ladle.evaluate import MEAN_OF_SHIFTS, Watch, unwatched
from ladle.predictions import fit_temperature


@dataclass(frozen=True)
class Agreement:
    """How two numbers go together over the pairs of models that have both.

    Correlations are NaN where there are fewer than three pairs, or one of the two never varies.
    `same_sign` counts the pairs in which both are on the same side of 0.
    """

    pairs: int
    pearson: float
    spearman: float
    same_sign: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """All that came out. Models are numbered as in `plan.pool`.

    `from_base` (k,) has the models' distances from the base; `angles`, `distances` and `barriers`
    are (k, k): degrees at the base, distance in weight space, and the rise of the held-out loss.
    NaN where it is not known: without a base, or of pairs that were not drawn. `samples` examples
    of each split were looked at, or all.
    """

    plan: Plan
    groups: tuple[Group, ...]
    held_out: str
    samples: int | None
    from_base: Float64
    angles: Float64
    distances: Float64
    barriers: Float64
    basins: Basins
    pairs: tuple[Pair, ...]
    grown: tuple[Grown, ...]
    sizes: tuple[Size, ...]
    remarks: tuple[str, ...]

    def column(self, split: str, name: str) -> Float64:
        """(P,) of every pair on a split, the field of `PairOnSplit` of this name."""
        return np.array([getattr(pair.on[split], name) for pair in self.pairs], np.float64)


def agreement(one: Float64, other: Float64) -> Agreement:
    """How two (P,) arrays go together where both are finite."""
    from scipy.stats import spearmanr

    known = np.isfinite(one) & np.isfinite(other)
    a, b = one[known], other[known]
    pearson = spearman = float("nan")
    if len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0:
        pearson = float(np.corrcoef(a, b)[0, 1])
        spearman = float(spearmanr(a, b).statistic)
    return Agreement(len(a), pearson, spearman, int((np.sign(a) == np.sign(b)).sum()))


def compare(
    plan: Plan, said: Said, positions: Positions, *, watch: Watch = unwatched
) -> Comparison:
    """Everything about a plan's models, from what they say.

    `positions` are those of the models, behind the base if there is one.

    Raises:
        MissingExtra: without SciPy.
    """
    require_scipy()
    evaluator, splits = said.evaluator, said.splits
    held_out = evaluator.held_out
    with watch("evaluating", len(plan.soups) * len(splits)) as advance:
        for _ in said.everything(plan):
            advance(1)
    groups = tuple(groups_of(splits, MEAN_OF_SHIFTS))
    classes = held_out.labels.dtype.kind != "f"
    k = len(plan.pool)
    with_base = len(positions.pool) > k
    own = slice(len(positions.pool) - k, None)
    angles = _angles(positions, k) if with_base else _unknown(k)
    distances = positions.distances[own, own]
    barriers, relative = _unknown(k), _unknown(k)
    unseen = [one.name for one in splits if one.role in ("test", "shift")] or [held_out.name]
    pairs = []
    with watch("comparing pairs", len(plan.pairs)) as advance:
        for i, j in plan.pairs:
            on = _pair(plan, (i, j), said, classes=classes)
            here = on[held_out.name]
            barriers[i, j] = barriers[j, i] = here.barrier
            relative[i, j] = relative[j, i] = relative_barrier(here)
            pairs.append(
                Pair(
                    (i, j),
                    angle=float(angles[i, j]),
                    distance=float(distances[i, j]),
                    barrier=here.barrier,
                    advantage=float(np.mean([on[name].advantage for name in unseen])),
                    on={g.name: average([on[name] for name in g.splits]) for g in groups},
                )
            )
            advance(1)
    with watch("growing soups", len(splits)) as advance:
        grown = grow(
            plan,
            said,
            evaluator.task.metric,
            groups,
            held_out=held_out.name,
            calibrate=classes,
            advance=advance,
        )
    return Comparison(
        plan,
        groups,
        held_out.name,
        said.samples,
        positions.distances[0, own] if with_base else np.full(k, np.nan),
        angles,
        distances,
        barriers,
        basins(relative, angles),
        tuple(pairs),
        tuple(grown),
        tuple(sizes(grown)),
        tuple(_remarks(plan, with_base=with_base, classes=classes)),
    )


def _pair(
    plan: Plan, pair: tuple[int, int], said: Said, *, classes: bool
) -> dict[str, PairOnSplit]:
    """What a pair is on each split, at the temperature that calibrates its soup."""
    held_out, metric = said.evaluator.held_out.name, said.evaluator.task.metric
    i, j = pair
    soups = plan.around_the_middle(pair)
    found: dict[str, PairOnSplit] = {}
    beta = 1.0
    for split in said.splits:  # The held-out split comes first.
        around = said.around(soups, split.name)
        if split.name == held_out and classes and np.isfinite(around[1].logits).all():
            beta = 1 / fit_temperature(around[1])
        ends = (said(plan.singles[i], split.name), said(plan.singles[j], split.name))
        found[split.name] = pair_on_split(ends, around, metric, beta=beta)
    return found


def _angles(positions: Positions, k: int) -> Float64:
    """(k, k) degrees between the models behind the base, 0 from each to itself."""
    angles = _unknown(k)
    for i, j in permutations(range(k), 2):
        angles[i, j] = positions.angle(i + 1, j + 1)
    return angles


def _unknown(k: int) -> Float64:
    """(k, k) what is known of no pair: NaN, and 0 from each model to itself."""
    matrix = np.full((k, k), np.nan)
    np.fill_diagonal(matrix, 0.0)
    return matrix


def _remarks(plan: Plan, *, with_base: bool, classes: bool) -> Iterator[str]:
    k = len(plan.pool)
    if not with_base:
        yield "Without a base there are no angles; give what the models were fine-tuned from."
    if len(plan.pairs) < k * (k - 1) // 2:
        yield (
            f"{len(plan.pairs)} of the {k * (k - 1) // 2} pairs were drawn at random, so models "
            "are not clustered into basins; --pairs takes more."
        )
    if not classes:
        yield (
            "The task is one of numbers: the loss is the squared error, there is no temperature "
            "and no calibration, and errors are not counted."
        )
