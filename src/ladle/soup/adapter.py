"""Soups of LoRA adapters, written as one adapter that PEFT loads.

The mean of the changes sᵢ·Bᵢ·Aᵢ is the change of factors laid side by side: the Aᵢ below each
other, the wᵢ·sᵢ·Bᵢ next to each other. That is exact, and as large as all of them; the nearest
change of lower rank comes from the singular value decomposition (Eckart and Young, 1936).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ladle.checkpoint import (
    AdapterCheckpoint,
    Applied,
    Bytes,
    Checkpoint,
    Layout,
    MemoryCheckpoint,
    TensorSpec,
    renamed_as,
)
from ladle.checkpoint.adapter import CONFIG, WEIGHTS, Factors
from ladle.checkpoint.dtypes import promote
from ladle.checkpoint.naming import Renamed
from ladle.checkpoint.numbers import Float64, decode, encode
from ladle.checkpoint.write import FileSink, Metadata, safetensors_file
from ladle.errors import BadInput, LayoutMismatch, NonFiniteTensor
from ladle.merge import Linear, with_dtype
from ladle.soup.pool import Ingredient, Pool, common_layout
from ladle.soup.soup import Soup


@dataclass(frozen=True)
class WrittenAdapter:
    """The rank of an adapter that was written, and what it lacks for being truncated.

    `relative_error` has ‖ΔW - ΔW'‖ / ‖ΔW‖ (Frobenius norms) of every module; None where exact.
    """

    rank: int
    relative_error: Mapping[str, float] | None

    def record(self) -> dict[str, Any]:
        """As JSON, for `soup.json`."""
        errors = None if self.relative_error is None else dict(self.relative_error)
        return {"rank": self.rank, "relative_error": errors}


@dataclass(frozen=True)
class _Change:
    """New factors of one module: A (rank, inputs) and B (outputs, rank), and alpha / rank."""

    factors: Factors
    a: Float64
    b: Float64
    scaling: float
    relative_error: float = 0.0


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether this is an adapter, alone or on its base."""
    return isinstance(checkpoint, (AdapterCheckpoint, Applied))


def with_base(pool: Pool, base: Ingredient) -> Pool:
    """Adapters as the models that they make of `base`, which is hashed once for all of them.

    A pool of models stays as it is.

    Raises:
        LayoutMismatch: the base lacks a tensor that an adapter changes.
    """
    return Pool.of((_on(one, base) for one in pool), pool.remarks)


def _on(one: Ingredient, base: Ingredient) -> Ingredient:
    if not isinstance(one.checkpoint, AdapterCheckpoint):
        return one
    model = Applied(base.checkpoint, one.checkpoint, partial(getattr, base, "digest"))
    return Ingredient(one.name, model, one.facts, one.found_in)


def truncated(soup: Soup) -> tuple[Checkpoint, list[str]]:
    """What `write_adapter` makes of the change of a soup that has a rank, and of which tensors.

    The same factors, rounded as they are in the file: what is judged is what is written.
    """
    import torch

    from ladle.soup.live import StateDictSink

    on = _seen_through(soup.pool[0])
    names = soup.pool.layout.names
    soup, rank = _of_adapters(soup), soup.rank
    shares = _shares(soup)
    stored = _common_dtype([one for one, _ in shares])
    first = shares[0][0]
    copies = {name: name for name in first.copies.values()}
    sink = StateDictSink(soup.layout.only(copies))
    soup.stream_into(sink, names=copies)
    state = sink.state
    changes: dict[str, Factors] = {}
    for change in _changes(shares, rank):
        for name, values in ((change.factors.a, change.a), (change.factors.b, change.b)):
            flat = torch.from_numpy(_encoded(name, values, stored)).view(getattr(torch, stored))
            state[name] = flat.view(values.shape)
        changes[f"{change.factors.module}.weight"] = replace(
            change.factors, rank=len(change.a), scaling=change.scaling
        )
    adapter = replace(
        first,
        stored=MemoryCheckpoint(first.path, state),
        changes=changes,
        whole=copies,
        layout=soup.layout.only({*changes, *copies}),
    )
    if not isinstance(on, Applied):
        return adapter, [*changes]
    model = Applied(on.base, adapter)
    found = renamed_as(model, names)
    return found, _called(found, model.changed)


def touched(pool: Pool) -> list[str]:
    """The tensors that adapters on their base change or hold, by the pool's names."""
    found = [(one, _seen_through(one)) for one in pool]
    return list(
        dict.fromkeys(
            name
            for one, on in found
            if isinstance(on, Applied)
            for name in _called(one.checkpoint, on.touched)
        )
    )


def fitting(pool: Pool, names: Collection[str], *, chosen: bool = False) -> Layout:
    """The layout of a pool as a model of these names takes it.

    A base may have tensors that the adapters' model has not, such as another head: they are left
    out, as the libraries do that load it. What adapters hold stays, and so does a pool of models,
    unless the model has `chosen` what it takes.
    """
    if not chosen and not isinstance(_seen_through(pool[0]), Applied):
        return pool.layout
    layout, wanted = pool.layout, {*names, *touched(pool)}
    tensors = {name: spec for name, spec in layout.tensors.items() if name in wanted}
    ties: dict[str, str] = {}
    for alias, kept in layout.ties.items():
        if alias in wanted and kept in wanted:
            ties[alias] = kept
        elif alias in wanted:
            tensors[alias] = layout.tensors[kept]
    return Layout(tensors, ties)


def without_changes(base: Ingredient, pool: Pool) -> Ingredient:
    """The base as a model like those that adapters make of it; for a pool of models, itself."""
    model = _seen_through(pool[0])
    if not isinstance(model, Applied):
        return base
    # Its weights are the base's, whatever the adapter is that its names are from.
    return Ingredient(base.name, model.unchanged(), base.facts, None, base.content)


def _called(checkpoint: Checkpoint, names: Sequence[str]) -> list[str]:
    called = checkpoint.names if isinstance(checkpoint, Renamed) else {}
    return [called.get(name, name) for name in names]


def write_adapter(
    soup: Soup, folder: Path, *, dtype: str | None, metadata: Metadata
) -> WrittenAdapter:
    """Weights and configuration of a soup of adapters into an existing folder.

    Factors are exact copies where all ingredients count alike and the soup has no rank to be
    truncated to; otherwise each Bᵢ is multiplied by its share and rounded once.

    Raises:
        BadInput: the soup is more than a weighted sum.
        LayoutMismatch: only some of the ingredients are adapters.
        NonFiniteTensor: a factor holds NaN or infinity, or overflows its dtype.
    """
    first = adapter_of(soup.pool[0])  # It gives the configuration, as it gives all side files.
    soup, rank = _of_adapters(soup), soup.rank
    shares = _shares(soup)
    stored = dtype or _common_dtype([one for one, _ in shares])
    shapes = _shapes([one for one, _ in shares], rank, stored)
    whole = with_dtype(soup.layout.only(first.whole), dtype).renamed(first.whole)
    layout = Layout({**shapes, **whole.tensors})
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    errors: dict[str, float] = {}
    with safetensors_file(folder / WEIGHTS[0], layout, metadata) as sink:
        for change in _changes(shares, rank):
            module = change.factors.module
            ranks[module] = len(change.a)
            alphas[module] = change.scaling * len(change.a)
            errors[module] = change.relative_error
            for name, values in ((change.factors.a, change.a), (change.factors.b, change.b)):
                sink.write(name, 0, _encoded(name, values, stored))
        soup.stream_into(_RenamedSink(sink, first.whole), dtype=dtype, names=first.whole)
    config = _config(first.config, ranks, alphas)
    # Keys are not sorted, for the order of the patterns has a meaning.
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return WrittenAdapter(max(ranks.values()), errors if rank is not None else None)


def _shares(soup: Soup) -> list[tuple[AdapterCheckpoint, float]]:
    """The adapters that count, and how much."""
    adapters = [adapter_of(one) for one in soup.pool]
    if not isinstance(soup.merge, Linear) or soup.merge.by_tensor:
        raise BadInput(
            "adapters can only be averaged, with one weight each; write the merged models as one "
            "file instead"
        )
    return [(one, weight) for one, weight in zip(adapters, soup.weights, strict=True) if weight]


def _of_adapters(soup: Soup) -> Soup:
    """The exact soup of the adapters without their base, in fixed order."""
    soup = soup.in_fixed_order()
    # In that order it stays: contents are for nothing else here.
    alone = tuple(
        Ingredient(one.name, adapter_of(one), one.facts, one.found_in, one.content)
        for one in soup.pool
    )
    return replace(soup, pool=Pool(alone, common_layout(alone)), rank=None)


def _seen_through(one: Ingredient) -> Checkpoint:
    return one.checkpoint.checkpoint if isinstance(one.checkpoint, Renamed) else one.checkpoint


def adapter_of(one: Ingredient) -> AdapterCheckpoint:
    """The adapter that an ingredient is, alone or on its base."""
    found = _seen_through(one)
    found = found.adapter if isinstance(found, Applied) else found
    if not isinstance(found, AdapterCheckpoint):
        raise LayoutMismatch(
            f"{one.name} is no adapter, and others are; merge the adapters into their base first"
        )
    return found


def _common_dtype(adapters: Sequence[AdapterCheckpoint]) -> str:
    found: str | None = None
    for adapter in adapters:
        for factors in adapter.changes.values():
            for name in (factors.a, factors.b):
                dtype = adapter.stored.layout.tensors[name].dtype
                found = dtype if found is None else promote(found, dtype)
    return found or "float32"


def _changes(
    shares: Sequence[tuple[AdapterCheckpoint, float]], rank: int | None
) -> Iterator[_Change]:
    """The new factors, module by module."""
    for name, factors in shares[0][0].changes.items():
        scalings = [weight * adapter.changes[name].scaling for adapter, weight in shares]
        a = np.concatenate([one.factor(one.changes[name].a) for one, _ in shares])
        bs = [one.factor(one.changes[name].b) for one, _ in shares]
        if rank is not None:
            b = np.concatenate([s * one for s, one in zip(scalings, bs, strict=True)], axis=1)
            yield _truncated(factors, a, b, rank)
        elif len(set(scalings)) == 1:
            yield _Change(factors, a, np.concatenate(bs, axis=1), scalings[0])
        else:
            b = np.concatenate([s * one for s, one in zip(scalings, bs, strict=True)], axis=1)
            yield _Change(factors, a, b, 1.0)


def _truncated(factors: Factors, a: Float64, b: Float64, rank: int) -> _Change:
    """The nearest B·A of a lower rank, without ever making B·A."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise NonFiniteTensor(f"a factor of {factors.module!r} holds NaN or infinity")
    of_b, small_b = np.linalg.qr(b)
    of_a, small_a = np.linalg.qr(a.T)
    left, values, right = np.linalg.svd(small_b @ small_a.T)
    kept = min(rank, len(values))
    root = np.sqrt(values[:kept])
    total = float(values @ values)
    lost = float(values[kept:] @ values[kept:])
    return _Change(
        factors,
        (root[:, None] * right[:kept]) @ of_a.T,
        (of_b @ left[:, :kept]) * root,
        1.0,
        (lost / total) ** 0.5 if total else 0.0,
    )


def _shapes(
    adapters: Sequence[AdapterCheckpoint], rank: int | None, dtype: str
) -> dict[str, TensorSpec]:
    """Specs of the new factors by name."""
    shapes: dict[str, TensorSpec] = {}
    for name, factors in adapters[0].changes.items():
        a, b = (adapters[0].stored.layout.tensors[one].shape for one in (factors.a, factors.b))
        total = sum(one.changes[name].rank for one in adapters)
        new = total if rank is None else min(rank, total, b[0], math.prod(a[1:]))
        shapes[factors.a] = TensorSpec(dtype, (new, *a[1:]))
        shapes[factors.b] = TensorSpec(dtype, (b[0], new, *b[2:]))
    return shapes


def _encoded(name: str, values: Float64, dtype: str) -> Bytes:
    written = encode(np.ascontiguousarray(values).ravel(), dtype)
    if not np.isfinite(decode(written, dtype)).all():
        raise NonFiniteTensor(
            f"{name!r} of the soup holds NaN or infinity; leave out the adapter it comes from, or "
            "write it with --dtype float32"
        )
    return written


@dataclass(frozen=True)
class _RenamedSink:
    """A sink that knows tensors by other names."""

    sink: FileSink
    names: Mapping[str, str]

    def write(self, name: str, start: int, values: Bytes) -> None:
        self.sink.write(self.names[name], start, values)


def _config(
    first: Mapping[str, Any], ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> dict[str, Any]:
    """The first adapter's configuration with the ranks and scalings of the soup."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    # PEFT takes the first pattern that the end of a path matches, so longer ones come first.
    modules = sorted(ranks, key=lambda module: (-len(module), module))
    uniform = len(set(ranks.values())) == 1, len(set(alphas.values())) == 1
    return {
        **first,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "rank_pattern": {} if uniform[0] else {re.escape(m): ranks[m] for m in modules},
        "alpha_pattern": {} if uniform[1] else {re.escape(m): alphas[m] for m in modules},
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
