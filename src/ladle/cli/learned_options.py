"""The options of `--recipe learned`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from ladle.cli import options

_NAMES = (
    "by_layer",
    "by_block",
    "affine",
    "start",
    "epochs",
    "lr",
    "examples_per_step",
    "kept_back",
    "patience",
)

_options = options.together(
    click.option("--by-layer", is_flag=True, help="Learned: weights for every tensor."),
    click.option("--by-block", is_flag=True, help="Learned: weights for every block of layers."),
    click.option("--affine", is_flag=True, help="Learned: weights may be negative."),
    click.option(
        "--start", type=click.Choice(["uniform", "greedy"]), help="Learned: from this soup."
    ),
    click.option("--epochs", type=click.IntRange(1), help="Learned: over the held-out examples."),
    click.option(
        "--lr", type=click.FloatRange(0, min_open=True), help="Learned: the learning rate."
    ),
    click.option("--examples-per-step", type=click.IntRange(1), help="Learned: in one step."),
    click.option(
        "--kept-back",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Learned: part of held-out to choose a step by.",
    ),
    click.option("--patience", type=click.IntRange(1), help="Learned: epochs without gain."),
)


def learning(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options, and those that were given as the argument `learning`."""

    @functools.wraps(command)
    def with_learning(**given: Any) -> Any:
        taken = {name: given.pop(name) for name in _NAMES}
        chosen = {name: value for name, value in taken.items() if value not in (None, False)}
        return command(**given, learning=chosen)

    return _options(with_learning)
