"""The learned soup (paper, appendix I): coefficients by gradient descent on held-out examples.

Minimised over coefficients α and an inverse temperature β is the loss of β·f(x; Σᵢ αᵢθᵢ), where the
paper holds all θᵢ in memory. Here they stay on the disk: d L/d αᵢ = ⟨d L/d θ, θᵢ⟩ takes one
streamed pass over them beside the ordinary gradient of one model, and the next merge another.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ladle.errors import BadInput
from ladle.merge import Linear
from ladle.predictions import ExampleNumbers, Labels
from ladle.recipes.greedy_soup import greedy
from ladle.recipes.learned_coefficients import By, Groups, Hyperplane, Simplex, Turns
from ladle.recipes.learned_evidence import Gradients, gradients_of
from ladle.recipes.learned_guard import Guard, Guarded
from ladle.recipes.learned_progress import Notebook, Progress
from ladle.recipes.learned_school import Pace, School
from ladle.recipes.tasting import taste_singles
from ladle.soup import Evaluate, Policy, Pool, Soup, is_adapter, uniform_soup

_LEAST_KEPT = 10
"""Examples to choose a step by: with fewer, luck would."""


def learned(
    pool: Pool,
    evaluate: Evaluate,
    *,
    by_layer: bool = False,
    by_block: bool = False,
    affine: bool = False,
    start: Literal["uniform", "greedy"] = "uniform",
    epochs: int = 5,
    lr: float = 0.1,
    examples_per_step: int = 128,
    ingredients_per_step: int | None = None,
    kept_back: float = 0.2,
    patience: int = 2,
    seed: int = 0,
    integers: Policy = "equal",
) -> Soup:
    """Learn the weights of a weighted average on held-out examples (paper, appendix I).

    The result fits the held-out examples, so that scores on them say nothing any more. A part of
    them is kept back from learning, evenly over the labels: of all steps, the start included, the
    one is taken that has the lowest loss there. Not the best score, which is a coarser measure: a
    few examples more or less say nothing.

    On all held-out examples the soup scores at least as well as the best ingredient: a step that
    does not is mixed with the start, or with that ingredient, until it does. What is the best of
    many there is flattered by it, so this is seldom needed because of a worse soup, and the less
    is mixed in, the better.

    Every step reads the tensors that differ twice from every ingredient; memory is that of the
    model, its gradient and one batch, whatever the number of ingredients. With a large pool that
    is most of the time, and `ingredients_per_step` cuts it (after MEHL-Soup+, see `Hyperplane`):
    the ingredients take turns, so many at a time, and each learns how far to go from the soup so
    far to each of these. That soup is one more model in memory.

    Args:
        evaluate: an `Evaluator` of a task that is `Differentiable`; others have no gradients. Where
            it has a workspace, an interrupted call that is made again goes on from there.
        by_layer: coefficients of its own for every tensor, which is what the paper calls a layer.
        by_block: the same for every block of the network.
        affine: let coefficients be negative, as long as they sum to one.
        start: where to begin, from the uniform or the greedy soup.
        epochs: passes over the held-out examples, at most.
        lr: of Adam; in softmax numbers, or in equal shares if `affine`.
        examples_per_step: how many each step looks at.
        ingredients_per_step: how many each step reads, if `affine`; None stands for all. All have
            had a turn after about every epoch.
        kept_back: the part of the held-out examples that steps are judged by.
        patience: epochs without a lower loss on those, after which to stop.
        seed: of what is kept back, and of the order of the rest.

    Raises:
        BadInput: there are no gradients to learn from, nothing to learn, or adapters; or too few
            steps for all to take turns.
        BadScore: no ingredient has a finite score.
        Diverged: a loss stopped being finite.

    Example:
        >>> evaluate = ladle.Evaluator(ladle.load_task("task.toml"))
        >>> soup = ladle.learned(ladle.open("runs/*"), evaluate, by_layer=True)
    """
    if by_layer and by_block:
        raise BadInput("--by-layer and --by-block exclude each other; choose one")
    if ingredients_per_step is not None and not affine:
        raise BadInput(
            "--ingredients-per-step goes with --affine: positive weights would begin every turn "
            "at zero, where none has a slope"
        )
    pace = Pace(epochs, lr, examples_per_step, patience, seed)
    _check(pool, pace, kept_back, start)
    gradients = gradients_of(evaluate, pool, integers)
    if not gradients.tensors:
        raise BadInput(
            f"the {len(pool)} checkpoints agree in every parameter of the model, so there is "
            "nothing to learn; give different ones"
        )
    learn, kept = held_back(gradients.labels, kept_back, seed)
    if len(kept) < _LEAST_KEPT or not len(learn):
        raise BadInput(
            f"{len(gradients.labels)} held-out examples are too few to learn from: "
            f"{len(kept)} would be kept back to choose a step by, and {_LEAST_KEPT} are needed; "
            "raise --kept-back, or choose another --recipe"
        )
    at_a_time = len(pool) if ingredients_per_step is None else ingredients_per_step
    turns = Turns(len(pool), at_a_time, pace.steps(len(learn)), seed)
    _check_turns(turns, epochs)
    tastings, ranking = taste_singles(pool, evaluate, integers=integers)
    guard = Guard(evaluate, ranking[0], tastings[ranking[0]].score or 0.0)
    first = _start(pool, evaluate, start, integers)
    by: By = "layer" if by_layer else "block" if by_block else "model"
    options = {
        "by": by,
        "affine": affine,
        "start": start,
        "epochs": epochs,
        "lr": lr,
        "examples_per_step": examples_per_step,
        "ingredients_per_step": ingredients_per_step,
        "kept_back": kept_back,
        "patience": patience,
    }
    layout = pool.layout.tensors
    elements = {name: layout[name].numel for name in gradients.tensors}
    groups = Groups.of(gradients.tensors, elements, by)
    space = Hyperplane() if affine else Simplex()
    school = School(gradients, first, groups, space, learn, kept, pace, turns)
    notebook = Notebook(
        gradients.workspace,
        lambda: _digest(
            [list(pool.digests), gradients.identity, first.merge.record(), options, seed]
        ),
    )
    done = school.learned(notebook)
    found = guard.guarded(school, done.best)
    return replace(
        found.soup,
        recipe="learned",
        options={**options, **_outcome(done, found)},
        tastings=(*done.tastings, *found.tastings),
        caveats=() if found.is_single else (_caveat(gradients, learn, kept),),
    )


def held_back(labels: Labels, part: float, seed: int) -> tuple[ExampleNumbers, ExampleNumbers]:
    """The examples to learn from and those to judge by, evenly over classes or numbers."""
    order = np.random.default_rng(seed).permutation(len(labels))
    sorted_ = order[np.argsort(labels[order], kind="stable")]
    count = round(part * len(labels))
    # Every so many along the labels: of each class its part, give or take one.
    chosen = np.zeros(len(labels), bool)
    chosen[((np.arange(count) + 0.5) * len(labels) / max(1, count)).astype(np.int64)] = True
    return np.sort(sorted_[~chosen]), np.sort(sorted_[chosen])


def _start(pool: Pool, evaluate: Evaluate, start: str, integers: Policy) -> Soup:
    """The uniform or the greedy soup, as one of the whole pool."""
    if start == "uniform":
        return uniform_soup(pool, integers=integers)
    found = greedy(pool, evaluate, integers=integers)
    weights = tuple(float(name in found.members) for name in (one.name for one in pool))
    merge = Linear(weights, sum(weights))
    return replace(uniform_soup(pool, integers=integers), merge=merge, recipe="greedy")


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _outcome(done: Progress, found: Guarded) -> dict[str, Any]:
    """What there is to know of how it went, for the record."""
    return {
        "steps": done.step,
        "best_step": done.best.step,
        "kept_back_loss": found.loss,
        "inverse_temperature": found.factor,
        "pulled": found.pulled,
    }


def _caveat(gradients: Gradients, learn: ExampleNumbers, kept: ExampleNumbers) -> str:
    total = len(gradients.labels)
    return (
        f"the weights of this soup were learned on {len(learn):,} of the {total:,} examples of "
        f"{gradients.split}, and chosen by the other {len(kept):,}: scores on {gradients.split} "
        "are no estimate of what it does on others"
    )


def _check(pool: Pool, pace: Pace, kept_back: float, start: str) -> None:
    if len(pool) < 2:
        raise BadInput(
            "--recipe learned needs at least two checkpoints, and one was given; there are no "
            "weights to learn for one"
        )
    if any(is_adapter(one.checkpoint) for one in pool):
        raise BadInput(
            "--recipe learned does not learn weights of LoRA adapters; merge them into their base "
            "first, or choose another --recipe"
        )
    if start not in ("uniform", "greedy"):
        raise BadInput(f"--start is {start!r}; choose uniform or greedy")
    if not (math.isfinite(pace.lr) and pace.lr > 0):
        raise BadInput(f"--lr is {pace.lr:g}; give a number above 0")
    if not 0 < kept_back < 1:
        raise BadInput(f"--kept-back is {kept_back:g}; give a part between 0 and 1")
    for flag, value in (
        ("--epochs", pace.epochs),
        ("--examples-per-step", pace.examples_per_step),
        ("--patience", pace.patience),
    ):
        if value < 1:
            raise BadInput(f"{flag} is {value}; it starts at 1")


def _check_turns(turns: Turns, epochs: int) -> None:
    if turns.at_a_time < 1:
        raise BadInput(f"--ingredients-per-step is {turns.at_a_time}; it starts at 1")
    steps = turns.steps * epochs
    if turns.count > steps:
        raise BadInput(
            f"--ingredients-per-step {turns.at_a_time} makes {turns.count} turns of the "
            f"{turns.k} checkpoints, and there are {steps} steps; give more of either, or raise "
            "--epochs"
        )
