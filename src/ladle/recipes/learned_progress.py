"""How far a learned soup is: an optimiser's numbers, the best so far, and a file with them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ladle.checkpoint.numbers import Float64
from ladle.files import new_file
from ladle.recipes.learned_coefficients import Turn
from ladle.soup import Tasting

_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8
"""Adam's decays and epsilon: PyTorch's, which the authors' code leaves alone."""

_SECONDS = 1.0
"""Between two times that the file is written."""

_ARRAYS = ("values", "first", "second", "centre", "best")


@dataclass(frozen=True)
class Best:
    """The step with the lowest loss on the examples kept back; step 0 is the start.

    `shares` (G, k) are its coefficients, `factor` is what its logits were multiplied by.
    """

    step: int
    loss: float
    factor: float
    shares: Float64


@dataclass(frozen=True)
class Progress:
    """After `step` steps: the values that are learned, (n,), and Adam's means of their slopes.

    The values are of the `turn` that began with the step `since`: in another one they mean
    something else, so the means are new then.
    """

    values: Float64
    first: Float64
    second: Float64
    best: Best
    turn: Turn
    since: int = 0
    step: int = 0
    tastings: tuple[Tasting, ...] = ()
    losses: tuple[float, ...] = field(default=())
    """Of every step, on its examples."""

    def stepped(self, slope: Float64, loss: float, rate: float) -> Progress:
        """After one more step of Adam (Kingma and Ba, 2015), without weight decay."""
        step = self.step + 1 - self.since
        first = _FIRST * self.first + (1 - _FIRST) * slope
        second = _SECOND * self.second + (1 - _SECOND) * slope**2
        size = np.sqrt(second / (1 - _SECOND**step)) + _EPSILON
        values = self.values - rate * first / (1 - _FIRST**step) / size
        return replace(
            self,
            values=values,
            first=first,
            second=second,
            step=self.step + 1,
            losses=(*self.losses, loss),
        )

    def turned(self, turn: Turn, values: Float64) -> Progress:
        """With the values that the next turn begins with."""
        none = np.zeros_like(values)
        return replace(self, turn=turn, values=values, first=none, second=none, since=self.step)


class Notebook:
    """Keeps progress in a file, at most once a second; None keeps nothing.

    What was written for other work than what `identify` tells is not taken up; it is not asked
    where nothing is kept.
    """

    def __init__(self, folder: Path | None, identify: Callable[[], str]) -> None:
        self._file = None if folder is None else folder / "learned.npz"
        self._identity = "" if folder is None else identify()
        self._written = -math.inf

    def read(self) -> Progress | None:
        """What an interrupted command left."""
        if self._file is None or not self._file.is_file():
            return None
        with np.load(self._file, allow_pickle=False) as kept:
            about = json.loads(str(kept["about"]))
            arrays = {name: kept[name] for name in _ARRAYS}
        if about.pop("identity") != self._identity:
            return None
        tastings = (
            Tasting(**{**one, "members": tuple(one["members"])}) for one in about["tastings"]
        )
        return Progress(
            values=arrays["values"],
            first=arrays["first"],
            second=arrays["second"],
            best=Best(**about["best"], shares=arrays["best"]),
            turn=Turn(tuple(about["members"]), arrays["centre"]),
            since=about["since"],
            step=about["step"],
            tastings=tuple(tastings),
            losses=tuple(about["losses"]),
        )

    def write(self, progress: Progress) -> None:
        """Keep it, unless something was kept less than a second ago."""
        if self._file is None or time.monotonic() - self._written < _SECONDS:
            return
        best = progress.best
        about = {
            "identity": self._identity,
            "best": {"step": best.step, "loss": best.loss, "factor": best.factor},
            "members": progress.turn.members,
            "since": progress.since,
            "step": progress.step,
            "tastings": [asdict(one) for one in progress.tastings],
            "losses": progress.losses,
        }
        with new_file(self._file) as part, part.open("wb") as file:
            np.savez(
                file,
                about=np.array(json.dumps(about)),
                values=progress.values,
                first=progress.first,
                second=progress.second,
                centre=progress.turn.centre,
                best=best.shares,
            )
        self._written = time.monotonic()
