"""The learned soup (paper, appendix I): coefficients by gradient descent on held-out examples.

Minimised over coefficients α and an inverse temperature β is the loss of β·f(x; Σᵢ αᵢθᵢ), where the
paper holds all θᵢ in memory. Here they stay on the disk: d L/d αᵢ = ⟨d L/d θ, θᵢ⟩ takes one
streamed pass over them beside the ordinary gradient of one model, and the next merge another.
"""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ladle.checkpoint.numbers import Float64
from ladle.errors import BadInput
from ladle.merge import Linear, inner_products
from ladle.predictions import ExampleNumbers, Labels
from ladle.recipes.greedy_soup import greedy
from ladle.recipes.learned_coefficients import By, Groups, Hyperplane, Simplex, Space
from ladle.recipes.learned_evidence import Gradients, gradients_of
from ladle.recipes.learned_progress import Best, Notebook, Progress
from ladle.recipes.tasting import finite
from ladle.soup import Evaluate, Policy, Pool, Soup, Tasting, is_adapter, uniform_soup

_LEAST_KEPT = 10
"""Examples to choose a step by: with fewer, luck would."""

_TASTINGS = 2
"""In an epoch. One costs about a third of a step for each of the examples kept back."""


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

    Every step reads the tensors that differ twice from every ingredient; memory is that of the
    model, its gradient and one batch, whatever the number of ingredients.

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
        kept_back: the part of the held-out examples that steps are judged by.
        patience: epochs without a lower loss on those, after which to stop.
        seed: of what is kept back, and of the order of the rest.

    Raises:
        BadInput: there are no gradients to learn from, nothing to learn, or adapters.
        Diverged: a loss stopped being finite.

    Example:
        >>> evaluate = ladle.Evaluator(ladle.load_task("task.toml"))
        >>> soup = ladle.learned(ladle.open("runs/*"), evaluate, by_layer=True)
    """
    if by_layer and by_block:
        raise BadInput("--by-layer and --by-block exclude each other; choose one")
    _check(pool, epochs, lr, examples_per_step, kept_back, patience, start)
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
    first = _start(pool, evaluate, start, integers)
    by: By = "layer" if by_layer else "block" if by_block else "model"
    options = {
        "by": by,
        "affine": affine,
        "start": start,
        "epochs": epochs,
        "lr": lr,
        "examples_per_step": examples_per_step,
        "kept_back": kept_back,
        "patience": patience,
    }
    layout = pool.layout.tensors
    elements = {name: layout[name].numel for name in gradients.tensors}
    school = _School(
        gradients,
        first,
        Groups.of(gradients.tensors, elements, by),
        Hyperplane() if affine else Simplex(),
        learn,
        kept,
        _Pace(epochs, lr, examples_per_step, patience, seed),
    )
    notebook = Notebook(
        gradients.workspace,
        lambda: _digest(
            [list(pool.digests), gradients.identity, first.merge.record(), options, seed]
        ),
    )
    done = school.learned(notebook)
    return replace(
        school.best(done),
        recipe="learned",
        options={**options, **_outcome(done)},
        tastings=done.tastings,
        caveats=(_caveat(gradients, learn, kept),),
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


@dataclass(frozen=True)
class _Pace:
    epochs: int
    lr: float
    examples_per_step: int
    patience: int
    seed: int


@dataclass(frozen=True)
class _School:
    """What is learned, on what, and how. Learned values are (G·k + 1,): free numbers and log β."""

    gradients: Gradients
    first: Soup
    groups: Groups
    space: Space
    learn: ExampleNumbers
    kept: ExampleNumbers
    pace: _Pace

    def learned(self, notebook: Notebook) -> Progress:
        """All steps, from the last that the notebook has."""
        progress = notebook.read() or self._begun()
        steps = math.ceil(len(self.learn) / self.pace.examples_per_step)
        while progress.step < steps * self.pace.epochs and not self._is_over(progress, steps):
            epoch, done = divmod(progress.step, steps)
            with closing(self.gradients.batches(self._order(epoch)[done:])) as batches:
                for batch in batches:
                    progress = self._stepped(progress, batch)
                    if self._is_tasted(progress.step, steps):
                        progress = self._tasted(progress)
                    notebook.write(progress)
                    if self._is_over(progress, steps):
                        break
        return progress

    def best(self, progress: Progress) -> Soup:
        """The soup of the best step."""
        best = progress.best
        return self.first if not best.step else self._soup(best.values)

    def _begun(self) -> Progress:
        # With the β that it takes, so that what is learned is judged for its weights alone.
        factor = self.gradients.best_factor(self.first, self.learn)
        loss, score = self.gradients.taste(self.first, self.kept, factor)
        shares = np.array(self.first.weights, np.float64)
        free = self.space.free(np.tile(shares, (len(self.groups), 1)))
        values = np.append(free, math.log(factor))
        tasting = self._tasting(f"start: {self.first.recipe}", self.first, score, True, loss)
        return Progress(
            values=values,
            first=np.zeros_like(values),
            second=np.zeros_like(values),
            best=Best(0, loss, score, values),
            tastings=(tasting,),
        )

    def _stepped(self, progress: Progress, batch: Any) -> Progress:
        free, factor = self._parts(progress.values)
        slope = self.gradients(self._soup(progress.values), batch, factor)
        checkpoints = [one.checkpoint for one in self.first.pool]
        products = self.groups.summed(inner_products(checkpoints, slope.weights), free.shape[1])
        # Predicted numbers have a scale that means something; logits of classes have none.
        change = 0.0 if self._is_regression else slope.factor * factor
        whole = np.append(self.space.slope(free, products), change)
        return progress.stepped(whole, slope.loss, self._rate(progress.step))

    def _tasted(self, progress: Progress) -> Progress:
        soup = self._soup(progress.values)
        loss, score = self.gradients.taste(soup, self.kept, self._parts(progress.values)[1])
        # A loss that is no number is below none.
        taken = loss < progress.best.loss
        best = Best(progress.step, loss, score, progress.values) if taken else progress.best
        tasting = self._tasting(f"step {progress.step}", soup, score, taken, loss)
        return replace(progress, best=best, tastings=(*progress.tastings, tasting))

    def _tasting(self, what: str, soup: Soup, score: float, kept: bool, loss: float) -> Tasting:
        members = tuple(
            name for name, weight in zip(soup.members, soup.weights, strict=True) if weight
        )
        reason = f"loss {loss:.4f} on the examples kept back"
        return Tasting(what, members, finite(score), kept, reason)

    def _soup(self, values: Float64) -> Soup:
        free, _ = self._parts(values)
        return replace(self.first, merge=self.groups.merge(self.space.shares(free)))

    def _parts(self, values: Float64) -> tuple[Float64, float]:
        """The free numbers (G, k), and β."""
        with np.errstate(over="ignore"):  # An infinite loss is told of where it is computed.
            return values[:-1].reshape(len(self.groups), -1), float(np.exp(values[-1]))

    def _order(self, epoch: int) -> list[ExampleNumbers]:
        """The examples of every step of an epoch."""
        order = np.random.default_rng([self.pace.seed, epoch]).permutation(self.learn)
        size = self.pace.examples_per_step
        return [order[i : i + size] for i in range(0, len(order), size)]

    def _rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: half a cosine, from `lr` to 0."""
        steps = math.ceil(len(self.learn) / self.pace.examples_per_step) * self.pace.epochs
        return 0.5 * self.pace.lr * (1 + math.cos(math.pi * step / steps))

    def _is_tasted(self, step: int, steps: int) -> bool:
        """Whether a step is one of the few in its epoch that are judged; the last one is."""
        within = (step - 1) % steps + 1
        return within * _TASTINGS // steps > (within - 1) * _TASTINGS // steps

    def _is_over(self, progress: Progress, steps: int) -> bool:
        return progress.step - progress.best.step >= self.pace.patience * steps

    @property
    def _is_regression(self) -> bool:
        return self.gradients.labels.dtype.kind == "f"


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


def _outcome(done: Progress) -> dict[str, Any]:
    """What there is to know of how it went, for the record."""
    best = done.best
    return {
        "steps": done.step,
        "best_step": best.step,
        "kept_back_loss": best.loss,
        "inverse_temperature": math.exp(best.values[-1]),
    }


def _caveat(gradients: Gradients, learn: ExampleNumbers, kept: ExampleNumbers) -> str:
    total = len(gradients.labels)
    return (
        f"the weights of this soup were learned on {len(learn):,} of the {total:,} examples of "
        f"{gradients.split}, and chosen by the other {len(kept):,}: scores on {gradients.split} "
        "are no estimate of what it does on others"
    )


def _check(
    pool: Pool,
    epochs: int,
    lr: float,
    examples_per_step: int,
    kept_back: float,
    patience: int,
    start: str,
) -> None:
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
    if not (math.isfinite(lr) and lr > 0):
        raise BadInput(f"--lr is {lr:g}; give a number above 0")
    if not 0 < kept_back < 1:
        raise BadInput(f"--kept-back is {kept_back:g}; give a part between 0 and 1")
    for flag, value in (
        ("--epochs", epochs),
        ("--examples-per-step", examples_per_step),
        ("--patience", patience),
    ):
        if value < 1:
            raise BadInput(f"{flag} is {value}; it starts at 1")
