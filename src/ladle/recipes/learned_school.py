"""The steps of a learned soup: its coefficients go down the slope of the held-out loss."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ladle.checkpoint import MemoryCheckpoint
from ladle.checkpoint.numbers import Float64
from ladle.merge import inner_products
from ladle.predictions import ExampleNumbers
from ladle.recipes.learned_coefficients import Groups, Space, Turn, Turns
from ladle.recipes.learned_evidence import Gradients
from ladle.recipes.learned_progress import Best, Notebook, Progress
from ladle.recipes.tasting import finite
from ladle.soup import Ingredient, Pool, Soup, Tasting

_TASTINGS = 2
"""In an epoch. One costs about a third of a step for each of the examples kept back."""


@dataclass(frozen=True)
class Pace:
    """How fast to learn, and for how long: see `learned`."""

    epochs: int
    lr: float
    examples_per_step: int
    patience: int
    seed: int

    def steps(self, examples: int) -> int:
        """In an epoch."""
        return math.ceil(examples / self.examples_per_step)


@dataclass(frozen=True)
class School:
    """What is learned, on what, and how. Learned values are (G·c + 1,): free numbers and log β.

    `first` is the soup to begin from, as one of the whole pool, `learn` are the examples to learn
    from, and by `kept` a step is chosen.
    """

    gradients: Gradients
    first: Soup
    groups: Groups
    space: Space
    learn: ExampleNumbers
    kept: ExampleNumbers
    pace: Pace
    turns: Turns

    def learned(self, notebook: Notebook) -> Progress:
        """All steps, from the last that the notebook has."""
        progress = notebook.read() or self._begun()
        steps = self.pace.steps(len(self.learn))
        pool: Pool | None = None
        while progress.step < steps * self.pace.epochs and not self._is_over(progress, steps):
            epoch, done = divmod(progress.step, steps)
            with closing(self.gradients.batches(self._order(epoch)[done:])) as batches:
                for batch in batches:
                    if self.turns.begins(progress.step):
                        progress, pool = self._turned(progress), None
                    pool = pool or self._pool_of(progress.turn)
                    progress = self._stepped(progress, pool, batch)
                    if self._is_tasted(progress.step, steps):
                        progress = self._tasted(progress)
                    notebook.write(progress)
                    if self._is_over(progress, steps):
                        break
        return progress

    def soup(self, shares: Float64) -> Soup:
        """The soup of coefficients (G, k)."""
        return replace(self.first, merge=self.groups.merge(shares))

    def judged(self, soup: Soup) -> tuple[float, float]:
        """The factor on a soup's logits that suits the examples to learn from, and the loss with
        it on those kept back."""
        factor = self.gradients.best_factor(soup, self.learn)
        return factor, self.gradients.taste(soup, self.kept, factor)[0]

    def start(self) -> Float64:
        """The coefficients (G, k) to begin with."""
        return np.tile(np.array(self.first.weights, np.float64), (len(self.groups), 1))

    def _begun(self) -> Progress:
        # With the β that it takes, so that what is learned is judged for its weights alone.
        factor = self.gradients.best_factor(self.first, self.learn)
        loss, score = self.gradients.taste(self.first, self.kept, factor)
        shares = self.start()
        turn = Turn(tuple(range(shares.shape[1])), shares)
        values = self._values(turn, math.log(factor))
        return Progress(
            values=values,
            first=np.zeros_like(values),
            second=np.zeros_like(values),
            best=Best(0, loss, factor, shares),
            turn=turn,
            tastings=(self._tasting(f"start: {self.first.recipe}", self.first, score, True, loss),),
        )

    def _turned(self, progress: Progress) -> Progress:
        """Ready for the next ingredients, if they take turns."""
        centre = self._shares(progress) if progress.step else progress.turn.centre
        turn = Turn(self.turns.members(progress.step), centre)
        return progress.turned(turn, self._values(turn, float(progress.values[-1])))

    def _values(self, turn: Turn, log_factor: float) -> Float64:
        return np.append(self.space.free(turn.start()), log_factor)

    def _pool_of(self, turn: Turn) -> Pool:
        """What the columns of a turn are: its members, behind the soup so far if that is needed.

        Of that, what differs is held in memory, and not in the dtype of a file, which could round
        off what a few steps have changed.
        """
        pool = self.first.pool
        if not turn.is_partial:
            return pool
        wide = replace(self.soup(turn.centre), dtype="float32")
        state = wide.state_dict(only=self.gradients.differing)
        name = "the soup so far"
        centre = Ingredient(name, MemoryCheckpoint(Path(name), state))
        return Pool((centre, *(pool[i] for i in turn.members)), pool.layout)

    def _stepped(self, progress: Progress, pool: Pool, batch: Any) -> Progress:
        free, factor = self._parts(progress.values)
        merge = self.groups.merge(self.space.shares(free))
        slope = self.gradients(replace(self.first, pool=pool, merge=merge), batch, factor)
        checkpoints = [one.checkpoint for one in pool]
        products = self.groups.summed(inner_products(checkpoints, slope.weights), free.shape[1])
        # Predicted numbers have a scale that means something; logits of classes have none.
        change = 0.0 if self._is_regression else slope.factor * factor
        whole = np.append(self.space.slope(free, products), change)
        return progress.stepped(whole, slope.loss, self._rate(progress.step))

    def _tasted(self, progress: Progress) -> Progress:
        shares, factor = self._shares(progress), self._parts(progress.values)[1]
        soup = self.soup(shares)
        loss, score = self.gradients.taste(soup, self.kept, factor)
        # A loss that is no number is below none.
        taken = loss < progress.best.loss
        best = Best(progress.step, loss, factor, shares) if taken else progress.best
        tasting = self._tasting(f"step {progress.step}", soup, score, taken, loss)
        return replace(progress, best=best, tastings=(*progress.tastings, tasting))

    def _tasting(self, what: str, soup: Soup, score: float, kept: bool, loss: float) -> Tasting:
        members = members_of(soup)
        return Tasting(what, members, finite(score), kept, told(loss), examples=len(self.kept))

    def _shares(self, progress: Progress) -> Float64:
        """The coefficients (G, k) after the last step."""
        free, _ = self._parts(progress.values)
        return progress.turn.whole(self.space.shares(free))

    def _parts(self, values: Float64) -> tuple[Float64, float]:
        """The free numbers (G, c), and β."""
        with np.errstate(over="ignore"):  # An infinite loss is told of where it is computed.
            return values[:-1].reshape(len(self.groups), -1), float(np.exp(values[-1]))

    def _order(self, epoch: int) -> list[ExampleNumbers]:
        """The examples of every step of an epoch."""
        order = np.random.default_rng([self.pace.seed, epoch]).permutation(self.learn)
        size = self.pace.examples_per_step
        return [order[i : i + size] for i in range(0, len(order), size)]

    def _rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: half a cosine, from `lr` to 0."""
        steps = self.pace.steps(len(self.learn)) * self.pace.epochs
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


def members_of(soup: Soup) -> tuple[str, ...]:
    """Those that have a weight; one that differs from tensor to tensor is told by its mean."""
    return tuple(name for name, weight in zip(soup.members, soup.weights, strict=True) if weight)


def told(loss: float) -> str:
    """A loss that steps are chosen by, for people."""
    return f"loss {loss:.4f} on the examples kept back"
