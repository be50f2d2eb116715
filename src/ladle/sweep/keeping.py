"""What is asked of a sweep beside its runs. Pure: no torch, no task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ladle.errors import BadInput

Head = Literal["probe", "as-is"]
"""Where the final layer of the base comes from."""


@dataclass(frozen=True)
class Keeping:
    """What a run leaves beside its end, and when it is scored on held-out examples before that.

    `save_every` and `score_every` are in steps, None for never; `ema` are decays; `swa` is the last
    part of the steps, of whose weights the mean is kept, 0 for none.
    """

    save_every: int | None = None
    score_every: int | None = None
    ema: tuple[float, ...] = ()
    swa: float = 0.0

    def __post_init__(self) -> None:
        for name in ("save_every", "score_every"):
            steps = getattr(self, name)
            if steps is not None and steps < 1:
                raise BadInput(f"{name} is {steps}; give a number of steps from 1 on")
        if wrong := [decay for decay in self.ema if not 0 < decay < 1]:
            raise BadInput(f"ema is {wrong[0]:g}; a decay lies between 0 and 1")
        if len(set(self.ema)) < len(self.ema):
            raise BadInput("ema names a decay twice; name each once")
        if not 0 <= self.swa <= 1:
            raise BadInput(f"swa is {self.swa:g}; give a part of the steps, from 0 to 1")
