"""What a sweep draws its fine-tunings from. Pure: no torch, no task."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np

from ladle.errors import BadInput

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Run:
    """The hyper-parameters of one fine-tuning.

    `seed` decides all that is random in it: order, dropout, augmentation and mixing.
    """

    lr: float
    """AdamW's peak."""
    weight_decay: float
    """Of tensors of two and more dimensions; biases and norms do not decay."""
    epochs: int
    """Passes over the training split."""
    batch_size: int
    label_smoothing: float
    """From 0 to below 1."""
    dropout: float | None
    """From 0 to below 1; None keeps the model's own."""
    augmentation: float | str
    """From 0 (none) to 1 (the task's strongest), or a policy by a name that the task knows."""
    mixup: float
    """α of the Beta distribution that pairs of examples are mixed by (Zhang et al., 2018); 0: no."""
    cutmix: float
    """The same for a rectangle out of another image (Yun et al., 2019); 0: no."""
    layer_decay: float
    """What the learning rate is multiplied by from each layer to the one below; 1: no."""
    warm_up: float
    """Of the learning rate, linear: below 1 a share of the steps, from 1 on a number of steps."""
    schedule: str
    """From the peak to 0 along half a `cosine`, `linear`ly, or `constant`."""
    clip: float | None
    """The largest norm of a gradient; None clips nothing."""
    accumulate: int
    """Batches in one step."""
    sam: float
    """ρ of sharpness-aware minimisation (Foret et al., 2021), two passes a step; 0: no."""
    seed: int


class Distribution(Protocol):
    """Where one hyper-parameter comes from."""

    def draw(self, generator: np.random.Generator) -> object: ...

    @property
    def extremes(self) -> tuple[object, ...]:
        """Values that lie within a key's limits only if all that can be drawn do."""
        ...

    @property
    def toml(self) -> object:
        """What `Space.from_table` reads this from."""
        ...


@dataclass(frozen=True)
class Constant:
    """Always the same value."""

    value: object

    def draw(self, generator: np.random.Generator) -> object:
        return self.value

    @property
    def extremes(self) -> tuple[object, ...]:
        return (self.value,)

    @property
    def toml(self) -> object:
        return self.value


@dataclass(frozen=True)
class Choice:
    """One of these, each as likely."""

    options: tuple[object, ...]

    def draw(self, generator: np.random.Generator) -> object:
        return self.options[int(generator.integers(len(self.options)))]

    @property
    def extremes(self) -> tuple[object, ...]:
        return self.options

    @property
    def toml(self) -> object:
        return {"choice": list(self.options)}


@dataclass(frozen=True)
class Uniform:
    """Between two numbers, uniformly, or with `log` uniformly in the logarithm.

    Drawn values have three significant digits, so that what people read is what was run.
    """

    low: float
    high: float
    log: bool = False

    def draw(self, generator: np.random.Generator) -> object:
        share = float(generator.random())
        if self.log:
            value = math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        else:
            value = self.low * (1 - share) + self.high * share
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    @property
    def extremes(self) -> tuple[object, ...]:
        return self.low, self.high

    @property
    def toml(self) -> object:
        return {"log_uniform" if self.log else "uniform": [self.low, self.high]}


@dataclass(frozen=True)
class Limits:
    """Which values a hyper-parameter may have."""

    low: float
    high: float = math.inf
    low_allowed: bool = True
    high_allowed: bool = True
    whole: bool = False
    none_allowed: bool = False

    def __contains__(self, value: object) -> bool:
        if value is None:
            return self.none_allowed
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        above = value >= self.low if self.low_allowed else value > self.low
        below = value <= self.high if self.high_allowed else value < self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        start = f"{'at least' if self.low_allowed else 'above'} {self.low:g}"
        if math.isfinite(self.high):
            start += f" and {'at most' if self.high_allowed else 'below'} {self.high:g}"
        return f"{'whole numbers' if self.whole else 'numbers'} {start}"


_SHARE = Limits(0, 1, high_allowed=False)
LIMITS = {
    "lr": Limits(0, low_allowed=False),
    "weight_decay": Limits(0),
    "epochs": Limits(1, whole=True),
    "batch_size": Limits(1, whole=True),
    "label_smoothing": _SHARE,
    "dropout": Limits(0, 1, high_allowed=False, none_allowed=True),
    "augmentation": Limits(0, 1),
    "mixup": Limits(0),
    "cutmix": Limits(0),
    "layer_decay": Limits(0, 1, low_allowed=False),
    "warm_up": Limits(0),
    "clip": Limits(0, low_allowed=False, none_allowed=True),
    "accumulate": Limits(1, whole=True),
    "sam": Limits(0),
}


@dataclass(frozen=True)
class Space:
    """One distribution for each hyper-parameter of a `Run`, but for its seed.

    The defaults suit a transformer that is fine-tuned whole.
    """

    lr: Distribution = Uniform(1e-5, 1e-4, log=True)
    weight_decay: Distribution = Uniform(1e-4, 1e-1, log=True)
    epochs: Distribution = Choice((2, 3, 4))
    batch_size: Distribution = Constant(32)
    label_smoothing: Distribution = Uniform(0.0, 0.1)
    dropout: Distribution = Constant(None)
    augmentation: Distribution = Uniform(0.0, 0.5)
    mixup: Distribution = Constant(0.0)
    cutmix: Distribution = Constant(0.0)
    layer_decay: Distribution = Constant(1.0)
    warm_up: Distribution = Constant(0.1)
    schedule: Distribution = Constant("cosine")
    clip: Distribution = Constant(1.0)
    accumulate: Distribution = Constant(1)
    sam: Distribution = Constant(0.0)

    @classmethod
    def from_table(cls, table: Mapping[str, object], source: str = "the space") -> Space:
        """The space a TOML table describes; keys that it lacks keep their defaults.

        A value is a number, or {uniform = [low, high]}, {log_uniform = [low, high]} or
        {choice = [...]}. `source` names the table in errors.
        """
        given = {}
        for key, value in table.items():
            if key not in LIMITS:
                raise BadInput(
                    f"{source} has the key {key!r}; {_nearest(key, LIMITS)} "
                    f"(the keys are {', '.join(LIMITS)})"
                )
            distribution = _distribution(value, f"{key} in {source}")
            wrong = [value for value in distribution.extremes if value not in LIMITS[key]]
            if wrong:
                raise BadInput(f"{key} in {source} can be {wrong[0]!r}; it takes {LIMITS[key]}")
            given[key] = distribution
        return cls(**given)

    @classmethod
    def read(cls, path: str | Path) -> Space:
        """The space of a TOML file."""
        try:
            table = tomllib.loads(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise BadInput(f"{path} does not exist; check the path") from None
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} is not TOML: {error}") from error
        return cls.from_table(table, str(path))

    def to_table(self) -> dict[str, object]:
        """What `from_table` reads this space from; None stands for the model's own dropout."""
        return {field.name: getattr(self, field.name).toml for field in fields(self)}

    def draw(self, seed: int, number: int) -> Run:
        """Run `number` of the sweep with this seed, the same however many runs there are."""
        generator = np.random.default_rng((seed, number))
        values = {field.name: getattr(self, field.name).draw(generator) for field in fields(self)}
        return Run(**values, seed=int(generator.integers(2**31)))


def _distribution(value: object, where: str) -> Distribution:
    if not isinstance(value, Mapping):
        return Constant(value)
    kinds = ("uniform", "log_uniform", "choice")
    if len(value) != 1 or next(iter(value)) not in kinds:
        raise BadInput(
            f"{where} is {dict(value)!r}; write a number, or one of "
            + ", ".join(f"{{{kind} = [...]}}" for kind in kinds)
        )
    ((kind, options),) = value.items()
    if not isinstance(options, list | tuple) or not options:
        raise BadInput(f"{where} has the {kind} {options!r}; write a list of values")
    if kind == "choice":
        return Choice(tuple(options))
    numbers = [x for x in options if isinstance(x, int | float) and not isinstance(x, bool)]
    least = math.ulp(0.0) if kind == "log_uniform" else -math.inf
    if len(numbers) != 2 or len(options) != 2 or not least <= numbers[0] <= numbers[1] < math.inf:
        raise BadInput(
            f"{where} has the {kind} {list(options)!r}; write [low, high], two numbers in order"
            + (", both above 0" if kind == "log_uniform" else "")
        )
    return Uniform(float(numbers[0]), float(numbers[1]), log=kind == "log_uniform")


def _nearest(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"did you mean {near[0]!r}?"
