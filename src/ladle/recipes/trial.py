"""Trying a candidate against the score to beat, the step that most recipes are made of."""

from __future__ import annotations

from ladle.recipes.tasting import finite
from ladle.soup import Evaluate, Soup, Tasting


def try_out(
    trial: Soup, candidate: str, evaluate: Evaluate, to_beat: float | None, *, strict: bool = False
) -> Tasting:
    """The tasting of a soup that is kept if it is not worse, or, if `strict`, if it is better.

    Where there is nothing `to_beat`, any finite score is kept.
    """
    return weighed(trial, candidate, evaluate(trial), to_beat, strict=strict)


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
        kept, reason = not strict, "no change" + (": rejected (--strict)" if strict else "")
    else:
        kept = found > to_beat
        reason = f"{'better' if kept else 'worse'} by {abs(margin):.4f}"
    return Tasting(candidate, trial.members, found, kept, reason, margin)
