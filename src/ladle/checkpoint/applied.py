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
from ladle.errors import LayoutMismatch


@dataclass(frozen=True)
class Applied:
    """The model that an adapter makes of its base: see `Checkpoint`.

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
    def changed(self) -> list[str]:
        """The base's names of the tensors that the adapter adds to."""
        return [name for name, known in self._names.items() if known in self.adapter.changes]

    @cached_property
    def layout(self) -> Layout:
        base, adapter = self.base.layout, self.adapter.layout
        tensors = dict(base.tensors)
        for name, known in self._names.items():
            spec = adapter.tensors[known]
            kept = base.ties.get(name, name)
            if known in self.adapter.whole:
                tensors[name] = spec
                continue
            found = tensors.get(kept)
            if found is None or found.shape != spec.shape:
                raise LayoutMismatch(
                    f"{self.adapter.path} changes {name!r} of {spec}, and the base "
                    f"{self.base.path} has {found or 'no such tensor'}; give the base it was "
                    "trained on"
                )
            tensors[kept] = TensorSpec(
                "float64" if found.dtype == "float64" else "float32", found.shape
            )
        ties = {alias: kept for alias, kept in base.ties.items() if alias not in tensors}
        return Layout(tensors, ties)

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        known = self._names.get(name)
        if known is None:
            self.base.read_into(name, start, out)
        elif known in self.adapter.whole:
            self.adapter.read_into(known, start, out)
        else:
            self._sum(name, known, start, out)

    def _sum(self, name: str, known: str, start: int, out: Bytes) -> None:
        spec, stored = self.layout.tensors[name], self.base.layout.tensors[name]
        count = out.nbytes // ITEMSIZE[spec.dtype]
        raw = np.empty(count * ITEMSIZE[stored.dtype], np.uint8)
        self.base.read_into(name, start, raw)
        change = np.empty(count * 4, np.uint8)
        self.adapter.read_into(known, start, change)
        total = decode(raw, stored.dtype).astype(np.float64) + decode(change, "float32")
        out[:] = encode(total, spec.dtype)

    def digest(self) -> str:
        both = f"{self.base.digest()}\n{self.adapter.digest()}\n"
        return hashlib.sha256(both.encode()).hexdigest()
