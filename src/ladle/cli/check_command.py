"""`ladle check`: can these be souped?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ladle.cli import options, screen

if TYPE_CHECKING:
    from ladle.checks import Report

_NOT_SOUPABLE = 3


@click.command("check")
@options.opening
@options.base
@options.task
@options.seed
@options.device
@options.batch_size
@options.always
def command(
    inputs: tuple[str, ...],
    base: str | Path | None,
    task: str | None,
    seed: int,
    device: str,
    batch_size: int,
    opening: options.Opening,
    as_json: bool,
    debug: bool,
) -> None:
    """Tell whether checkpoints can be averaged, and if not, why.

    Looks at names, shapes and tokenizers, at NaNs, duplicates, un-shared heads, different
    initialisations and diverged members; with --task, also at the models halfway between two. Exit
    code 3 if they are not soupable.
    """
    from ladle.checks import check
    from ladle.evaluate import Evaluator, find_device
    from ladle.tasks import load_task

    evaluator = None
    if task is not None:
        find_device(device)
        evaluator = Evaluator(
            load_task(task), device=device, batch_size=batch_size, watch=screen.watching
        )
    found = opening.gather(inputs, quietly=True)
    nbytes = sum(one.checkpoint.layout.nbytes for one in found.ingredients)
    with screen.watching_bytes("reading", nbytes) as advance:
        report = check(found, base=base, task=evaluator, seed=seed, advance=advance)
    if as_json:
        screen.print_json(report.record())
    else:
        _show(report)
    if report.verdict == "not soupable":
        sys.exit(_NOT_SOUPABLE)


def _show(report: Report) -> None:
    screen.say(f"{report.verdict}: {len(report.names)} checkpoints")
    for finding in report.findings:
        screen.say(f"\n{finding.severity}: {finding.text}")
    if report.distances:
        screen.say("")
        rows = [[name, f"{100 * value:.2f} %"] for name, value in report.distances.items()]
        screen.print_table(["", "from the start"], rows)
