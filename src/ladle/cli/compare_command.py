"""`ladle compare`: soups against ensembles, and which models lie in one basin."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ladle.cli import comparisons, options, screen
from ladle.errors import BadInput

if TYPE_CHECKING:
    from ladle.analysis import Plan, Said
    from ladle.evaluate import Store
    from ladle.soup import Ingredient, Pool

_MARK: Literal["comparison.json"] = "comparison.json"


@click.command("compare")
@options.opening
@click.option("--task", required=True, metavar="TASK", help="A name, a .toml file, FILE.py:NAME.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Only this one, and held-out data; may be repeated. As it stands, all but train.",
)
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
@options.samples
@options.base
@options.store
@options.folder
@options.overwrite
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
    samples: int | None,
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
        Said,
        check_folder,
        compare,
        comparison_record,
        header,
        looking,
        plan,
        require_scipy,
        with_origin,
        working,
    )
    from ladle.evaluate import unwatched
    from ladle.report import write_report

    require_scipy()
    start = options.start(base, inputs)
    given = opening.pool(inputs)
    _check_models(given, start)
    places = [*given, *([start] if start else [])]
    check_folder(output, _MARK, places, store=store, overwrite=overwrite)
    together = with_origin(given, start)
    models = together.subset(range(len(together) - len(given), len(together)))
    planned = plan(models, pairs=pairs, orders=orders, seed=seed, integers=integers)
    data = evaluating.load(task)

    def said(known: Store | None) -> Said:
        evaluator = evaluating.evaluator(data, store=known, watch=unwatched)
        return Said(evaluator, splits, samples=samples, bn=bn, seed=seed)

    said(None)  # Flags that do not fit the task are told before anything is read.
    with screen.watching_bytes("reading", len(together) * together.layout.nbytes) as advance:
        together.hash_all(advance)
        positions = Positions.of(together)
    positions.check_apart()

    if dry_run:
        with looking(output, data, store=store) as known:
            cost = _Cost.of(planned, said(known))
        if as_json:
            screen.print_json({"output": str(output), **asdict(cost)})
        else:
            screen.say(f"would compare {cost} into {output}")
        return
    with working(output, _MARK, data, store=store) as work:
        asked = said(work.store)
        top = header(asked.evaluator, command=shlex.join(["ladle", *sys.argv[1:]]))
        screen.remark_all(top["caveats"])
        screen.remark(f"comparing {_Cost.of(planned, asked)}")
        compared = compare(planned, asked, positions, watch=screen.watching)
        record = {**top, **comparison_record(compared, start)}
        work.publish(record, finish=write_report)
    if as_json:
        screen.print_json({"output": str(output), "comparison": record})
        return
    comparisons.show(record)
    screen.say(f"-> {output}")


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
    def of(cls, planned: Plan, said: Said) -> _Cost:
        evaluations = len(planned.soups) * len(said.splits)
        return cls(
            models=len(planned.pool),
            pairs=len(planned.pairs),
            soups=len(planned.soups) - len(planned.pool),
            splits=tuple(split.name for split in said.splits),
            examples=said.examples,
            evaluations=evaluations,
            known=evaluations - said.missing(planned),
        )

    def __str__(self) -> str:
        return (
            f"{self.models} models in {self.pairs} pairs: {self.models} + {self.soups} soups on "
            f"{', '.join(self.splits)} ({self.examples:,} examples) are {self.evaluations:,} "
            f"evaluations, {self.known:,} of which are in the store"
        )


def _check_models(models: Pool, base: Ingredient | None) -> None:
    from ladle.soup import is_adapter

    if base is None and any(is_adapter(one.checkpoint) for one in models):
        raise BadInput("an adapter is no model without its base; give it with --base")
