"""One model under several names: the prefixes that wrappers put before tensors' names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ladle.checkpoint.base import Bytes, Checkpoint, Envelope, Layout

_ANYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Put in by torch.compile, FSDP and activation checkpointing; no model has such a part itself."""

_IN_FRONT = ("module", "model")
"""Put before every name by (Distributed)DataParallel, AveragedModel and Lightning modules."""


def bare(names: Collection[str]) -> dict[str, str]:
    """Each name without what wrappers added; unchanged if two would become one.

    `module.` and `model.` count as a wrapper's only where every name has them.
    """
    found = {
        name: [part for part in name.split(".") if part not in _ANYWHERE] or [name]
        for name in names
    }
    while found and all(len(p) > 1 and p[0] in _IN_FRONT for p in found.values()):
        if len({parts[0] for parts in found.values()}) > 1:
            break
        found = {name: parts[1:] for name, parts in found.items()}
    renamed = {name: ".".join(parts) for name, parts in found.items()}
    return renamed if len(set(renamed.values())) == len(renamed) else {n: n for n in names}


def matched(names: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Each of `names` as it is called among `wanted`, if they differ by wrappers' prefixes alone.

    Where they do not, or nothing has to change, every name stands for itself.
    """
    itself = {name: name for name in names}
    if set(names) <= set(wanted):
        return itself
    ours = bare(names)
    theirs = {short: name for name, short in bare(wanted).items()}
    if not set(ours.values()) <= theirs.keys():
        return itself
    return {name: theirs[short] for name, short in ours.items()}


def called_around(names: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Each of `names` as it is called in a model that has the tensors `wanted`, and perhaps others.

    One of the two may be saved without the part that holds the trunk (`bert.`, `transformer.`):
    that part is put before every name, or taken from those that have it. Where neither makes all
    of `wanted` be there, every name stands for itself.
    """
    itself = {name: name for name in names}
    there = set(names)
    fronts = sorted({name.partition(".")[0] + "." for name in wanted})
    added = [{name: front + name for name in names} for front in fronts[:1] if len(fronts) == 1]
    taken = [
        {name: name.removeprefix(front) for name in names}
        for front in sorted({name.partition(".")[0] + "." for name in names})
        if {front + name for name in wanted} <= there
    ]
    for called in (itself, *added, *taken):
        new = set(called.values())
        if set(wanted) <= new and len(new) == len(called):
            return called
    return itself


def taken_by(model: object, names: Collection[str]) -> dict[str, str] | None:
    """The tensors of a checkpoint that a model takes, and what they are called there.

    A model may say so itself, in a method `takes(names)`; what it has no place for is left out
    then. None for a model that takes all of them, under names that differ by the prefixes of
    wrappers alone.
    """
    takes = getattr(model, "takes", None)
    return None if takes is None else dict(takes(names))


@dataclass(frozen=True)
class Renamed:
    """A checkpoint under other names: see `Checkpoint`. `names` maps the old to the new."""

    checkpoint: Checkpoint
    names: Mapping[str, str]

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def format(self) -> str:
        return self.checkpoint.format

    @property
    def files(self) -> tuple[Path, ...]:
        return self.checkpoint.files

    @cached_property
    def layout(self) -> Layout:
        return self.checkpoint.layout.renamed(self.names)

    @cached_property
    def _old(self) -> Mapping[str, str]:
        return {new: old for old, new in self.names.items()}

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.checkpoint.metadata

    @property
    def envelope(self) -> Envelope:
        return self.checkpoint.envelope

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        self.checkpoint.read_into(self._old[name], start, out)

    def hash_while_reading(self) -> None:
        self.checkpoint.hash_while_reading()

    def digest(self) -> str:
        return self.checkpoint.digest()


def as_opened(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint under the names that its files have."""
    while isinstance(checkpoint, Renamed):
        checkpoint = checkpoint.checkpoint
    return checkpoint


def renamed_as(checkpoint: Checkpoint, wanted: Collection[str]) -> Checkpoint:
    """`checkpoint` under the names of `wanted`, where wrappers' prefixes are all that differs."""
    return renamed(checkpoint, matched(checkpoint.layout.names, wanted))


def renamed(checkpoint: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    """`checkpoint` where these tensors have other names; `names` maps the old to the new."""
    called = {name: names.get(name, name) for name in checkpoint.layout.names}
    if all(old == new for old, new in called.items()):
        return checkpoint
    return Renamed(checkpoint, called)
