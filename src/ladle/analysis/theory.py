"""Soup against ensemble as the paper derives it (section 4 and appendix K), on stored predictions.

Two models θ₀ and θ₁, the soup at α between them, the ensemble with the same shares. The ensemble's
logits differ from the soup's by about α(1-α)/2 · δᵀ∇²f δ, δ = θ₁ - θ₀, which moves the loss l by
∇l · that. The chain rule knows this product from the loss along the path:

    d²l/dα² = Δfᵀ ∇²l Δf + ∇l · (δᵀ∇²f δ),    Δf = f(θ₁) - f(θ₀)

so that

    L_soup - L_ensemble ≈ α(1-α)/2 · (E[Δfᵀ ∇²l Δf] - d²L_soup/dα²)

Positive: the ensemble is better. The first term is what disagreement costs where the soup is
unsure. For cross-entropy of β times the logits it is the paper's β² E Var[Δf_Y], Y drawn from the
soup's probabilities; for squared errors it is 2 E[Δf²]. The second term is measured: a central
difference of the soup's loss, which takes the soups at α ± h.

The paper stops at first order in d = f_ensemble - f_soup. Where both were evaluated d is known, and
so is what that leaves out, E[dᵀ ∇²l d] / 2, which is never negative: the formula favours the
ensemble by that much. Where soup and ensemble are about as good it may decide the sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ladle.analysis.positions import Float64
from ladle.predictions import Predictions
from ladle.predictions.metrics import log_probabilities

STEP = 0.1
"""h of the central difference: α ± h lie on the grid of tenths that paths are measured on."""


def is_of_classes(predictions: Predictions) -> bool:
    """Whether the logits are of classes, and not numbers (regression)."""
    return bool(np.issubdtype(predictions.labels.dtype, np.integer))


def losses(predictions: Predictions, *, beta: float = 1.0) -> Float64:
    """(N,) the cross-entropy of β times the logits, in nats; of numbers the squared error.

    β, the inverse of a temperature, means nothing for numbers and is left out there.
    """
    return _losses(predictions.logits, predictions, beta)


@dataclass(frozen=True, eq=False)
class OnSegment:
    """What is said of one split by two models and by soups on the segment between them.

    `soup` is (1 - α)·θ₀ + α·θ₁; `below` and `above` are those at α - `step` and α + `step`.
    """

    ends: tuple[Predictions, Predictions]
    below: Predictions
    soup: Predictions
    above: Predictions
    alpha: float = 0.5
    step: float = STEP

    def __post_init__(self) -> None:
        if not 0 < self.step <= min(self.alpha, 1 - self.alpha):
            raise ValueError(f"α ± h = {self.alpha} ± {self.step} does not lie on the segment")
        for one in (*self.ends, self.below, self.above):
            if one.split != self.soup.split or not np.array_equal(one.labels, self.soup.labels):
                raise ValueError(
                    f"predictions of different data: {self.soup.split} and {one.split}"
                )


@dataclass(frozen=True)
class Difference:
    """The soup's mean loss minus the ensemble's, and what the paper makes of it.

    All at inverse temperature `beta`. `curvature` is d²L/dα² of the soup's loss, `variance` the
    mean of Δfᵀ ∇²l Δf, and `neglected` that of dᵀ ∇²l d / 2; `standard_error`, of the true
    difference over examples, is NaN for one.
    """

    beta: float
    soup: float
    ensemble: float
    standard_error: float
    curvature: float
    variance: float
    neglected: float
    alpha: float

    @property
    def true(self) -> float:
        return self.soup - self.ensemble

    @property
    def approximation(self) -> float:
        """The paper's formula."""
        return self.alpha * (1 - self.alpha) / 2 * (self.variance - self.curvature)

    @property
    def second_order(self) -> float:
        """The formula without what it neglects."""
        return self.approximation - self.neglected


def soup_minus_ensemble(on: OnSegment, *, beta: float = 1.0) -> Difference:
    """The difference of soup and ensemble in loss, as it is and as approximated.

    The paper has β calibrate the soup: one over `fit_temperature` of what the soup says.
    """
    alpha, soup = on.alpha, on.soup
    first, second = (end.logits.astype(np.float64) for end in on.ends)
    here = losses(soup, beta=beta)
    mean = (1 - alpha) * first + alpha * second
    ensemble = _losses(mean, soup, beta)
    below, above = (float(losses(one, beta=beta).mean()) for one in (on.below, on.above))
    gap, n = here - ensemble, len(soup)
    return Difference(
        beta=beta,
        soup=float(here.mean()),
        ensemble=float(ensemble.mean()),
        standard_error=float(gap.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan"),
        curvature=(above - 2 * float(here.mean()) + below) / on.step**2,
        variance=float(_bend(soup, second - first, beta).mean()),
        neglected=float(_bend(soup, mean - soup.logits, beta).mean()) / 2,
        alpha=alpha,
    )


def _losses(logits: npt.NDArray[Any], of: Predictions, beta: float) -> Float64:
    # In float64 throughout: the central difference magnifies what is rounded away by 1/h².
    if not is_of_classes(of):
        return np.asarray((logits[:, 0].astype(np.float64) - of.labels) ** 2)
    with np.errstate(invalid="ignore", over="ignore"):
        said = log_probabilities(beta * logits.astype(np.float64))
    return np.asarray(-said[np.arange(len(of)), of.labels])


def _bend(soup: Predictions, change: Float64, beta: float) -> Float64:
    """(N,) vᵀ ∇²l v at the soup, of a change v (N, C) of the logits."""
    if not is_of_classes(soup):
        return np.asarray(2 * change[:, 0] ** 2)
    with np.errstate(invalid="ignore", over="ignore"):
        chances = np.exp(log_probabilities(beta * soup.logits.astype(np.float64)))
        mean = (chances * change).sum(axis=1, keepdims=True)
        return np.asarray(beta**2 * (chances * (change - mean) ** 2).sum(axis=1))
