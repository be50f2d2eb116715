"""`ladle average`: a uniform or weighted soup, without a task."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ladle.cli import options, screen, tastings
from ladle.errors import BadInput

if TYPE_CHECKING:
    from ladle.soup import Pool
    from ladle.soup.output import WriteOptions


@click.command("average")
@options.opening
@click.option("--weights", help="One number per checkpoint, as in 0.2,0.8.", metavar="W,W,...")
@click.option("--normalize", is_flag=True, help="Divide --weights by their sum.")
@options.writing
@click.option(
    "--hash/--no-hash",
    "hashed",
    default=True,
    show_default=True,
    help="Record the sha256 of every checkpoint, computed while it is read.",
)
@options.ray
@options.workers
@options.always
def command(
    inputs: tuple[str, ...],
    weights: str | None,
    normalize: bool,
    output: Path,
    overwrite: bool,
    dry_run: bool,
    dtype: str,
    max_shard_size: int,
    rank: int | None,
    integers: Any,
    hashed: bool,
    ray: str | None,
    workers: int | None,
    opening: options.Opening,
    as_json: bool,
    debug: bool,
) -> None:
    """Average checkpoints: the uniform soup, or one with given weights.

    CKPT are files, model folders, globs, or the folder of a training or sweep.
    """
    from ladle.merge import mean
    from ladle.soup import Soup
    from ladle.soup.output import WriteOptions, check_output, read_record, save
    from ladle.soup.record import record

    pool = opening.pool(inputs)
    merge = mean(len(pool)) if weights is None else _merge(weights, len(pool), normalize)
    recipe = "uniform" if weights is None else "weighted"
    soup = Soup(pool, merge, recipe=recipe, integers=integers, rank=rank)
    called = shlex.join(["ladle", *sys.argv[1:]])
    check_output(pool, output, overwrite=overwrite, rank=rank)
    write = WriteOptions(None if dtype == "source" else dtype, max_shard_size, hashed)
    if workers is not None and ray is None:
        raise BadInput("--workers goes with --ray; without it there is this process alone")
    if not dry_run:
        with (
            _writing(write, pool, ray, workers) as write,
            screen.watching_bytes(f"writing {output}", pool.layout.nbytes) as advance,
        ):
            save(soup, output, overwrite=overwrite, options=write, command=called, advance=advance)
    kept = record(soup, command=called, hashed=False) if dry_run else read_record(output)
    if as_json:
        screen.print_json({"output": str(output), "dry_run": dry_run, "soup": kept})
        return
    for one, weight in zip(pool, soup.weights, strict=True):
        screen.say(f"{weight:8.4f}  {one.name}")
    layout = pool.layout
    size = f"{len(layout.tensors)} tensors, {layout.parameters:,} parameters"
    done = "would be written to" if dry_run else "->"
    screen.say(f"{len(pool)} checkpoints ({size}) {done} {output}")
    tastings.show_adapter(kept)


@contextmanager
def _writing(
    write: WriteOptions, pool: Pool, ray: str | None, workers: int | None
) -> Iterator[WriteOptions]:
    """The same, on the cluster at `ray` if that is given."""
    if ray is None:
        yield write
        return
    from ladle.cluster import connected

    with connected(ray) as cluster:
        from ladle.cluster.tasks import Tasks

        cluster.check_paths(dict.fromkeys(file for one in pool for file in one.checkpoint.files))
        tasks = Tasks(workers or cluster.room(cpus=1, gpus=0))
        cluster.tell_if_full(screen.remark, cpus=1, gpus=0)
        yield replace(write, map=tasks, threads=1)


def _merge(text: str, n: int, normalize: bool) -> Any:
    import math

    from ladle.merge import Linear

    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--weights {text!r}: write numbers with commas, as in 0.2,0.8") from None
    if len(weights) != n:
        raise BadInput(f"--weights has {len(weights)} numbers for {n} checkpoints; give one each")
    total = math.fsum(weights)
    if not math.isfinite(total) or total == 0:
        raise BadInput(f"--weights sum to {total}; give numbers that sum to 1")
    if not normalize and not math.isclose(total, 1.0, rel_tol=0, abs_tol=1e-6):
        raise BadInput(f"--weights sum to {total:g}; make them sum to 1, or add --normalize")
    # Decimal fractions sum to 1 only nearly; the mean of copies has to be the copy all the same.
    return Linear(weights, total)
