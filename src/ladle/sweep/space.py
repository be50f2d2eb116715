"""What a sweep draws its fine-tunings from. Pure: no torch, no task."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ladle.errors import BadInput
from ladle.sweep.distributions import Choice, Constant, Distribution, Uniform, from_toml
from ladle.sweep.points import draw
from ladle.wording import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = {path.stem: path for path in sorted(Path(__file__).with_name("presets").glob("*.toml"))}
"""Spaces that come with ladle, by name; their files say where they are from."""


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
    """α of the Beta distribution that pairs of examples mix by (Zhang et al., 2018); 0: no."""
    cutmix: float
    """The same for a rectangle out of another image (Yun et al., 2019); 0: no."""
    layer_decay: float
    """What the learning rate is multiplied by from each layer to the one below; 1: no."""
    warm_up: float
    """Of the learning rate, linear: below 1 a share of the steps, from 1 on a number of steps."""
    schedule: str
    """From the peak to 0 along half a `cosine`, `linear`ly, or `constant`."""
    clip: float
    """The largest norm of a gradient; 0: any."""
    accumulate: int
    """Batches in one step."""
    sam: float
    """ρ of sharpness-aware minimisation (Foret et al., 2021), two passes a step; 0: no."""
    seed: int


class Limits(Protocol):
    """Which values a hyper-parameter may have, and in words (`str`) for errors."""

    def __contains__(self, value: object) -> bool: ...


@dataclass(frozen=True)
class Numbers:
    """Numbers in a range."""

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


@dataclass(frozen=True)
class Words:
    """One of these words."""

    words: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return "the words " + ", ".join(self.words)


@dataclass(frozen=True)
class OrPolicy:
    """Some values, or the name of a policy; whether there is such a one, only the task can say."""

    otherwise: Limits

    def __contains__(self, value: object) -> bool:
        return (isinstance(value, str) and value.strip() != "") or value in self.otherwise

    def __str__(self) -> str:
        return f"{self.otherwise}, and names of the task's policies"


_SHARE = Numbers(0, 1, high_allowed=False)
LIMITS: Mapping[str, Limits] = {
    "lr": Numbers(0, low_allowed=False),
    "weight_decay": Numbers(0),
    "epochs": Numbers(1, whole=True),
    "batch_size": Numbers(1, whole=True),
    "label_smoothing": _SHARE,
    "dropout": Numbers(0, 1, high_allowed=False, none_allowed=True),
    "augmentation": OrPolicy(Numbers(0, 1)),
    "mixup": Numbers(0),
    "cutmix": Numbers(0),
    "layer_decay": Numbers(0, 1, low_allowed=False),
    "warm_up": Numbers(0),
    "schedule": Words(("cosine", "linear", "constant")),
    "clip": Numbers(0),
    "accumulate": Numbers(1, whole=True),
    "sam": Numbers(0),
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

        A value is a number or a word, or {uniform = [low, high]}, {log_uniform = [low, high]} or
        {choice = [...]}, each also with off = SHARE: the value is 0 in that share of the runs.
        With like = NAME, keys that the table lacks are those of a preset. `source` names the
        table in errors.
        """
        given = dict(table)
        start = _preset(given.pop("like"), source) if "like" in given else cls()
        changes = {key: _checked(key, value, source) for key, value in given.items()}
        return replace(start, **changes)

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

    @classmethod
    def named_or_read(cls, text: str) -> Space:
        """The preset of this name, or the space of this TOML file."""
        if text in PRESETS:
            return cls.read(PRESETS[text])
        path = Path(text)
        if path.suffix != ".toml" and not path.exists():
            raise BadInput(
                f"there is no space {text!r}{nearest(text, PRESETS)}; or name a .toml file"
            )
        return cls.read(path)

    def to_table(self) -> dict[str, object]:
        """What `from_table` reads this space from; None stands for the model's own dropout."""
        return {key: distribution.toml for key, distribution in self.distributions.items()}

    @property
    def distributions(self) -> dict[str, Distribution]:
        """By the name of the hyper-parameter, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def runs(self, seed: int, count: int, points: str = "random") -> list[Run]:
        """The first `count` runs of the sweep with this seed, on any machine, in any session.

        Run i is the same however many there are. `points` is how they cover the space: "random"ly,
        along a scrambled "sobol" sequence, or through a "grid" of all combinations in random order.
        Random draws of one hyper-parameter stay what they are when another becomes constant.

        Raises:
            BadInput: there is no grid, or it has fewer combinations; the seed is negative.
            MissingExtra: Optuna is not installed, or SciPy, which Sobol sequences need.
        """
        if seed < 0:
            raise BadInput(f"a sweep's seed is a whole number at least 0, not {seed}")
        drawn = draw(self.distributions, seed, count, points)
        return [
            # Its own generator, so that what a run does never depends on what is drawn beside it.
            Run(**values, seed=int(np.random.default_rng((seed, number)).integers(2**31)))
            for number, values in enumerate(drawn)
        ]


def _preset(name: object, source: str) -> Space:
    if not isinstance(name, str) or name not in PRESETS:
        raise BadInput(f"{source} is like {name!r}{nearest(str(name), PRESETS)}; name a preset")
    return Space.read(PRESETS[name])


def _checked(key: str, value: object, source: str) -> Distribution:
    if key not in LIMITS:
        (near,) = difflib.get_close_matches(key, LIMITS, n=1, cutoff=0.0)
        raise BadInput(
            f"{source} has the key {key!r}; did you mean {near!r}? "
            f"(the keys are {', '.join(LIMITS)})"
        )
    limits = LIMITS[key]
    whole = isinstance(limits, Numbers) and limits.whole
    distribution = from_toml(value, f"{key} in {source}", whole=whole)
    wrong = [value for value in distribution.extremes if value not in limits]
    if wrong:
        raise BadInput(f"{key} in {source} can be {wrong[0]!r}; it takes {limits}")
    return distribution
