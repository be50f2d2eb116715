"""Sweeps: the fine-tunings that make ingredients."""

from ladle.sweep.distributions import Choice, Constant, Off, Uniform, Whole
from ladle.sweep.keeping import Head, Keeping
from ladle.sweep.run import space_of, sweep
from ladle.sweep.space import PRESETS, Run, Space
from ladle.sweep.story import OnStep, Progress, no_step
from ladle.sweep.study import Study

__all__ = [
    "PRESETS",
    "Choice",
    "Constant",
    "Head",
    "Keeping",
    "Off",
    "OnStep",
    "Progress",
    "Run",
    "Space",
    "Study",
    "Uniform",
    "Whole",
    "no_step",
    "space_of",
    "sweep",
]
