"""A soup: a decision, not weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladle.checkpoint import (
    AdapterCheckpoint,
    Checkpoint,
    Envelope,
    Layout,
    matched,
    renamed,
    taken_by,
)
from ladle.errors import BadInput, LayoutMismatch
from ladle.location import located
from ladle.merge import (
    Ingredients,
    Merge,
    Policy,
    Sink,
    mean,
    stream,
    with_dtype,
)
from ladle.soup.pool import Pool

if TYPE_CHECKING:
    from torch import Tensor, nn

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Tasting:
    """One thing that a recipe tried: a candidate, what was in the pot with it, and the verdict.

    `score` is higher-is-better, or None where there was none; `members` are what was tasted, with
    the candidate. `kept` says whether the recipe went on with it.
    """

    candidate: str
    members: tuple[str, ...]
    score: float | None
    kept: bool
    reason: str
    margin: float | None = None
    """The score minus the one to beat; None where there was none to beat."""
    examples: int | None = None
    """How many were looked at; None where it was all that the evaluation has."""
    bound: float | None = None
    """The most that it could have scored, where measuring stopped once that was too little."""


@dataclass(frozen=True)
class Soup:
    """Ingredients, how they are merged, and every tasting that led there.

    No weight is read until the soup is written, loaded or asked for its tensors, and then they are
    computed in slices; the same ingredients and merge give the same bytes every time, whatever the
    order of the ingredients.
    """

    pool: Pool
    merge: Merge
    recipe: str = "uniform"
    options: Mapping[str, Any] = field(default_factory=dict)
    tastings: tuple[Tasting, ...] = ()
    repeats: tuple[float, ...] = ()
    """Scores of what the recipe made when it was repeated; this soup is the best of them."""
    beside: Mapping[str, Soup] = field(default_factory=dict, compare=False, repr=False)
    """Other soups by name that are worth judging beside this one, such as those of a curve."""
    integers: Policy = "equal"
    statistics: Checkpoint | None = None
    """BatchNorm statistics that take the place of the ingredients' average."""
    rank: int | None = None
    """Of a soup of LoRA adapters: what its changes are truncated to; None keeps them exact."""
    dtype: str | None = None
    """What the weights are rounded to, wherever they go; None keeps the ingredients' dtypes."""
    caveats: tuple[str, ...] = ()
    """Sentences that whoever reads its scores has to know, from the recipe."""

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.pool):
            raise BadInput(
                f"{len(self.weights)} weights do not go with {len(self.pool)} checkpoints; "
                "give one for each"
            )

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the ingredients."""
        return tuple(one.name for one in self.pool)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Those whose weights it reads."""
        return tuple(one.checkpoint for i, one in enumerate(self.pool) if self.merge.takes(i))

    @property
    def weights(self) -> tuple[float | None, ...]:
        """The share of each ingredient; None where it differs from tensor to tensor."""
        return self.merge.weights_of()

    @cached_property
    def digest(self) -> str:
        """Equal for soups with the same weights: ingredients by content, merge, policy."""
        return _digest(self.in_fixed_order().content())

    @property
    def layout(self) -> Layout:
        """The pool's, with the tensors in an order that does not depend on the pool's."""
        layout = with_dtype(self.pool.layout, self.dtype)
        first = self.in_fixed_order().pool[0].checkpoint.layout
        return Layout(
            {name: layout.tensors[name] for name in first.tensors},
            {alias: layout.ties[alias] for alias in first.ties},
        )

    @property
    def envelope(self) -> Envelope:
        """What a file of torch.save has around the weights: as in one of the ingredients."""
        return self.in_fixed_order().pool[0].checkpoint.envelope

    def content(self) -> dict[str, Any]:
        """What the weights depend on, and nothing else, as JSON."""
        content = {
            "ingredients": list(self.pool.digests),
            "merge": self.merge.record(),
            "integers": self.integers,
            "dtypes": _digest({n: s.dtype for n, s in self.layout.tensors.items()}),
        }
        content |= {"statistics": self.statistics.digest()} if self.statistics else {}
        return content | ({} if self.rank is None else {"rank": self.rank})

    def stream_into(
        self,
        sink: Sink,
        *,
        dtype: str | None = None,
        names: Collection[str] | None = None,
        hashing: bool = False,
        threads: int | None = None,
        advance: Advance = lambda nbytes: None,
    ) -> None:
        """Compute the weights into `sink`, in the soup's dtypes or in `dtype`.

        `names` are the tensors that are wanted; None stands for all. With `hashing` the
        ingredients' digests cost no second look at their files. The number of `threads` (None:
        one for each core, up to eight) changes no byte.

        Raises:
            NonFiniteTensor: an ingredient holds NaN or infinity, or a result overflows its dtype.
            LayoutMismatch: integer tensors differ and no policy was given.
        """
        soup = self.in_fixed_order()
        ingredients = Ingredients([one.checkpoint for one in soup.pool], soup.members)
        layout = with_dtype(soup.pool.layout, dtype or self.dtype)
        if names is not None:
            layout = layout.only(names)
        instead = soup._instead()
        replaced = {name for _, names, _ in instead for name in names}
        averaged = layout.only(layout.tensors.keys() - replaced)
        stream(
            ingredients,
            soup.merge,
            averaged,
            sink,
            integers=self.integers,
            hashing=hashing,
            threads=threads,
            advance=advance,
        )
        for checkpoint, names_of_it, text in instead:
            alone = Ingredients([checkpoint], [text])
            wanted = layout.only(names_of_it)
            stream(alone, mean(1), wanted, sink, threads=threads, advance=advance)

    def _instead(self) -> list[tuple[Checkpoint, Collection[str], str]]:
        """What takes the place of the average, the tensors it does so for, and what it is."""
        found: list[tuple[Checkpoint, Collection[str], str]] = []
        if self.statistics:
            measured = self.statistics.layout.tensors
            found.append((self.statistics, measured.keys(), "the BatchNorm statistics"))
        if self.rank is not None:
            from ladle.soup.adapter import truncated

            found.append((*truncated(self), "the truncated adapter"))
        return found

    def load_into(self, model: nn.Module, *, only: Collection[str] | None = None) -> nn.Module:
        """Replace the weights of `model` in place, on whatever device they are; returns it.

        A model with a method `takes(names)` chooses among the soup's tensors: the method maps names
        of the soup's to names of its own, and what it has no place for is left out. `only` are the
        soup's tensors that are wanted; the model has what the others would be already.

        Raises:
            LayoutMismatch: the model's tensors are not the soup's.
        """
        from ladle.soup.adapter import fitting, touched
        from ladle.soup.live import ModuleSink

        if any(isinstance(one.checkpoint, AdapterCheckpoint) for one in self.pool):
            raise LayoutMismatch(
                f"{', '.join(self.members)}: an adapter is no model without its base; give it with "
                "--base"
            )
        names = model.state_dict().keys()
        called = self.names_in(model)
        soup = self.renamed(called)
        chosen = taken_by(model, self.pool.layout.names) is not None
        layout = with_dtype(fitting(soup.pool, names, chosen=chosen), self.dtype)
        sink = ModuleSink(model, layout)
        sink.check_untied(touched(soup.pool))
        wanted = None if only is None else [called[name] for name in only if name in called]
        exact = replace(soup, pool=replace(soup.pool, layout=sink.layout), dtype=None)
        exact.stream_into(sink, names=wanted)
        sink.finish()
        return model

    def names_in(self, model: nn.Module) -> Mapping[str, str]:
        """The tensors that a model takes, and what they are called there."""
        names = self.pool.layout.names
        taken = taken_by(model, names)
        return matched(names, model.state_dict().keys()) if taken is None else taken

    def state_dict(self, *, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """The weights in memory, tied tensors sharing theirs; `only` these tensors, if given."""
        from ladle.soup.live import StateDictSink

        layout = with_dtype(self.pool.layout, self.dtype)
        sink = StateDictSink(layout if only is None else layout.only(only))
        self.stream_into(sink, names=only)
        return sink.state

    def save(self, output: str | Path, *, overwrite: bool = False) -> Path:
        """Write the soup: a folder, or one file if `output` ends in .safetensors, .pt, .ckpt, ...

        `output` is a path, or the URL of a store that fsspec can write to. It appears complete or
        not at all; see `ladle.soup.output` for what is written.

        Raises:
            OutputExists: `output` exists and `overwrite` is False.
            NoSpace: the disk has too little room.
        """
        from ladle.soup.output import save

        return save(self, located(output), overwrite=overwrite)

    def renamed_as(self, names: Collection[str]) -> Soup:
        """The same under other names, if they differ by the prefixes of wrappers alone."""
        return self.renamed(matched(self.pool.layout.names, names))

    def renamed(self, names: Mapping[str, str]) -> Soup:
        """The same where these tensors have other names; `names` maps the old to the new."""
        statistics = self.statistics and renamed(self.statistics, names)
        pool, merge = self.pool.renamed(names), self.merge.renamed(names)
        return replace(self, pool=pool, merge=merge, statistics=statistics)

    def in_fixed_order(self) -> Soup:
        """The same soup, whatever the order in which its ingredients were given."""
        # By content, so that not even the last bit of an inexact sum depends on the order given.
        weights = self.weights
        contents = self.pool.order
        # Only "first" asks for an order; what is first there stays first.
        first = next((i for i in range(len(weights)) if self.merge.takes(i)), 0)
        kept = first if self.integers == "first" else None
        order = sorted(
            range(len(self.pool)), key=lambda i: (i != kept, contents[i], weights[i] or 0.0)
        )
        return replace(self, pool=self.pool.subset(order), merge=self.merge.for_order(order))


Evaluate = Callable[[Soup], float]
"""Scores a soup on held-out data; higher is better, always."""


def uniform_soup(pool: Pool, *, integers: Policy = "equal") -> Soup:
    """The mean of all ingredients of `pool` (paper, section 2)."""
    return Soup(pool, mean(len(pool)), integers=integers)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
