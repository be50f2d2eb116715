"""The output folder of an analysis: its record, and the store that the next run continues from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ladle.errors import BadInput
from ladle.evaluate import Evaluator, Store, arrays_of, caveats_of, check_store
from ladle.files import (
    Mark,
    as_json,
    claimed,
    clear_claimed,
    part_of,
    publish_folder,
    refuse_existing,
    telling_full_disk,
)
from ladle.location import is_local
from ladle.soup import Ingredient
from ladle.tasks import Task

VERSION = 1
"""Of the format of `landscape.json` and `comparison.json`."""

_STORE = "ladle.sqlite"


def check_folder(
    output: Path,
    mark: Mark,
    inputs: Iterable[Ingredient],
    *,
    store: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Check that an analysis can be written to `output`, before any work is done.

    It may lie in the folder of a model, as in `soup/landscape`: it has no weights of its own.

    Raises:
        OutputExists: something is there that may not, or must not, be replaced.
        BadInput: it is, or holds, one of the inputs or the store.
    """
    for one in inputs:
        source = one.checkpoint.path.resolve()
        for place in (output.resolve(), part_of(output.resolve())):
            if place == source or place in source.parents:
                raise BadInput(
                    f"the output {output} and the input {one.checkpoint.path} would mix; name "
                    "another --output"
                )
    refuse_existing(output, overwrite=overwrite, mark=mark)
    check_store(store, output)


@dataclass(frozen=True)
class Work:
    """An output that is being made, and the store of its evaluations."""

    output: Path
    mark: Mark
    store: Store
    _kept: tuple[str, ...]

    def publish(
        self, record: Mapping[str, Any], finish: Callable[[Path], object] = lambda folder: None
    ) -> None:
        """Write the record, let `finish` add to the folder, and let it appear as `output`."""
        work = part_of(self.output)
        # Folded into one file before it moves.
        self.store.close()
        with telling_full_disk(self.output):
            clear_claimed(work, keep=self._kept)
            (work / self.mark).write_text(as_json(record, indent=1) + "\n", "utf-8")
            finish(work)
            publish_folder(self.output)


@contextmanager
def working(output: Path, mark: Mark, task: Task, *, store: Path | None = None) -> Iterator[Work]:
    """A folder to work in, `output.part`, with the store: `store`, or one of its own.

    What was evaluated for an output that is replaced, or before a kill, need not be again.

    Raises:
        OutputExists: another process works there.
        BadInput: the store knows other tasks only.
    """
    with claimed(output) as work:
        own = work / _STORE
        opened = Store(store or own)
        try:
            _check_task(opened, store or own, task)
            for earlier in [output / _STORE, *([own] if store else [])]:
                if earlier.is_file():
                    opened.take_over(earlier)
            kept = () if store else (own.name, arrays_of(own).name)
            yield Work(output, mark, opened, kept)
        finally:
            opened.close()


@contextmanager
def looking(output: Path, task: Task, *, store: Path | None = None) -> Iterator[Store]:
    """The store that `working` would go on from, to see what it has; nothing is made.

    Raises:
        BadInput: the store knows other tasks only.
    """
    places = [store] if store else [part_of(output) / _STORE, output / _STORE]
    # What is behind a URL is fetched only when there is work to do.
    place = next((place for place in places if is_local(place) and place.is_file()), None)
    opened = Store(place)
    try:
        if place:
            _check_task(opened, place, task)
        yield opened
    finally:
        opened.close()


def _check_task(store: Store, path: Path, task: Task) -> None:
    known = store.tasks()
    # Behind the digest may stand how the model computed.
    if known and not any(one.split(" ")[0] == task.digest.split(" ")[0] for one in known):
        raise BadInput(
            f"the store {path} has evaluations of another task, and none of {task.name}; name "
            "another --store or --output, or give the task that it belongs to"
        )


def header(evaluator: Evaluator, *, command: str | None) -> dict[str, Any]:
    """What every record begins with: versions, task, metric, splits, and what to beware of."""
    from ladle import __version__

    return {
        "version": VERSION,
        "ladle": __version__,
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **evaluator.describe(),
        "caveats": caveats_of(evaluator.task),
    }
