"""Flags that mean the same on every command."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Bytes from a text such as 500MB or 5GB, for a click callback."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B|)", value.strip(), re.IGNORECASE)
    number = int(float(found.group(1)) * _UNITS[found.group(2).upper()]) if found else 0
    if number < 1:
        raise click.BadParameter(f"{value!r} is no size; write it as in 500MB or 5GB")
    return number


def home(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """A path whose ~ no shell has replaced, as in --output=~/soup."""
    return None if value is None else value.expanduser()


inputs = click.argument("inputs", nargs=-1, required=True, metavar="CKPT...")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, no more.")
debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
output = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    callback=home,
    help="A folder, or a file that ends in .safetensors, .pt or .pth.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that ladle wrote.")
dry_run = click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
seed = click.option("--seed", type=int, default=0, show_default=True)
device = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
)
batch_size = click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
task = click.option(
    "--task", help="demo-text, demo-vision, a .toml file, or FILE.py:NAME.", metavar="TASK"
)
base = click.option(
    "--base",
    type=click.Path(path_type=Path),
    callback=home,
    help="What the ingredients were fine-tuned from.",
)
dtype = click.option(
    "--dtype",
    type=click.Choice(["source", "float32", "bfloat16", "float16"]),
    default="source",
    show_default=True,
    help="Of the written weights.",
)
max_shard_size = click.option(
    "--max-shard-size", callback=size, default="5GB", show_default=True, help="As in 500MB or 5GB."
)
integers = click.option(
    "--integers",
    type=click.Choice(["equal", "first", "max"]),
    default="equal",
    show_default=True,
    help="Where integer tensors differ: refuse, take the first's, take the maximum.",
)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


writing = together(output, overwrite, dry_run, dtype, max_shard_size, integers)
always = together(as_json, debug)
