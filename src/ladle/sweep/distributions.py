"""Where the value of one hyper-parameter comes from, and how a TOML file says so.

Every distribution is a quantile function: it turns a share between 0 and 1 into a value. So all of
them can be sampled alike, at random or along a Sobol sequence, and to go without something in half
of the runs (`Off`) is no special case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ladle.errors import BadInput


class Distribution(Protocol):
    """Where one hyper-parameter comes from."""

    def at(self, share: float) -> object:
        """The value at this share of the distribution, which is at least 0 and below 1."""
        ...

    @property
    def options(self) -> Sequence[object] | None:
        """All values there are, without repetition; None where they cannot be listed."""
        ...

    @property
    def extremes(self) -> tuple[object, ...]:
        """Values that lie within a key's limits only if all that can be drawn do."""
        ...

    @property
    def toml(self) -> object:
        """What `from_toml` reads this from."""
        ...


@dataclass(frozen=True)
class Constant:
    """Always the same value."""

    value: object

    def at(self, share: float) -> object:
        return self.value

    @property
    def options(self) -> tuple[object, ...]:
        return (self.value,)

    @property
    def extremes(self) -> tuple[object, ...]:
        return (self.value,)

    @property
    def toml(self) -> object:
        return self.value


@dataclass(frozen=True)
class Choice:
    """One of these, each as likely; one that is there twice is twice as likely."""

    values: tuple[object, ...]

    def at(self, share: float) -> object:
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    @property
    def options(self) -> tuple[object, ...]:
        return tuple(dict.fromkeys(self.values))

    @property
    def extremes(self) -> tuple[object, ...]:
        return self.values

    @property
    def toml(self) -> dict[str, object]:
        return {"choice": list(self.values)}


@dataclass(frozen=True)
class Uniform:
    """Between two numbers, uniformly, or with `log` uniformly in the logarithm.

    Values have three significant digits, so that what people read is what was run.
    """

    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> object:
        value = _between(self.low, self.high, share, self.log)
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    @property
    def options(self) -> None:
        return None

    @property
    def extremes(self) -> tuple[object, ...]:
        return self.low, self.high

    @property
    def toml(self) -> dict[str, object]:
        return {_kind(self.log): [self.low, self.high]}


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`, both included, each as likely.

    With `log`, a number is as likely as the piece of the logarithm that it is nearest to.
    """

    low: int
    high: int
    log: bool = False

    def at(self, share: float) -> object:
        value = _between(self.low - 0.5, self.high + 0.5, share, self.log)
        return min(max(math.floor(value + 0.5), self.low), self.high)

    @property
    def options(self) -> Sequence[object]:
        return range(self.low, self.high + 1)

    @property
    def extremes(self) -> tuple[object, ...]:
        return self.low, self.high

    @property
    def toml(self) -> dict[str, object]:
        return {_kind(self.log): [self.low, self.high]}


@dataclass(frozen=True)
class Off:
    """0 in this share of the runs, and a draw of another distribution in the others."""

    share: float
    otherwise: Choice | Uniform | Whole

    def at(self, share: float) -> object:
        if share < self.share:
            return 0.0
        return self.otherwise.at((share - self.share) / (1 - self.share))

    @property
    def options(self) -> tuple[object, ...] | None:
        others = self.otherwise.options
        return None if others is None else tuple(dict.fromkeys((0.0, *others)))

    @property
    def extremes(self) -> tuple[object, ...]:
        return (0.0, *self.otherwise.extremes)

    @property
    def toml(self) -> object:
        return {**self.otherwise.toml, "off": self.share}


def _between(low: float, high: float, share: float, log: bool) -> float:
    if log:
        return math.exp(math.log(low) * (1 - share) + math.log(high) * share)
    return low * (1 - share) + high * share


def _kind(log: bool) -> str:
    return "log_uniform" if log else "uniform"


_KINDS = ("uniform", "log_uniform", "choice")


def from_toml(value: object, where: str, *, whole: bool) -> Distribution:
    """The distribution a TOML value describes.

    That is the value itself, or {uniform = [low, high]}, {log_uniform = [low, high]} or
    {choice = [...]}, each also with off = SHARE. With `whole`, between two whole numbers there are
    only whole numbers. `where` names the value in errors.
    """
    if not isinstance(value, Mapping):
        return Constant(value)
    kinds = [kind for kind in value if kind != "off"]
    if len(kinds) != 1 or kinds[0] not in _KINDS:
        raise BadInput(
            f"{where} is {dict(value)!r}; write a value, or one of "
            + ", ".join(f"{{{kind} = [...]}}" for kind in _KINDS)
            + ", each also with off = 0.5 to go without in half of the runs"
        )
    drawn = _drawn(kinds[0], value[kinds[0]], where, whole)
    if "off" not in value:
        return drawn
    share = value["off"]
    if not _is_number(share) or not 0 <= share < 1:
        raise BadInput(
            f"{where} is off in {share!r} of the runs; write a share, at least 0 and below 1"
        )
    return Off(float(share), drawn)


def _drawn(kind: str, values: object, where: str, whole: bool) -> Choice | Uniform | Whole:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise BadInput(f"{where} has the {kind} {values!r}; write a list of values")
    if kind == "choice":
        return Choice(tuple(values))
    log = kind == "log_uniform"
    least = math.ulp(0.0) if log else -math.inf
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) != 2 or len(values) != 2 or not least <= numbers[0] <= numbers[1] < math.inf:
        raise BadInput(
            f"{where} has the {kind} {list(values)!r}; write [low, high], two numbers in order"
            + (", both above 0" if log else "")
        )
    low, high = numbers
    if whole and isinstance(low, int) and isinstance(high, int):
        return Whole(low, high, log)
    return Uniform(float(low), float(high), log)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
