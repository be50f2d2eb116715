"""Sweeps: the fine-tunings that make ingredients."""

from ladle.sweep.run import OnStep, no_step, space_of, sweep
from ladle.sweep.space import Choice, Constant, Run, Space, Uniform

__all__ = [
    "Choice",
    "Constant",
    "OnStep",
    "Run",
    "Space",
    "Uniform",
    "no_step",
    "space_of",
    "sweep",
]
