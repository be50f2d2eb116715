"""A base model with an adapter on it, as one checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Applied:
    """The model that an adapter makes of its base: see `Checkpoint`.

    Of tensors that the base ties, only those change that the adapter names, as with PEFT; they are
    tied no more.

    Changed tensors are float32, or float64 where the base's are: the sum of a 16-bit weight and its
    small change needs more digits than the weight.
    """

    base: Checkpoint
    adapter: AdapterCheckpoint

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
        base = self.base.layout
        called = called_around(base.names, [*self.adapter.changes])
        return {new: base.ties.get(old, old) for old, new in called.items()}

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """The names of the tensors that the adapter changes or holds -> the adapter's."""
        changed = matched([*self.adapter.changes], [*self._stored])
        names = {new: old for old, new in changed.items()}
        return names | {name: name for name in self.adapter.whole}

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
        return lying_as_in(self.adapter, self.base, specs)

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
        found = self.base.layout.tensors[self._stored[name]] if name in self._stored else None
        spec = self._lying.layout.tensors[known]
        if known in self.adapter.whole:
            return spec
        if found is None or found.shape != spec.shape:
            raise LayoutMismatch(
                f"{self.adapter.path} changes {name!r} of {spec}, and the base "
                f"{self.base.path} has {found or 'no such tensor'}; give the base it was "
                "trained on"
            )
        return TensorSpec("float64" if found.dtype == "float64" else "float32", found.shape)

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        known = self._names.get(name)
        if known is None:
            self.base.read_into(self._stored[name], start, out)
        elif known in self.adapter.whole:
            self.adapter.read_into(known, start, out)
        else:
            self._sum(name, known, start, out)

    def _sum(self, name: str, known: str, start: int, out: Bytes) -> None:
        kept = self._stored[name]
        spec, stored = self.layout.tensors[name], self.base.layout.tensors[kept]
        count = out.nbytes // ITEMSIZE[spec.dtype]
        raw = np.empty(count * ITEMSIZE[stored.dtype], np.uint8)
        self.base.read_into(kept, start, raw)
        change = np.empty(count * 4, np.uint8)
        self._lying.read_into(known, start, change)
        total = decode(raw, stored.dtype).astype(np.float64) + decode(change, "float32")
        out[:] = encode(total, spec.dtype)

    def digest(self) -> str:
        both = f"{self.base.digest()}\n{self.adapter.digest()}\n"
        return hashlib.sha256(both.encode()).hexdigest()
