"""How much sooner greedy selection ends with W workers, worked out and not measured.

    python benchmarks/speculation.py [SOUP.json ...] [--times TIMES.json] [--output PAGE]

Replays what was accepted and refused: in the paper's sweep of 72 CLIP models (tests/data), and in
any soup.json of `ladle cook --task TASK`, whose tastings also say how many examples each
candidate took. The clock is that of `ladle.ahead.working_ahead`: candidates are begun in order as
workers become free, verdicts are taken in order, and an acceptance drops all that is behind it.

TIMES.json has measured seconds: `load`, to merge a candidate into the model; `examples`, to
evaluate all held-out examples; `drop`, until a worker is free of what nobody needs any more.
Without it, the unit is one full evaluation and the rest costs nothing. cluster.py writes both.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
WORKERS = (1, 2, 4, 8, 16, 32, 64)
REFUSED = 0.242
"""The part of the examples that refused ones take, in benchmarks/recipes.md: (12528 - 2·3000) of
9·3000."""

UNIT = "one full evaluation on the held-out examples"
SECOND = "a second of one worker of one thread, measured on demo-text by `make bench-ray`"

_UNCLAIMED = 4  # As in ladle.ahead.


@dataclass(frozen=True)
class Times:
    """Seconds: see above."""

    load: float = 0.0
    examples: float = 1.0
    drop: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """What greedy tried: the part of the examples that it took, and whether it was kept."""

    part: float
    kept: bool


@dataclass(frozen=True)
class Log:
    """One selection: how many models were measured alone, and what was tried then, in order."""

    name: str
    models: int
    candidates: Sequence[Candidate]

    @property
    def accepted(self) -> int:
        return sum(one.kept for one in self.candidates)


def published(refused: float) -> Log:
    """The paper's 72 models, where refused candidates take this part of the examples."""
    oracle = json.loads((DATA / "greedy_oracle.json").read_text())
    kept = set(oracle["accepted"])
    tried = [Candidate(1.0 if n in kept else refused, n in kept) for n in oracle["order"][1:]]
    how = "measured in full" if refused == 1 else f"dropped after {refused:.1%} of the examples"
    return Log(f"the paper's 72 models, refused ones {how}", len(oracle["order"]), tried)


def logged(record: Path) -> Log:
    """What a soup.json says of a greedy soup.

    Raises:
        ValueError: it is of another recipe.
    """
    soup = json.loads(record.read_text())
    recipe = soup["recipe"]
    if recipe["name"] != "greedy" or recipe["options"]["order"] != "score":
        raise ValueError(f"{record} is of no greedy soup in the order of scores")
    n = len({one["candidate"] for one in soup["tastings"]})
    whole = next(one["n"] for one in soup["splits"].values() if one["role"] == "held-out")
    # None stands for all of them.
    tried = [Candidate((t["examples"] or whole) / whole, t["kept"]) for t in soup["tastings"][n:]]
    return Log(f"{n} models of {soup['task']['name']}, as `ladle cook` logged it", n, tried)


def alone(models: int, workers: int, times: Times) -> float:
    """Seconds until all models are measured alone."""
    return math.ceil(models / workers) * (times.load + times.examples)


def greedy(candidates: Sequence[Candidate], workers: int, times: Times) -> float:
    """Seconds until the last verdict."""
    now, first = 0.0, 0
    free = [0.0] * workers
    while first < len(candidates):
        heapq.heapify(free)
        taken: list[float] = []  # When each verdict from `first` on is taken.
        for place, one in enumerate(candidates[first:]):
            # Only so many results may wait for one before them.
            bound = taken[place - _UNCLAIMED * workers] if place >= _UNCLAIMED * workers else now
            begun = max(heapq.heappop(free), bound, now)
            done = begun + times.load + times.examples * one.part
            heapq.heappush(free, done)
            taken.append(max(done, taken[-1] if taken else now))
            if one.kept:
                break
        now, first = taken[-1], first + len(taken)
        # Whoever was behind an acceptance is free once it has heard of it; one alone never is.
        free = [now] + [now + times.drop] * (workers - 1)
    return now


def least(candidates: Sequence[Candidate], times: Times) -> float:
    """Seconds that no number of workers goes below: what is accepted comes one after the other.

    And behind the last of them, or between two, whatever takes longest.
    """
    total = longest = 0.0
    for one in candidates:
        longest = max(longest, times.load + times.examples * one.part)
        if one.kept:
            total, longest = total + longest, 0.0
    return total + longest


def table(log: Log, times: Times) -> list[str]:
    tried = log.candidates
    one = greedy(tried, 1, times)
    whole = alone(log.models, 1, times) + one
    floor = least(tried, times)
    lines = [
        f"## {log.name[0].upper()}{log.name[1:]}",
        "",
        f"{len(tried)} candidates, {log.accepted} accepted; one worker takes "
        f"{whole:.2f}, {one:.2f} of it after the models alone. However many workers: greedy takes "
        f"{floor:.2f}, so at most {one / floor:.1f} times less.",
        "",
        "| workers | greedy | times faster | with the models alone | times faster |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for workers in WORKERS:
        took = greedy(tried, workers, times)
        both = took + alone(log.models, workers, times)
        lines.append(
            f"| {workers} | {took:.2f} | {one / took:.2f} | {both:.2f} | {whole / both:.2f} |"
        )
    return [*lines, ""]


def page(logs: Sequence[Log], times: Times, unit: str) -> str:
    return "\n".join(
        [
            "# Greedy selection with W workers, by simulation",
            "",
            f"Written by `python benchmarks/speculation.py`. The unit is {unit}: merging a "
            f"candidate {times.load:.3g}, all held-out examples {times.examples:.3g}, dropping "
            f"{times.drop:.3g}.",
            "",
            "What bounds it: every acceptance is waited for, and what was begun behind it is begun "
            "again from the new soup. So there is at least one full evaluation for each model that "
            "is kept, one after the other. Early exit makes refused candidates cheap, and they are "
            "what workers share: it saves much of the work of one worker, and so there is less "
            "left to gain by many. The models alone are independent, and gain in full.",
            "",
            *(line for log in logs for line in table(log, times)),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("records", nargs="*", type=Path, metavar="SOUP.json")
    parser.add_argument("--times", type=Path)
    parser.add_argument("--refused", type=float, default=REFUSED)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "speculation.md")
    given = parser.parse_args()
    times, unit = Times(), UNIT
    if given.times:
        times, unit = Times(**json.loads(given.times.read_text())), SECOND
    logs = [published(1.0), published(given.refused), *map(logged, given.records)]
    given.output.write_text(page(logs, times, unit))
    print(given.output)


if __name__ == "__main__":
    main()
