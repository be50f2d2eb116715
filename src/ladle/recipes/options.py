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
    "strict": Option("drop what leaves the score unchanged"),
}
"""By keyword; `--` and a hyphen for every underscore make it the option's name."""
