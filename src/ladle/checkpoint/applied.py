"""A base model with an adapter on it, as one checkpoint."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ladle.checkpoint.adapter import AdapterCheckpoint
from ladle.checkpoint.base import Bytes, Checkpoint, Envelope, Layout, TensorSpec
from ladle.checkpoint.dtypes import ITEMSIZE
from ladle.checkpoint.naming import called_around, matched
from ladle.checkpoint.numbers import decode, encode
from ladle.checkpoint.orientation import lying_as_in
from ladle.errors import LayoutMismatch

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Applied:
    """The model that an adapter makes of its base: see `Checkpoint`.

    As with PEFT, an adapter that brings a copy of a tensor of the base adds to that, and of tensors
    that the base ties only those change that it names; they are tied no more.

    Changed tensors are float32, or float64 where the base's are: the sum of a 16-bit weight and its
    small change needs more digits than the weight.
    """

    base: Checkpoint
    adapter: AdapterCheckpoint
    base_digest: Callable[[], str] | None = field(default=None, compare=False)
    """Of the base, where others lie on it too: it remembers, for a base may be large."""

    @property
    def path(self) -> Path:
        return self.adapter.path

    @property
    def format(self) -> str:
        return f"{self.adapter.format}, on {self.base.path}"

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.base.files, *self.adapter.files)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.adapter.metadata

    @property
    def envelope(self) -> Envelope:
        return Envelope()

    @cached_property
    def _stored(self) -> Mapping[str, str]:
        """The names of the base's tensors in the model -> those under which the base holds them."""
        base, brought = self.base.layout, self.adapter.copies
        wanted = [name for name in self.adapter.changes if name not in brought]
        called = called_around(base.names, wanted)
        return {new: base.ties.get(old, old) for old, new in called.items()}

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """The names of the tensors that the adapter changes or holds -> the adapter's."""
        changed = matched([*self.adapter.changes], [*self._stored])
        names = {new: old for old, new in changed.items()}
        copies = self.adapter.copies
        held = {name: name for name in self.adapter.whole if name not in copies.values()}
        # A weight that it brings is added to, and in `names`; a bias beside it is held.
        return {name: copy for name, copy in copies.items() if name not in changed} | held | names

    @property
    def touched(self) -> list[str]:
        """The names of the tensors that are not the base's."""
        return [*self._names]

    @property
    def changed(self) -> list[str]:
        """The names of the tensors that the adapter adds to."""
        return [name for name, known in self._names.items() if known in self.adapter.changes]

    @cached_property
    def _lying(self) -> AdapterCheckpoint:
        """The adapter with its changes turned as the base's tensors lie."""
        known = self.base.layout.tensors
        specs = {self._names.get(new, new): known[old] for new, old in self._stored.items()}
        brought = {name: self.adapter.layout.tensors[c] for name, c in self.adapter.copies.items()}
        return lying_as_in(self.adapter, self.base, specs | brought)

    @cached_property
    def layout(self) -> Layout:
        base = self.base.layout
        tensors: dict[str, TensorSpec] = {}
        ties: dict[str, str] = {}
        unchanged: dict[str, str] = {}
        for name, kept in self._stored.items():
            if name in self._names:
                tensors[name] = self._spec(name)
            elif kept in unchanged:
                ties[name] = unchanged[kept]
            else:
                tensors[name], unchanged[kept] = base.tensors[kept], name
        new = [name for name in self._names if name not in self._stored]
        tensors |= {name: self._spec(name) for name in new}
        return Layout(tensors, ties)

    def _spec(self, name: str) -> TensorSpec:
        """Of a tensor that the adapter changes or holds."""
        known = self._names[name]
        spec = self._lying.layout.tensors[known]
        if known in self.adapter.whole:
            return spec
        checkpoint, stored = self._under(name)
        found = checkpoint.layout.tensors.get(stored)
        if found is None or found.shape != spec.shape:
            saved = "" if found else ", with every name of the tensors that it ties"
            raise LayoutMismatch(
                f"{self.adapter.path} changes {name!r} of {spec}, and the base "
                f"{checkpoint.path} has {found or 'no such tensor'}; give the base it was "
                f"trained on{saved}"
            )
        return TensorSpec("float64" if found.dtype == "float64" else "float32", found.shape)

    def _under(self, name: str) -> tuple[Checkpoint, str]:
        """What has the tensor that a change is added to, and what it is called there."""
        copy = self.adapter.copies.get(self._names[name])
        return (self.base, self._stored.get(name, name)) if copy is None else (self.adapter, copy)

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        known = self._names.get(name)
        if known is None:
            self.base.read_into(self._stored[name], start, out)
        elif known in self.adapter.whole:
            self.adapter.read_into(known, start, out)
        else:
            self._sum(name, known, start, out)

    def _sum(self, name: str, known: str, start: int, out: Bytes) -> None:
        checkpoint, kept = self._under(name)
        spec, stored = self.layout.tensors[name], checkpoint.layout.tensors[kept]
        count = out.nbytes // ITEMSIZE[spec.dtype]
        raw = np.empty(count * ITEMSIZE[stored.dtype], np.uint8)
        checkpoint.read_into(kept, start, raw)
        change = np.empty(count * 4, np.uint8)
        self._lying.read_into(known, start, change)
        total = decode(raw, stored.dtype).astype(np.float64) + decode(change, "float32")
        out[:] = encode(total, spec.dtype)

    def unchanged(self) -> Applied:
        """The base alone, as it stands in this model."""
        there = {self._names.get(name) for name in self._stored}
        changes = {
            name: replace(one, scaling=0.0)
            for name, one in self.adapter.changes.items()
            if name in there
        }
        layout = self.adapter.layout.only(changes)
        return Applied(self.base, replace(self.adapter, changes=changes, whole={}, layout=layout))

    def hash_while_reading(self) -> None:
        """Factors are small, and not read from front to back."""

    def digest(self) -> str:
        # Together, all would ask before one knows, and each read the whole base.
        with _ONE_AT_A_TIME:
            base = (self.base_digest or self.base.digest)()
        both = f"{base}\n{self.adapter.digest()}\n"
        return hashlib.sha256(both.encode()).hexdigest()
