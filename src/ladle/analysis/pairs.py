"""Two models and what is halfway between them: soup, ensemble, barrier, and the formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ladle.analysis.theory import STEP, OnSegment, is_of_classes, losses, soup_minus_ensemble
from ladle.predictions import Metric, Predictions, accuracy, ensemble

AroundTheMiddle = tuple[Predictions, Predictions, Predictions]
"""What the soups at α = 1/2 - h, 1/2 and 1/2 + h say."""


@dataclass(frozen=True)
class PairOnSplit:
    """What two models make of each other on one split, or in the mean over several.

    Scores are in the metric's own direction, losses as the model's logits stand, in nats for
    classes and squared for numbers. `barrier` is how far the loss rises above the straight line
    between those of the ends, at α = 0, 1/2 - h, 1/2, 1/2 + h or 1; 0 where it does not.
    `advantage` is the soup's score minus the mean of the ends', positive where the soup is better.

    Differences are soup minus ensemble, positive where the ensemble is better: of errors (1 -
    accuracy; NaN for numbers), and of losses at the inverse temperature `beta` that calibrates the
    soup. `approximation` is what the paper's formula makes of the latter, from `curvature` and
    `variance`; `second_order` is that without what it leaves out (see `ladle.analysis.theory`).
    Those that begin with `plain` are at β = 1.
    """

    first: float
    second: float
    soup: float
    ensemble: float
    first_loss: float
    second_loss: float
    soup_loss: float
    ensemble_loss: float
    barrier: float
    advantage: float
    error_difference: float
    beta: float
    loss_difference: float
    standard_error: float
    approximation: float
    curvature: float
    variance: float
    second_order: float
    plain_approximation: float
    plain_curvature: float
    plain_variance: float


@dataclass(frozen=True)
class Pair:
    """Two models of a pool by number, how far they are apart, and what they are on each split.

    `angle` is between them at the base, in degrees; NaN without a base. `barrier` is that of the
    held-out split; `advantage` the mean over the test set and every shift (paper, figure 3).
    """

    models: tuple[int, int]
    angle: float
    distance: float
    barrier: float
    advantage: float
    on: Mapping[str, PairOnSplit]


def pair_on_split(
    ends: tuple[Predictions, Predictions],
    around: AroundTheMiddle,
    metric: Metric,
    *,
    beta: float,
) -> PairOnSplit:
    """A pair on a split, from what its ends and the soups around the middle say there."""
    below, soup, above = around
    both = ensemble(ends)
    segment = OnSegment(ends, below, soup, above)
    calibrated, plain = (soup_minus_ensemble(segment, beta=b) for b in (beta, 1.0))
    first, second, low, high = (float(losses(one).mean()) for one in (*ends, below, above))
    path = {0.0: first, 0.5 - STEP: low, 0.5: plain.soup, 0.5 + STEP: high, 1.0: second}
    rises = [loss - ((1 - at) * first + at * second) for at, loss in path.items()]
    scores = [metric(one) for one in (*ends, soup, both)]
    return PairOnSplit(
        first=scores[0],
        second=scores[1],
        soup=scores[2],
        ensemble=scores[3],
        first_loss=first,
        second_loss=second,
        soup_loss=plain.soup,
        ensemble_loss=plain.ensemble,
        barrier=float(np.max(rises)),  # NaN if any is.
        advantage=metric.sign * (scores[2] - (scores[0] + scores[1]) / 2),
        error_difference=accuracy(both) - accuracy(soup) if is_of_classes(soup) else float("nan"),
        beta=beta,
        loss_difference=calibrated.true,
        standard_error=calibrated.standard_error,
        approximation=calibrated.approximation,
        curvature=calibrated.curvature,
        variance=calibrated.variance,
        second_order=calibrated.second_order,
        plain_approximation=plain.approximation,
        plain_curvature=plain.curvature,
        plain_variance=plain.variance,
    )


def average(splits: Sequence[PairOnSplit]) -> PairOnSplit:
    """The plain mean of everything over several splits; the standard error is that of the mean."""
    columns = {
        field.name: np.array([getattr(one, field.name) for one in splits])
        for field in fields(PairOnSplit)
    }
    means = {name: float(values.mean()) for name, values in columns.items()}
    error = float(np.sqrt((columns["standard_error"] ** 2).sum()) / len(splits))
    return PairOnSplit(**{**means, "standard_error": error})


def relative_barrier(pair: PairOnSplit) -> float:
    """The barrier as a share of the mean loss of the ends, which is what basins are told by."""
    mean = (pair.first_loss + pair.second_loss) / 2
    return pair.barrier / mean if mean else 0.0
