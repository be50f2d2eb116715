"""Trying a candidate against the score to beat, the step that most recipes are made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ladle.ahead import Map, close, one_by_one
from ladle.recipes.tasting import finite
from ladle.soup import Apart, Evaluate, Soup, Tasting, Verdict, apart, compared


@dataclass(frozen=True)
class Offer:
    """A soup to be tried, and what the candidate in it is called."""

    trial: Soup
    candidate: str


def tried(
    offers: Iterable[Offer],
    evaluate: Evaluate,
    to_beat: float | None,
    *,
    strict: bool = False,
    rival: Soup | None = None,
    map: Map = one_by_one,
) -> Iterator[Tasting]:
    """Tastings of what is offered, in this order, up to the first that is kept: see `try_out`.

    With a parallel `map` those that are next are tried in advance, as if none before them was kept.
    After one that is, all others are dropped: their score had another soup to beat. So tastings
    are the same whatever `map` does, and so is all that the evaluation remembers of them.
    """
    under_way: deque[Apart] = deque()

    def begun() -> Iterator[tuple[Offer, Evaluate]]:
        for offer in offers:
            own = apart(evaluate)
            under_way.append(own)
            yield offer, own.evaluate

    results = map(_Attempt(to_beat, strict, rival), begun())
    try:
        for tasting in results:
            under_way.popleft().keep()
            yield tasting
            if tasting.kept:
                return
    finally:
        for own in under_way:
            own.drop()
        close(results)


@dataclass(frozen=True)
class _Attempt:
    """One trial. No closure, so that a `map` can send it to a process if the evaluation allows."""

    to_beat: float | None
    strict: bool
    rival: Soup | None

    def __call__(self, offered: tuple[Offer, Evaluate]) -> Tasting:
        offer, evaluate = offered
        return try_out(
            offer.trial,
            offer.candidate,
            evaluate,
            self.to_beat,
            strict=self.strict,
            rival=self.rival,
        )


def try_out(
    trial: Soup,
    candidate: str,
    evaluate: Evaluate,
    to_beat: float | None,
    *,
    strict: bool = False,
    rival: Soup | None = None,
) -> Tasting:
    """The tasting of a soup that is kept if it is not worse, or, if `strict`, if it is better.

    Where there is nothing `to_beat`, any finite score is kept. With the `rival` whose score it is,
    an evaluation that can (see `ladle.soup.Compares`) drops the trial as soon as it cannot be kept.
    """
    if to_beat is None:
        return weighed(trial, candidate, evaluate(trial), to_beat, strict=strict)
    verdict = compared(evaluate, trial, to_beat, strict=strict, order_hint=rival)
    if verdict.score is None:
        return _dropped(trial, candidate, verdict, to_beat)
    return weighed(trial, candidate, verdict.score, to_beat, strict=strict)


def weighed(
    trial: Soup, candidate: str, score: float, to_beat: float | None, *, strict: bool = False
) -> Tasting:
    """The same where the score is known already."""
    found = finite(score)
    if found is None:
        reason = "rejected: the score is not finite"
        return Tasting(candidate, trial.members, None, False, reason)
    if to_beat is None:
        return Tasting(candidate, trial.members, found, True, "the first with a finite score")
    margin = found - to_beat
    if found == to_beat:
        kept, reason = not strict, "no change" + (": no better" if strict else "")
    else:
        kept = found > to_beat
        reason = f"{'better' if kept else 'worse'} by {abs(margin):.4f}"
    return Tasting(candidate, trial.members, found, kept, reason, margin)


def _dropped(trial: Soup, candidate: str, verdict: Verdict, to_beat: float) -> Tasting:
    """Of a soup that was not measured to the end."""
    bound = verdict.bound
    lost = None if bound is None else finite(to_beat - bound)
    what = "no better" if not lost else f"worse by at least {lost:.4f}"
    reason = f"{what}: dropped after {verdict.seen} of {verdict.examples} examples"
    return Tasting(
        candidate, trial.members, None, False, reason, examples=verdict.seen, bound=bound
    )
