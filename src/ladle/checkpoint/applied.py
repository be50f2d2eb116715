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
from ladle.checkpoint.naming import matched
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
    def _names(self) -> Mapping[str, str]:
        """The base's names of the tensors that the adapter changes or holds -> the adapter's."""
        changed, there = [*self.adapter.changes], self.base.layout.names
        names = {new: old for old, new in matched(changed, there).items()}
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
        base = self.base.layout
        specs = {name: base.tensors[self._kept(name)] for name in base.names}
        called = {self._names.get(name, name): spec for name, spec in specs.items()}
        return lying_as_in(self.adapter, self.base, called)

    def _kept(self, name: str) -> str:
        """The name under which the base has a tensor."""
        return self.base.layout.ties.get(name, name)

    @cached_property
    def layout(self) -> Layout:
        base = self.base.layout
        tensors: dict[str, TensorSpec] = {}
        ties: dict[str, str] = {}
        unchanged: dict[str, str] = {}
        for name in [*base.names, *(name for name in self._names if name not in base.names)]:
            kept = self._kept(name)
            if name in self._names:
                tensors[name] = self._spec(name, base.tensors.get(kept))
            elif kept in unchanged:
                ties[name] = unchanged[kept]
            else:
                tensors[name], unchanged[kept] = base.tensors[kept], name
        return Layout(tensors, ties)

    def _spec(self, name: str, found: TensorSpec | None) -> TensorSpec:
        """Of a tensor that the adapter changes or holds; `found` is the base's."""
        known = self._names[name]
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
            self.base.read_into(self._kept(name), start, out)
        elif known in self.adapter.whole:
            self.adapter.read_into(known, start, out)
        else:
            self._sum(name, known, start, out)

    def _sum(self, name: str, known: str, start: int, out: Bytes) -> None:
        kept = self._kept(name)
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
