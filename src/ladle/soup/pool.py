"""The ingredients of a soup: checkpoints in a fixed order that share one layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ladle.ahead import Map
from ladle.checkpoint import Checkpoint, Layout, TensorSpec, renamed, renamed_as
from ladle.checkpoint.adapter import loose_factor
from ladle.checkpoint.dtypes import promote
from ladle.checkpoint.naming import as_opened
from ladle.checkpoint.stored import StoredCheckpoint
from ladle.errors import BadInput, LayoutMismatch
from ladle.runs import Facts
from ladle.soup.elsewhere import digest_here
from ladle.soup.fingerprint import fingerprint

_MOST_DIFFERENCES = 12


class Content:
    """What tells a checkpoint from others, computed when first asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @cached_property
    def fingerprint(self) -> bytes:
        """Of a few of its numbers: see `fingerprint`."""
        return fingerprint(self._checkpoint)

    @cached_property
    def digest(self) -> str:
        """The sha256 of its weights."""
        return self._checkpoint.digest()

    @property
    def is_hashed(self) -> bool:
        """Whether the digest is known already."""
        return "digest" in vars(self)


@dataclass(frozen=True)
class Ingredient:
    """A checkpoint offered to a soup, under a name that is unique in its pool."""

    name: str
    checkpoint: Checkpoint
    facts: Facts = field(default_factory=Facts, compare=False)
    found_in: Path | None = field(default=None, compare=False)
    """The folder that was looked into for it, if it was not named itself."""
    known: Content | None = field(default=None, compare=False, repr=False)
    """What is known of its content already."""

    @cached_property
    def content(self) -> Content:
        """Of the checkpoint as it was opened, whatever its tensors are called later."""
        return self.known or Content(self.checkpoint)

    @property
    def digest(self) -> str:
        """The sha256 of its weights; read once, on first use."""
        return self.content.digest

    def renamed_as(self, names: Collection[str]) -> Ingredient:
        """The same under other names, if they differ by the prefixes of wrappers alone."""
        return self._under(renamed_as(self.checkpoint, names))

    def renamed(self, names: Mapping[str, str]) -> Ingredient:
        """The same where these tensors have other names."""
        return self._under(renamed(self.checkpoint, names))

    def _under(self, checkpoint: Checkpoint) -> Ingredient:
        return replace(self, checkpoint=checkpoint, known=self.content)


@dataclass(frozen=True)
class Pool:
    """Ingredients in a fixed order, and the layout that all of them share.

    Where dtypes differ, the layout has the smallest that holds all of them; where tensors' names
    differ by the prefixes of wrappers alone, it has the shortest. `remarks` say what was left out
    or chosen in opening them.
    """

    ingredients: tuple[Ingredient, ...]
    layout: Layout
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, ingredients: Iterable[Ingredient], remarks: Iterable[str] = ()) -> Pool:
        """A pool of these ingredients.

        Raises:
            LayoutMismatch: their tensors differ (all differences are named at once), or are factors
                whose mean means nothing.
        """
        chosen = tuple(ingredients)
        if not chosen:
            raise BadInput("a soup needs at least one checkpoint; none was given")
        for one in chosen if len(chosen) > 1 else ():
            factor = loose_factor(one.checkpoint.layout.names)
            if factor is not None:
                raise LayoutMismatch(
                    f"{one.name} holds factors of LoRA ({factor!r}) without the weight they "
                    "change, and the mean of factors is not the mean of changes; give folders of "
                    "PEFT, with adapter_config.json, or merge them into their base"
                )
        # Not the first's names: the soup must not depend on the order.
        names = min(
            (sorted(one.checkpoint.layout.names) for one in chosen),
            key=lambda names: (len("".join(names)), names),
        )
        chosen = tuple(one.renamed_as(names) for one in chosen)
        return cls(chosen, common_layout(chosen), tuple(remarks))

    def __len__(self) -> int:
        return len(self.ingredients)

    def __iter__(self) -> Iterator[Ingredient]:
        return iter(self.ingredients)

    def __getitem__(self, index: int) -> Ingredient:
        return self.ingredients[index]

    def subset(self, indices: Sequence[int]) -> Pool:
        """Some of the ingredients, with the layout of all, so that dtypes do not change."""
        return Pool(tuple(self.ingredients[i] for i in indices), self.layout)

    @property
    def is_hashed(self) -> bool:
        """Whether the sha256 of all ingredients is known already."""
        return all(one.content.is_hashed for one in self.ingredients)

    @cached_property
    def order(self) -> tuple[tuple[bytes, str], ...]:
        """A key of each ingredient's content by which to sort them, and cheap.

        Those with equal fingerprints are told apart by their digests.
        """
        prints = [one.content.fingerprint for one in self.ingredients]
        count = Counter(prints)
        return tuple(
            (found, one.digest if count[found] > 1 else "")
            for found, one in zip(prints, self.ingredients, strict=True)
        )

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The sha256 of every ingredient."""
        self.hash_all()
        return tuple(one.digest for one in self.ingredients)

    def renamed(self, names: Mapping[str, str]) -> Pool:
        """The same where these tensors have other names; `names` maps the old to the new."""
        ingredients = tuple(one.renamed(names) for one in self.ingredients)
        return replace(self, ingredients=ingredients, layout=self.layout.renamed(names))

    def hash_all(self, advance: Callable[[int], None] = lambda nbytes: None) -> None:
        """Read every ingredient for its sha256, two at a time; `advance` hears of the bytes."""
        with ThreadPoolExecutor(2) as executor:
            done = executor.map(lambda one: (one.digest, one.checkpoint), self.ingredients)
            for _, checkpoint in done:
                advance(checkpoint.layout.nbytes)

    def hash_elsewhere(self, map: Map) -> None:
        """The same, each file a job of its own for `map`; what has no files is read here."""
        found = [as_opened(one.checkpoint) for one in self if not one.content.is_hashed]
        stored = [one for one in found if isinstance(one, StoredCheckpoint)]
        files = {file: part for one in stored for file, part in one.one_by_one().items()}
        sums = dict(zip(files, map(digest_here, files.values()), strict=True))
        for one in stored:
            one.know({file: sums[file] for file in one.one_by_one()})
        self.hash_all()


def common_layout(ingredients: Sequence[Ingredient]) -> Layout:
    """The layout that all share, in the order of the first, dtypes promoted.

    Raises:
        LayoutMismatch: tensors are missing, unexpected, of another shape or another kind.
    """
    first = ingredients[0].checkpoint.layout
    tensors = dict(first.tensors)
    complaints: list[str] = []
    for one in ingredients[1:]:
        layout = one.checkpoint.layout
        lines = differences(tensors, first.ties, layout)
        if lines:
            more = len(lines) - _MOST_DIFFERENCES
            shown = lines[:_MOST_DIFFERENCES] + ([f"... and {more} more"] if more > 0 else [])
            complaints.append("\n    ".join([f"  {one.name}", *shown]))
            continue
        for name, spec in layout.tensors.items():
            dtype = promote(tensors[name].dtype, spec.dtype)
            if dtype is not None:
                tensors[name] = TensorSpec(dtype, spec.shape)
    if complaints:
        raise LayoutMismatch(
            f"these checkpoints cannot be averaged with {ingredients[0].name}:\n"
            + "\n".join(complaints)
            + "\nA soup needs the same tensors in every checkpoint; leave out those that differ."
        )
    return Layout(tensors, first.ties)


def differences(
    expected: Mapping[str, TensorSpec], ties: Mapping[str, str], found: Layout
) -> list[str]:
    """What keeps a layout from being averaged with the expected one, a line for each tensor."""
    lines = [f"missing     {name}" for name in expected if name not in found.tensors]
    lines += [f"unexpected  {name}" for name in found.tensors if name not in expected]
    for name, spec in found.tensors.items():
        wanted = expected.get(name)
        if wanted is None:
            continue
        if spec.shape != wanted.shape:
            lines.append(f"{name} has shape {list(spec.shape)}, expected {list(wanted.shape)}")
        elif promote(wanted.dtype, spec.dtype) is None:
            lines.append(f"{name} is {spec.dtype}, expected {wanted.dtype}")
    for alias in sorted(ties.keys() | found.ties.keys()):
        if ties.get(alias) != found.ties.get(alias):
            here = found.ties.get(alias) or "nothing"
            lines.append(f"{alias} is tied to {here}, expected {ties.get(alias) or 'nothing'}")
    return lines
