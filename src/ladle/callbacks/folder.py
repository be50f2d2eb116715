"""The folder of a sweep (`ladle.runs.records`), written by trainings that are not ladle's own."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ladle.checkpoint import Checkpoint, open_checkpoint
from ladle.errors import BadInput, OutputExists
from ladle.files import (
    claimed,
    clear_claimed,
    part_of,
    publish_file,
    publish_folder,
    publish_new_folder,
)
from ladle.merge.finite import count_non_finite
from ladle.merge.slices import read_bytes, slices
from ladle.runs.records import (
    BASE,
    STEPS,
    SWEEP_RECORD,
    VERSION,
    Score,
    read_record,
    run_name,
    step_name,
    write_record,
    write_run,
)
from ladle.wording import some

_SWEEP = {"version": VERSION, "runs_of": "ladle.callbacks"}

_NAME = re.compile(r"\w[\w.+=-]*")

_HELD: dict[Path, ExitStack] = {}
"""The locks on unfinished runs that this process has, by the run's folder."""

Write = Callable[[Path], object]
"""Writes weights, and what belongs beside them, into an empty folder."""


class RunFolder:
    """One run's place in the folder of a sweep, from its start to its end.

    To be used by one process of a training alone.
    """

    def __init__(self, folder: str | Path, name: str | None = None) -> None:
        """
        Raises:
            BadInput: `name` cannot be a folder's.
        """
        if name is not None and (not _NAME.fullmatch(name) or name.endswith(".part")):
            raise BadInput(f"a run cannot be called {name!r}; give one word, such as lr-high")
        self.folder = Path(folder)
        self.asked = name and name.removeprefix("run-")
        self.name: str | None = None
        """What follows `run-` in the name of the run under way; None if there is none."""
        self._held = ExitStack()
        self._base: str | None = None
        self._began = 0.0

    @property
    def _path(self) -> Path:
        return self.folder / f"run-{self.name}"

    @property
    def _part(self) -> Path:
        return part_of(self._path)

    def start(self, write: Write) -> None:
        """Begin a run with weights that `write` writes: they become the base, or are compared.

        Raises:
            BadInput: they are not the base's, or the folder is of another sweep.
            OutputExists: there is a run of this name.
        """
        self._enter()
        self._claim()
        start = self._part / BASE
        try:
            start.mkdir()
            write(start)
            write_run(start, BASE, base=None)
            base = self.folder / BASE
            if not publish_new_folder(start, base):
                _compare(open_checkpoint(base), open_checkpoint(start))
                shutil.rmtree(start)
        except BaseException:
            self._abandon()
            raise
        self._know_base()

    def resume(self, name: str | None) -> None:
        """Go on with the run called `name`, whose weights are not the base's any more.

        None stands for a run that was begun without this folder.

        Raises:
            BadInput: there is no base.
        """
        self._enter()
        if not (self.folder / BASE).is_dir():
            raise BadInput(
                f"{self.folder / BASE} is missing, and a resumed run has other weights than those "
                "it started from; write the model it started from there, or begin anew"
            )
        self.name = name or self.asked
        if self.name is None:
            self._claim()
        else:
            self._refuse_finished()
            self._hold()
        self._know_base()

    def keep_step(self, step: int, write: Write) -> None:
        """Write the weights that the run has at a step."""
        folder = self._part / STEPS / step_name(step)
        part = part_of(folder)
        for old in (folder, part):  # Of a run that went further before it was resumed.
            shutil.rmtree(old, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        write_run(part, f"{self._path.name}/{STEPS}/{folder.name}", base=self._base, step=step)
        publish_new_folder(part, folder)

    def finish(
        self,
        write: Write,
        *,
        run: Mapping[str, Any],
        step: int,
        scores: Sequence[Score],
        libraries: Sequence[str],
    ) -> Path:
        """Write weights and record, and let the run's folder appear; returns it.

        Weights that hold NaN or infinity are not kept: the record says so.
        """
        part = self._part
        clear_claimed(part, keep=(STEPS,))
        write(part)
        bad = count_non_finite(open_checkpoint(part))
        if bad:
            clear_claimed(part, keep=(STEPS,))
        write_run(
            part,
            self._path.name,
            base=self._base,
            run=run,
            step=step,
            scores=scores,
            failed=f"NaN or infinity in {some(list(bad))}" if bad else None,
            seconds=time.monotonic() - self._began,
            libraries=libraries,
        )
        publish_folder(self._path)
        done = self._path
        self._leave()
        return done

    def _enter(self) -> None:
        """Look at the folder, or make it."""
        self._leave()
        self._began = time.monotonic()
        file = self.folder / SWEEP_RECORD
        if file.is_file():
            found = read_record(file)
            if found.get("runs_of") != _SWEEP["runs_of"]:
                raise BadInput(f"{self.folder} is a sweep of `ladle sweep`; use another folder")
        elif self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{self.folder} is a file; use another folder")
        self.folder.mkdir(parents=True, exist_ok=True)

    def _claim(self) -> None:
        """A place for a new run: by the name that was asked for, or the next free number."""
        if self.asked is not None:
            self.name = self.asked
            self._refuse_finished()
            self._hold()
            clear_claimed(self._part)
            return
        for number in itertools.count():
            self.name = run_name(number).removeprefix("run-")
            if self._path.exists():
                continue
            try:
                # What a killed run left is not taken over: it may yet be resumed.
                self._part.mkdir()
                self._hold()
            except (FileExistsError, OutputExists):
                continue
            if not self._path.exists():
                return
            self._abandon()

    def _hold(self) -> None:
        """Lock the place against other processes."""
        # A training that failed in this process, as in a notebook, is not at work any more.
        place = self._path.resolve()
        if place in _HELD:
            _HELD.pop(place).close()
        self._held = ExitStack()
        self._held.enter_context(claimed(self._path))
        _HELD[place] = self._held

    def _refuse_finished(self) -> None:
        if self._path.exists():
            raise OutputExists(
                f"{self._path} is a finished run; give this one another name, or remove it"
            )

    def _know_base(self) -> None:
        # Written last, so that a folder that says it is a sweep has a base.
        file = self.folder / SWEEP_RECORD
        if not file.exists():
            # From where nobody else writes: runs may begin at the same time.
            write_record(self._part / SWEEP_RECORD, _SWEEP)
            publish_file(self._part / SWEEP_RECORD, file)
        self._base = open_checkpoint(self.folder / BASE).digest()

    def _abandon(self) -> None:
        shutil.rmtree(self._part, ignore_errors=True)
        self._leave()

    def _leave(self) -> None:
        self._held.close()
        self.name = None


def _compare(base: Checkpoint, start: Checkpoint) -> None:
    """Check that a run starts from the base, bit for bit.

    Raises:
        BadInput: it does not; the first tensors that differ are named.
    """
    ours, theirs = start.layout, base.layout
    differ = sorted(
        {name for name in {*ours.names, *theirs.names} if not _alike(name, base, start)},
        key=[*ours.names, *theirs.names].index,
    )
    if differ:
        raise BadInput(
            f"this run does not start from {base.path}: {some(differ)} "
            f"{'differs' if len(differ) == 1 else 'differ'}; if that is a head that was drawn at "
            "random, draw it once: set the seed before the model is built, or load the model from "
            f"{base.path}; runs from another start go into another folder"
        )


def _alike(name: str, base: Checkpoint, start: Checkpoint) -> bool:
    spec = start.layout.tensors.get(name)
    if spec is None or spec != base.layout.tensors.get(name):
        alias = start.layout.ties.get(name)
        return alias is not None and alias == base.layout.ties.get(name)
    return all(
        np.array_equal(read_bytes(base, name, *place), read_bytes(start, name, *place))
        for place in slices(spec)
    )


_PLAIN = (str, int, float, bool, type(None))


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that JSON has, and enumerations by their value."""
    found = {str(name): getattr(value, "value", value) for name, value in values.items()}
    return {name: value for name, value in found.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(one) for one in value)
    if isinstance(value, Mapping):
        return all(_is_plain(one) for one in value.values())
    return isinstance(value, _PLAIN)


@dataclass(frozen=True)
class Moments:
    """At which steps weights are kept."""

    every: int | None = None
    steps: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise BadInput(f"every={self.every} keeps nothing; give a number of steps from 1 on")

    def __contains__(self, step: object) -> bool:
        regular = self.every is not None and isinstance(step, int) and step % self.every == 0
        return bool(step) and (regular or step in self.steps)


_SPLIT = re.compile(r"(val|valid|validation|eval|test|train)[/_](.+)")


def score_of(step: int, name: str, value: float, split: str) -> Score:
    """A score by the name that a training logged it under, which may begin with the split's."""
    found = _SPLIT.fullmatch(name)
    return Score(step, found[1], found[2], value) if found else Score(step, split, name, value)
