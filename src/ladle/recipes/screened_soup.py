"""The screened soup: ensembles of stored predictions say which soups are worth measuring.

After RADIN (arXiv 2401.17790): the mean of the logits of some models is a good guess at what the
mean of their weights says, and costs no forward pass. There, random subsets are ranked by it; here,
it is climbed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from ladle.ahead import Map, one_by_one
from ladle.errors import BadInput
from ladle.recipes.tasting import taste_singles
from ladle.recipes.trial import Offer, tried
from ladle.soup import Evaluate, Policy, Pool, Soup, ensembles_of, uniform_soup

Subset = frozenset[int]


def screened(
    pool: Pool,
    evaluate: Evaluate,
    *,
    budget: int | None = None,
    strict: bool = False,
    map: Map = one_by_one,
    integers: Policy = "equal",
) -> Soup:
    """Measure only soups whose ensemble does well, `budget` evaluations in all.

    Begins with the best ingredient. The first soup that is measured is the best ensemble that
    adding one member after the other comes by; then come the soup's neighbours, which have one
    ingredient more or less, the best ensemble first. What is no worse than the soup so far takes
    its place. So on held-out data the soup scores at least as well as the best ingredient.

    Args:
        budget: how many evaluations, those of the n ingredients included; None makes it a quarter
            more than n. Greedy takes 2n - 1.
        strict: keep only what is better.
        map: how to run evaluations: see `greedy`.

    Raises:
        BadScore: no ingredient has a finite score.
        BadInput: the budget does not suffice for the ingredients, or `evaluate` gives scores alone.
    """
    n = len(pool)
    budget = n + math.ceil(n / 4) if budget is None else budget
    if budget < n:
        raise BadInput(
            f"--budget {budget} does not suffice to measure the {n} checkpoints alone, which the "
            f"screened recipe begins with; give {n + 1} or more, or fewer checkpoints"
        )
    # Asked for first, so that what cannot answer says so before anything is measured.
    singles = [uniform_soup(pool.subset([i]), integers=integers) for i in range(n)]
    ensemble_score = ensembles_of(evaluate, singles)
    tastings, ranking = taste_singles(pool, evaluate, map=map, integers=integers)
    screen = _Screen(ensemble_score, ranking)
    first = ranking[0]
    tastings[first] = replace(tastings[first], kept=True, reason="best alone: starts the soup")
    chosen, score = frozenset([first]), tastings[first].score
    seen = {chosen}
    spent, rest = n, True
    while rest:
        # What is measured from this soup on, if all of it is refused.
        proposals: list[Subset] = []
        offers = _offers(pool, screen, chosen, seen, budget - spent, proposals, integers)
        rival = uniform_soup(pool.subset(sorted(chosen)), integers=integers)
        rest = False
        results = tried(offers, evaluate, score, strict=strict, rival=rival, map=map)
        for number, tasting in enumerate(results):
            tastings.append(tasting)
            spent += 1
            if tasting.kept:
                seen = {*seen, *proposals[: number + 1]}
                chosen, score, rest = proposals[number], tasting.score, True
    soup = uniform_soup(pool.subset(sorted(chosen)), integers=integers)
    options = {"budget": budget, "strict": strict}
    return replace(soup, recipe="screened", options=options, tastings=tuple(tastings))


def _offers(
    pool: Pool,
    screen: _Screen,
    chosen: Subset,
    seen: Collection[Subset],
    most: int,
    proposals: list[Subset],
    integers: Policy,
) -> Iterator[Offer]:
    """What is worth measuring next to `chosen`, at most so many; `proposals` gets them too."""
    known = set(seen)
    for _ in range(most):
        # The soup that is climbed to comes first of all.
        proposal = screen.climbed() if len(known) == 1 else None
        if proposal is None or proposal in known:
            proposal = screen.neighbour(chosen, known)
        if proposal is None:
            return  # There is nothing left to try.
        known.add(proposal)
        proposals.append(proposal)
        trial = uniform_soup(pool.subset(sorted(proposal)), integers=integers)
        yield Offer(trial, _change(pool, chosen, proposal))


@dataclass(frozen=True)
class _Screen:
    """Looks at ensembles; `ranking` are the ingredients that count, the best alone first."""

    ensemble_score: Callable[[Sequence[int]], float]
    ranking: Sequence[int]

    def climbed(self) -> Subset:
        """From the best alone, the best further member at every step, while that does no harm."""
        path, score = [self.ranking[0]], self._score([self.ranking[0]])
        while len(path) < len(self.ranking):
            others = [i for i in self.ranking if i not in path]
            # Of equals, the one that is better alone.
            scores = [self._score([*path, i]) for i in others]
            best = max(range(len(others)), key=lambda at: scores[at])
            if scores[best] < score:
                break
            path, score = [*path, others[best]], scores[best]
        return frozenset(path)

    def neighbour(self, chosen: Subset, tried: Collection[Subset]) -> Subset | None:
        """Of what differs from `chosen` by one ingredient and is not tried, the best ensemble.

        Never an ingredient alone: those were all measured.
        """
        kept = sorted(chosen)
        more = [[*kept, i] for i in self.ranking if i not in chosen]
        fewer = [[j for j in kept if j != i] for i in reversed(self.ranking) if i in chosen]
        found = [one for one in (*more, *fewer) if len(one) > 1 and frozenset(one) not in tried]
        scores = [self._score(one) for one in found]
        best = max(range(len(found)), key=lambda at: scores[at], default=None)
        return None if best is None else frozenset(found[best])

    def _score(self, members: Sequence[int]) -> float:
        score = self.ensemble_score(members)
        return score if math.isfinite(score) else -math.inf


def _change(pool: Pool, chosen: Subset, proposal: Subset) -> str:
    """What makes the proposal of the soup so far, for people."""
    signs = [("+", proposal - chosen), ("-", chosen - proposal)]
    return " ".join(f"{sign} {pool[i].name}" for sign, some in signs for i in sorted(some))
