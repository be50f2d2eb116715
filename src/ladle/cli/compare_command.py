"""`ladle compare`: soups against ensembles, and which models lie in one basin."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ladle.cli import comparisons, options, screen
from ladle.errors import BadInput

if TYPE_CHECKING:
    from ladle.analysis import Plan
    from ladle.evaluate import Store
    from ladle.soup import Pool
    from ladle.tasks import Split, Task

_MARK: Literal["comparison.json"] = "comparison.json"


@click.command("compare")
@options.opening
@click.option("--task", required=True, metavar="TASK", help="A name, a .toml file, FILE.py:NAME.")
@click.option("--split", "splits", multiple=True, help="Only this one; may be repeated.")
@click.option(
    "--pairs",
    type=click.IntRange(1),
    metavar="N",
    help="So many pairs of models, drawn at random; all, up to 66, if not given.",
)
@click.option(
    "--orders",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Random orders in which soups and ensembles grow.",
)
@options.base
@options.store
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    callback=options.home,
    help="A new folder.",
)
@click.option("--overwrite", is_flag=True, help="Replace a comparison that ladle wrote.")
@options.dry_run
@options.bn
@options.integers
@options.seed
@options.evaluating
@options.always
def command(
    inputs: tuple[str, ...],
    task: str,
    splits: tuple[str, ...],
    pairs: int | None,
    orders: int,
    base: str | Path | None,
    store: Path | None,
    output: Path,
    overwrite: bool,
    dry_run: bool,
    bn: Any,
    integers: Any,
    seed: int,
    opening: options.Opening,
    evaluating: options.Evaluating,
    as_json: bool,
    debug: bool,
) -> None:
    """Compare soups with ensembles, pair by pair and as they grow, and find separate basins.

    For pairs of checkpoints: angle at the base, distance, barrier, the soup and the ensemble of
    both, and the paper's approximation of their difference. Killed or interrupted, the same command
    goes on where it stopped.
    """
    from ladle.analysis import (
        Positions,
        check_folder,
        compare,
        compared_on,
        comparison_record,
        header,
        missing,
        plan,
        require_scipy,
        with_origin,
        working,
    )
    from ladle.evaluate import caveats_of, unwatched

    require_scipy()
    start = options.start(base, inputs)
    given = opening.pool(inputs)
    places = [*given, *([start] if start else [])]
    check_folder(output, _MARK, places, store=store, overwrite=overwrite)
    together = with_origin(given, start)
    models = together.subset(range(len(together) - len(given), len(together)))
    _check_models(models)
    planned = plan(models, pairs=pairs, orders=orders, seed=seed, integers=integers)
    found = evaluating.load(task)
    _check_splits(splits, found)
    with screen.watching_bytes("reading", len(together) * together.layout.nbytes) as advance:
        together.hash_all(advance)
    positions = Positions.of(together)
    positions.check_apart()
    screen.remark_all(caveats_of(found))
    if dry_run:
        with _looking(store, output) as known:
            evaluator = evaluating.evaluator(found, store=known, watch=unwatched)
            chosen = compared_on(evaluator, splits)
            cost = _Cost.of(planned, chosen, missing(planned, evaluator, chosen))
        if as_json:
            screen.print_json({"output": str(output), **asdict(cost)})
        else:
            screen.say(f"would compare {cost} into {output}")
        return
    with working(output, _MARK, found, store=store) as work:
        evaluator = evaluating.evaluator(found, store=work.store, watch=unwatched)
        chosen = compared_on(evaluator, splits)
        cost = _Cost.of(planned, chosen, missing(planned, evaluator, chosen))
        screen.remark(f"comparing {cost}")
        compared = compare(
            planned, evaluator, positions, splits=chosen, bn=bn, seed=seed, watch=screen.watching
        )
        record = {
            **header(evaluator, command=shlex.join(["ladle", *sys.argv[1:]])),
            **comparison_record(compared, start),
        }
        work.publish(record)
    if as_json:
        screen.print_json({"output": str(output), "comparison": record})
        return
    comparisons.show(record)
    screen.say(f"\nThe record: {output / _MARK}")


@dataclass(frozen=True)
class _Cost:
    """What a comparison takes, and how much of that is there already."""

    models: int
    pairs: int
    soups: int
    splits: tuple[str, ...]
    examples: int
    evaluations: int
    known: int

    @classmethod
    def of(cls, planned: Plan, splits: Sequence[Split], missing: int) -> _Cost:
        soups, names = len(planned.soups), tuple(split.name for split in splits)
        evaluations = soups * len(splits)
        return cls(
            models=len(planned.pool),
            pairs=len(planned.pairs),
            soups=soups - len(planned.pool),
            splits=names,
            examples=sum(map(len, splits)),
            evaluations=evaluations,
            known=evaluations - missing,
        )

    def __str__(self) -> str:
        return (
            f"{self.models} models and {self.pairs} pairs of them: {self.models} + {self.soups} "
            f"soups on {', '.join(self.splits)} ({self.examples:,} examples) are "
            f"{self.evaluations:,} evaluations, {self.known:,} of which are in the store"
        )


def _check_models(models: Pool) -> None:
    from ladle.checkpoint import AdapterCheckpoint

    if any(isinstance(one.checkpoint, AdapterCheckpoint) for one in models):
        raise BadInput("an adapter is no model without its base; give it with --base")


def _check_splits(names: Sequence[str], task: Task) -> None:
    unknown = [name for name in names if name not in task.splits]
    if unknown:
        raise BadInput(f"--split {unknown[0]!r}: task {task.name} has {', '.join(task.splits)}")


@contextmanager
def _looking(store: Path | None, output: Path) -> Iterator[Store]:
    """The store that a run would go on from, if there is one; nothing is made."""
    from ladle.evaluate import Store
    from ladle.files import part_of

    places = [store] if store else [part_of(output) / "ladle.sqlite", output / "ladle.sqlite"]
    opened = Store(next((place for place in places if place.is_file()), None))
    try:
        yield opened
    finally:
        opened.close()
