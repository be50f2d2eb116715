"""`comparison.json`: a comparison as JSON, for the page and for other programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ladle.analysis.basins import APART
from ladle.analysis.comparison import Agreement, Comparison, agreement
from ladle.analysis.pairs import Pair, PairOnSplit
from ladle.analysis.positions import Float64
from ladle.analysis.theory import STEP
from ladle.predictions.metrics import ECE_BINS
from ladle.soup import Ingredient


def comparison_record(found: Comparison, base: Ingredient | None) -> dict[str, Any]:
    """What follows the header of `comparison.json`; see the documentation of the command."""
    plan = found.plan
    singles = [one for one in found.grown if one.kind == "single"]
    return {
        "base": None if base is None else _model(base),
        "models": [
            {
                **_model(one),
                "distance": float(found.from_base[i]),
                "splits": {
                    single.split: {"metric": single.score, "loss": single.loss}
                    for single in singles
                    if single.members == (i,)
                },
            }
            for i, one in enumerate(plan.pool)
        ],
        "held_out": found.held_out,
        "groups": [
            {"name": group.name, "role": group.role, "splits": list(group.splits)}
            for group in found.groups
        ],
        "samples": found.samples,
        "step": STEP,
        "pairs": [_pair(pair) for pair in found.pairs],
        "summary": summary(found),
        "matrices": {
            "angle": _matrix(found.angles),
            "distance": _matrix(found.distances),
            "barrier": _matrix(found.barriers),
            "order": list(found.basins.order),
            "clusters": list(found.basins.clusters or ()),
            "apart": APART,
        },
        "bins": ECE_BINS,
        "calibration": [
            {
                "kind": one.kind,
                "size": one.size,
                "order": one.order,
                "members": list(one.members),
                "split": one.split,
                "temperature": one.temperature,
                "ece": one.ece,
                "ece_scaled": one.ece_scaled,
            }
            for one in found.grown
            if not math.isnan(one.ece)
        ],
        "sizes": [
            {
                "kind": one.kind,
                "size": one.size,
                "split": one.split,
                "mean": one.mean,
                "low": one.low,
                "high": one.high,
                "loss": one.loss,
                "orders": one.orders,
            }
            for one in found.sizes
        ],
        "orders": [list(order) for order in plan.orders],
        "remarks": list(found.remarks),
    }


def summary(found: Comparison) -> dict[str, Any]:
    """By group of splits, how numbers go together over the pairs; and the extreme pairs.

    Correlations are Pearson's, and Spearman's, which a pair whose soup collapsed does not rule.
    """
    barriers = {pair.models: pair.barrier for pair in found.pairs if not math.isnan(pair.barrier)}
    clusters = found.basins.clusters
    return {
        "pairs": len(found.pairs),
        "splits": {group.name: _of_split(found, group.name) for group in found.groups},
        "lowest_barrier": _extreme(min, barriers),
        "highest_barrier": _extreme(max, barriers),
        "basins": None if clusters is None else len(set(clusters)),
    }


def _of_split(found: Comparison, split: str) -> dict[str, Any]:
    def of(name: str) -> Float64:
        return found.column(split, name)

    angles = np.array([pair.angle for pair in found.pairs])
    difference, plain = of("loss_difference"), of("soup_loss") - of("ensemble_loss")
    return {
        "soup": float(of("soup").mean()),
        "ensemble": float(of("ensemble").mean()),
        "loss_difference": float(difference.mean()),
        "error_difference": float(of("error_difference").mean()),
        "neglected": float((of("approximation") - of("second_order")).mean()),
        "advantage": float(of("advantage").mean()),
        "soup_and_ensemble": _agreement(agreement(of("soup"), of("ensemble"))),
        "approximation": _agreement(agreement(difference, of("approximation"))),
        "second_order": _agreement(agreement(difference, of("second_order"))),
        "approximation_of_errors": _agreement(
            agreement(of("error_difference"), of("approximation"))
        ),
        "approximation_at_beta_1": _agreement(agreement(plain, of("plain_approximation"))),
        "angle_and_advantage": _agreement(agreement(angles, of("advantage"))),
    }


def _agreement(found: Agreement) -> dict[str, Any]:
    share = found.same_sign / found.pairs if found.pairs else None
    return {
        "pairs": found.pairs,
        "pearson": found.pearson,
        "spearman": found.spearman,
        "same_sign": found.same_sign,
        "sign_agreement": share,
    }


def _extreme(
    which: Callable[..., tuple[int, int]], barriers: Mapping[tuple[int, int], float]
) -> dict[str, Any] | None:
    if not barriers:
        return None
    pair = which(barriers, key=lambda pair: barriers[pair])
    return {"models": list(pair), "barrier": barriers[pair]}


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "models": list(pair.models),
        "angle": pair.angle,
        "distance": pair.distance,
        "barrier": pair.barrier,
        "advantage": pair.advantage,
        "splits": {name: _on_split(one) for name, one in pair.on.items()},
    }


def _on_split(one: PairOnSplit) -> dict[str, Any]:
    return {
        "soup": {"metric": one.soup, "loss": one.soup_loss},
        "ensemble": {"metric": one.ensemble, "loss": one.ensemble_loss},
        "ends": [
            {"metric": one.first, "loss": one.first_loss},
            {"metric": one.second, "loss": one.second_loss},
        ],
        "barrier": one.barrier,
        "advantage": one.advantage,
        "error_difference": one.error_difference,
        "beta": one.beta,
        "loss_difference": one.loss_difference,
        "standard_error": one.standard_error,
        "approximation": one.approximation,
        "curvature": one.curvature,
        "variance": one.variance,
        "second_order": one.second_order,
        "at_beta_1": {
            "loss_difference": one.soup_loss - one.ensemble_loss,
            "approximation": one.plain_approximation,
            "curvature": one.plain_curvature,
            "variance": one.plain_variance,
        },
    }


def _matrix(matrix: Float64) -> list[list[float]] | None:
    """Row by row; None where nothing is known but that each model is itself."""
    known = ~np.isnan(matrix)
    return matrix.tolist() if known.sum() > len(matrix) else None


def _model(one: Ingredient) -> dict[str, Any]:
    return {
        "name": one.name,
        "path": str(one.checkpoint.path),
        "sha256": one.digest,
        "hyperparameters": dict(one.facts.hyperparameters),
    }
