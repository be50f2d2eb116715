"""A checkpoint: named tensors on disk, opened without being read, readable slice by slice."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ladle.checkpoint.dtypes import ITEMSIZE

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
"""A flat, writable, contiguous buffer."""


@dataclass(frozen=True)
class TensorSpec:
    """Dtype, by torch's name, and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Layout:
    """The tensors of a checkpoint by name, and the further names that share one of them.

    `ties` maps an alias to the name it shares memory with; an alias is not in `tensors`.
    """

    tensors: Mapping[str, TensorSpec]
    ties: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(spec.numel for spec in self.tensors.values())

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.tensors.values())

    @property
    def names(self) -> list[str]:
        """Of all tensors, aliases last."""
        return [*self.tensors, *self.ties]

    def only(self, names: Collection[str]) -> Layout:
        """Those of its tensors that `names` has."""
        return Layout({n: s for n, s in self.tensors.items() if n in names}, self.ties)

    def renamed(self, names: Mapping[str, str]) -> Layout:
        """The same where these tensors have other names; `names` maps the old to the new."""
        return Layout(
            {names.get(name, name): spec for name, spec in self.tensors.items()},
            {names.get(alias, alias): names.get(kept, kept) for alias, kept in self.ties.items()},
        )


@dataclass(frozen=True)
class Envelope:
    """What stood around the state dict in its file.

    `key` leads to it: `("state_dict",)`. `values` are the plain values beside it (epoch, arguments,
    hyper-parameters, metrics): numbers, texts, lists and dictionaries.
    """

    key: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    is_ema: bool = False
    """Whether these weights are an exponential moving average beside others in the file."""


class Checkpoint(Protocol):
    """One state dict. Opening it has read names, dtypes and shapes, but no weights.

    Instances hold no open file, so they can be pickled and used from any thread.
    """

    @property
    def path(self) -> Path:
        """What the user named: a file or a folder."""
        ...

    @property
    def format(self) -> str:
        """In words, for people: `safetensors, 3 shards`."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the weights; empty for one that lives in memory."""
        ...

    @property
    def layout(self) -> Layout: ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the header says beside the tensors."""
        ...

    @property
    def envelope(self) -> Envelope:
        """What the file holds beside the state dict."""
        ...

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        """Fill `out` with the little-endian bytes of the elements of `name` from `start` on.

        Elements are counted in row-major order; `out` holds a whole number of them.
        """
        ...

    def hash_while_reading(self) -> None:
        """Let `digest` use what is read from now on, from front to back, and read only the rest."""
        ...

    def digest(self) -> str:
        """The sha256 of the weights' file, or, for several, of their `sha256sum` lines."""
        ...
