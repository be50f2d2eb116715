"""What the soups of a plan say, from the store or from the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ladle.analysis.pairs import AroundTheMiddle
from ladle.analysis.plan import Plan
from ladle.analysis.survey import drawn, looked_at
from ladle.evaluate import BatchNormMode, BatchNormTaster, Evaluator
from ladle.predictions import Predictions
from ladle.soup import Soup


class Said:
    """Soups on the splits of a comparison, their BatchNorm statistics settled.

    `splits` are those that are compared on: those of some names, or all but the training data; and
    the held-out split, first, for temperatures and barriers. With `samples`, so many random
    examples of each.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        names: Sequence[str] = (),
        *,
        samples: int | None = None,
        bn: BatchNormMode = "best",
        seed: int = 0,
    ) -> None:
        """
        Raises:
            BadInput: the task has no such split, or cannot predict some examples alone.
        """
        held_out = evaluator.held_out
        chosen = looked_at(evaluator.task, names, samples=samples)
        others = (one for one in chosen if names or one.role != "train")
        self.evaluator, self.samples, self.seed = evaluator, samples, seed
        self.splits = (held_out, *(one for one in others if one is not held_out))
        self._examples = {one.name: drawn(one, samples, seed) for one in self.splits}
        self._taste = BatchNormTaster(evaluator, bn, seed=seed)
        self._alike: dict[bool, BatchNormTaster] = {}

    @property
    def examples(self) -> int:
        """How many a soup is put before, on all splits together."""
        chosen = self._examples
        return sum(len(s) if (c := chosen[s.name]) is None else len(c) for s in self.splits)

    def __call__(self, soup: Soup, split: str) -> Predictions:
        return self._predict(self._taste.settled(soup), split)

    def around(self, soups: tuple[Soup, Soup, Soup], split: str) -> AroundTheMiddle:
        """What three soups say; the two beside the middle are treated as that is.

        Otherwise the loss could jump between them, with the choice of statistics.
        """
        below, middle, above = self._settled(soups)
        return (
            self._predict(below, split),
            self._predict(middle, split),
            self._predict(above, split),
        )

    def missing(self, plan: Plan) -> int:
        """How many of the evaluations that a plan takes are not in the store.

        What it takes to choose or estimate BatchNorm statistics is not counted.
        """
        knows, examples = self.evaluator.knows, self._examples
        return sum(
            not knows(soup, split.name, examples[split.name])
            for soup in plan.soups
            for split in self.splits
        )

    def everything(self, plan: Plan) -> Iterator[None]:
        """Have all evaluations of a plan in the store, model by model; yields after each."""
        self.evaluator.sharing(plan.pool)
        seen = set()
        for soup in self._soups(plan):
            if soup.digest not in seen:
                seen.add(soup.digest)
                for split in self.splits:
                    self._predict(soup, split.name)
                    yield

    def _soups(self, plan: Plan) -> Iterator[Soup]:
        yield from (self._taste.settled(soup) for soup in plan.singles)
        for pair in plan.pairs:
            yield from self._settled(plan.around_the_middle(pair))
        yield from (self._taste.settled(soup) for soup in plan.growing)

    def _settled(self, soups: tuple[Soup, Soup, Soup]) -> tuple[Soup, Soup, Soup]:
        middle = self._taste.settled(soups[1])
        anew = middle.statistics is not None
        if anew not in self._alike:
            mode: BatchNormMode = "recalibrate" if anew else "average"
            self._alike[anew] = BatchNormTaster(self.evaluator, mode, seed=self.seed)
        below, above = (self._alike[anew].settled(one) for one in (soups[0], soups[2]))
        return below, middle, above

    def _predict(self, soup: Soup, split: str) -> Predictions:
        examples = self._examples[split]
        if examples is None:
            return self.evaluator.predict(soup, split)
        return self.evaluator.predict_some(soup, split, examples)
