"""Averages along one training: what a decay of the learning rate, or an average kept while
training, would have given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from ladle.errors import BadInput
from ladle.merge import Linear, mean
from ladle.soup import Evaluate, Policy, Pool, Soup

Weighting = Literal["uniform", "linear", "minus-sqrt", "ema"]


def window(
    pool: Pool,
    evaluate: Evaluate | None = None,
    *,
    weighting: Weighting = "uniform",
    decay: float | None = None,
    integers: Policy = "equal",
) -> Soup:
    """The weighted mean of the steps of one run, in the order of their steps; asks for no score.

    Of n checkpoints, evenly spaced, the j-th has

    - `uniform`: 1/n (LAWA, SWA); a linear decay of the learning rate to zero over the window;
    - `minus-sqrt`: √(j/n) - √((j-1)/n), so that early ones count most; a decay by 1 - √(j/n);
    - `linear`: in proportion to j, so that late ones count most;
    - `ema`: decay^(n-j)·(1 - decay), and decay^(n-1) of the first: the exponential moving average
      that began with it.

    What a decay is mimicked by is from WSM (arXiv 2507.17634): a soup Σⱼ cⱼ·θⱼ has the i-th
    stretch of the training in it with the factor Σ cⱼ over j ≥ i.

    Args:
        decay: of `ema`; None is (n-1)/(n+1), whose mean age is that of the uniform mean.

    Raises:
        BadInput: a checkpoint tells no step, two tell the same (they are of several runs), or
            there is a decay without `ema`.
    """
    if decay is not None and weighting != "ema":
        raise BadInput(f"--decay goes with --weighting ema, not with {weighting}")
    order = _by_step(pool)
    n = len(order)
    if decay is None:
        decay = (n - 1) / (n + 1)
    weights: Mapping[Weighting, Callable[[int], float]] = {
        "linear": float,
        "minus-sqrt": lambda j: math.sqrt(j / n) - math.sqrt((j - 1) / n),
        "ema": lambda j: decay ** (n - j) * (1.0 if j == 1 else 1 - decay),
    }
    merge = mean(n)
    if weighting != "uniform":
        found = tuple(map(weights[weighting], range(1, n + 1)))
        merge = Linear(found, math.fsum(found))
    soup = Soup(pool.subset(order), merge, integers=integers)
    options: dict[str, object] = {"weighting": weighting}
    options |= {"decay": decay} if weighting == "ema" else {}
    return replace(soup, recipe="window", options=options)


def _by_step(pool: Pool) -> list[int]:
    steps = [one.facts.step for one in pool]
    silent = [one.name for one in pool if one.facts.step is None]
    if silent:
        raise BadInput(
            f"--recipe window: {', '.join(silent[:3])} tell no step; name the folder of a "
            "training, or files that record their step"
        )
    twice = [step for step, count in Counter(steps).items() if count > 1]
    if twice:
        both = [one.name for one in pool if one.facts.step == twice[0]]
        raise BadInput(
            f"--recipe window takes the steps of one run, and {' and '.join(both[:2])} are both of "
            f"step {twice[0]}; name the checkpoints of one run"
        )
    return sorted(range(len(pool)), key=lambda i: steps[i] or 0)
