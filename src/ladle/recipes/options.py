"""What the command line says about the keywords of recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """A keyword of recipes that `ladle cook` has as an option.

    It means the same to every recipe that has it, which the recipe's signature tells, as it does
    whether one has to be given. `kind` is bool for a flag, int, float or str for a value, or the
    values there are to choose from. `least` and `most` bound a number.
    """

    about: str
    kind: type[bool] | type[int] | type[float] | type[str] | tuple[str, ...] = bool
    least: float | None = None
    most: float | None = None
    metavar: str | None = None


OPTIONS: Mapping[str, Option] = {
    "strict": Option("a candidate that leaves the score unchanged is not taken"),
    "order": Option(
        "in which order to try ingredients; default score, best first", ("score", "random", "given")
    ),
    "repeats": Option(
        "how many random orders to try; the soup is the best of them", int, least=1, metavar="R"
    ),
    "with_replacement": Option("an ingredient may be added again, so that it weighs more"),
    "budget": Option(
        "how many evaluations, those of the checkpoints alone included; default a quarter more",
        int,
        least=1,
        metavar="E",
    ),
    "k": Option("how many; default the best number on held-out data", int, least=1, metavar="K"),
    "group_by": Option("whose equal values make a group", str, metavar="HYPERPARAMETER"),
    "within": Option("the soups of the groups; default greedy", ("greedy", "uniform")),
    "towards": Option("where the line leads; default greedy", ("greedy", "uniform", "best")),
    "alpha": Option(
        "the point on the line, from 0, the base, to 1; default the best on held-out data",
        float,
        least=0,
        most=1,
        metavar="A",
    ),
    "weighting": Option(
        "of a run's steps; default uniform", ("uniform", "linear", "minus-sqrt", "ema")
    ),
    "decay": Option("of --weighting ema, per step", float, least=0, most=1, metavar="D"),
    "by_layer": Option("weights of its own for every tensor"),
    "by_block": Option("weights of its own for every block of layers"),
    "affine": Option("weights may be negative; they sum to one"),
    "start": Option("the soup to begin from; default uniform", ("uniform", "greedy")),
    "epochs": Option("over the held-out examples, at most", int, least=1, metavar="N"),
    "lr": Option("the learning rate", float, least=0, metavar="RATE"),
    "examples_per_step": Option("held-out examples in a step", int, least=1, metavar="N"),
    "ingredients_per_step": Option(
        "how many checkpoints take part in a step, by turns, with --affine; default all",
        int,
        least=1,
        metavar="N",
    ),
    "kept_back": Option(
        "the part of the held-out examples that steps are judged by",
        float,
        least=0,
        most=1,
        metavar="PART",
    ),
    "patience": Option("epochs without gain, after which to stop", int, least=1, metavar="N"),
}
"""By keyword; `--` and a hyphen for every underscore make it the option's name."""
