"""What a recipe may ask of an evaluation beyond a score, and how it asks one that cannot tell.

An evaluation is any function `Soup -> float`. One with a method `at_least` can also say that a soup
does not reach a bar, without measuring it to the end; one with `ensembles_of` knows how good
ensembles are, without a forward pass; one with `apart` lets soups be tried in advance, several at a
time, of which some are in vain. `ladle.Evaluator` has all three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from ladle.errors import BadInput
from ladle.soup.soup import Evaluate, Soup


@dataclass(frozen=True)
class Verdict:
    """What is known of a soup after it was compared with a bar.

    `score` is what `evaluate(soup)` gives, NaN included; None where measuring stopped after `seen`
    of `examples`, as the score can be no more than `bound`, which does not reach the bar.
    """

    score: float | None
    bound: float | None = None
    seen: int | None = None
    examples: int | None = None


def reaches(score: float, bar: float, *, strict: bool) -> bool:
    """Whether a score is at least the bar, or above it where `strict`; NaN never is."""
    return score > bar if strict else score >= bar


@runtime_checkable
class Compares(Protocol):
    """An evaluation that can stop early."""

    def at_least(
        self, soup: Soup, bar: float, *, strict: bool = False, order_hint: Soup | None = None
    ) -> Verdict:
        """The score of `soup`; or that it is below `bar`, or not above it where `strict`.

        `order_hint` is a soup that was measured already and is a rival of this one: examples that
        it finds hard are likely to settle the question soonest.
        """
        ...


@runtime_checkable
class Ensembles(Protocol):
    """An evaluation that knows predictions."""

    def ensembles_of(self, members: Sequence[Soup]) -> Callable[[Sequence[int]], float]:
        """What tells the score of the mean of some members' logits, from their numbers.

        Higher is better. It is quicker where all but the last number are those of the call before.
        """
        ...


def _nothing() -> None:
    """There is nothing to do."""


@dataclass(frozen=True)
class Apart:
    """An evaluation for something that is tried in advance, and perhaps in vain.

    It knows what the one knows that it was made from. What it learns itself is its own, until one
    of the two is called: `keep`, when it is certain that this would have been tried; or `drop`,
    which ends an evaluation under way and leaves no trace of it.
    """

    evaluate: Evaluate
    keep: Callable[[], None] = _nothing
    drop: Callable[[], None] = _nothing


@runtime_checkable
class Speculates(Protocol):
    """An evaluation that remembers, and yet can be asked what may turn out not to be needed."""

    def apart(self) -> Apart:
        """One for a single thing that is tried in advance; to be kept or dropped in the end."""
        ...


def apart(evaluate: Evaluate) -> Apart:
    """See `Speculates`; any other evaluation has no memory that anything could depend on."""
    return evaluate.apart() if isinstance(evaluate, Speculates) else Apart(evaluate)


def compared(
    evaluate: Evaluate,
    soup: Soup,
    bar: float,
    *,
    strict: bool = False,
    order_hint: Soup | None = None,
) -> Verdict:
    """See `Compares`; an evaluation that cannot stop early measures to the end."""
    if isinstance(evaluate, Compares):
        return evaluate.at_least(soup, bar, strict=strict, order_hint=order_hint)
    return Verdict(evaluate(soup))


def ensembles_of(evaluate: Evaluate, members: Sequence[Soup]) -> Callable[[Sequence[int]], float]:
    """See `Ensembles`.

    Raises:
        BadInput: the evaluation gives scores alone.
    """
    if isinstance(evaluate, Ensembles):
        return evaluate.ensembles_of(members)
    raise BadInput(
        "this recipe looks at predictions, and the evaluation gives scores alone; give a --task "
        "(ladle.Evaluator), or choose another recipe"
    )


@dataclass(frozen=True)
class Prepared:
    """An evaluation of what `prepare` makes of every soup."""

    evaluate: Evaluate
    prepare: Callable[[Soup], Soup]

    def __call__(self, soup: Soup) -> float:
        return self.evaluate(self.prepare(soup))

    def at_least(
        self, soup: Soup, bar: float, *, strict: bool = False, order_hint: Soup | None = None
    ) -> Verdict:
        hint = order_hint and self.prepare(order_hint)
        return compared(self.evaluate, self.prepare(soup), bar, strict=strict, order_hint=hint)

    def ensembles_of(self, members: Sequence[Soup]) -> Callable[[Sequence[int]], float]:
        return ensembles_of(self.evaluate, [self.prepare(one) for one in members])

    def apart(self) -> Apart:
        own = apart(self.evaluate)
        return replace(own, evaluate=replace(self, evaluate=own.evaluate))

    @property
    def gradients(self) -> Any:
        """What the evaluation has for recipes that learn, or None: exact weights are learned."""
        return getattr(self.evaluate, "gradients", None)
