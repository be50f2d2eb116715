"""The ingredients of a soup: checkpoints in a fixed order that share one layout."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ladle.checkpoint import (
    Checkpoint,
    Layout,
    TensorSpec,
    holds_weights,
    is_weights_file,
    open_checkpoint,
    weights_in,
)
from ladle.checkpoint.dtypes import promote
from ladle.errors import BadInput, LayoutMismatch

_MOST_DIFFERENCES = 12


@dataclass(frozen=True)
class Ingredient:
    """A checkpoint offered to a soup, under a name that is unique in its pool."""

    name: str
    checkpoint: Checkpoint
    _digest: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def digest(self) -> str:
        """The sha256 of its weights; read once, on first use."""
        if not self._digest:
            self._digest.append(self.checkpoint.digest())
        return self._digest[0]


@dataclass(frozen=True)
class Pool:
    """Ingredients in a fixed order, and the layout that all of them share.

    Where dtypes differ, the layout has the smallest that holds all of them.
    """

    ingredients: tuple[Ingredient, ...]
    layout: Layout

    @classmethod
    def of(cls, ingredients: Iterable[Ingredient]) -> Pool:
        """A pool of these ingredients.

        Raises:
            LayoutMismatch: their tensors differ; all differences are named at once.
        """
        chosen = tuple(ingredients)
        if not chosen:
            raise BadInput("a soup needs at least one checkpoint; none was given")
        return cls(chosen, common_layout(chosen))

    def __len__(self) -> int:
        return len(self.ingredients)

    def __iter__(self) -> Iterator[Ingredient]:
        return iter(self.ingredients)

    def __getitem__(self, index: int) -> Ingredient:
        return self.ingredients[index]

    def subset(self, indices: Sequence[int]) -> Pool:
        """Some of the ingredients, with the layout of all, so that dtypes do not change."""
        return Pool(tuple(self.ingredients[i] for i in indices), self.layout)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The sha256 of every ingredient."""
        self.hash_all()
        return tuple(one.digest for one in self.ingredients)

    def hash_all(self, advance: Callable[[int], None] = lambda nbytes: None) -> None:
        """Read every ingredient for its sha256, two at a time; `advance` hears of the bytes."""
        with ThreadPoolExecutor(2) as executor:
            done = executor.map(lambda one: (one.digest, one.checkpoint), self.ingredients)
            for _, checkpoint in done:
                advance(checkpoint.layout.nbytes)


def open_pool(inputs: str | Path | Iterable[str | Path]) -> Pool:
    """Open files, folders, globs or a sweep's folder as one pool.

    Only headers are read. The order is that of `inputs`; a glob's matches and a sweep's members
    are sorted, numbers by value.

    Raises:
        BadInput: a path or glob leads to no checkpoint, or a checkpoint is given twice.
        UnreadableCheckpoint: one of them is damaged.
        LayoutMismatch: their tensors differ.
    """
    paths = find_checkpoints(inputs)
    names = short_names(paths)
    return Pool.of(
        Ingredient(name, open_checkpoint(path)) for name, path in zip(names, paths, strict=True)
    )


def find_checkpoints(inputs: str | Path | Iterable[str | Path]) -> list[Path]:
    """The checkpoints that `inputs` lead to."""
    given = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    found: list[Path] = []
    for one in given:
        found += _expand(one)
    seen: dict[tuple[int, int], Path] = {}
    for path in found:
        file = (weights_in(path) if path.is_dir() else path).stat()
        # Links of both kinds lead to one inode.
        first = seen.setdefault((file.st_dev, file.st_ino), path)
        if first is not path:
            raise BadInput(f"{path} is given twice (as {first} too); give each checkpoint once")
    return found


def _expand(given: str | Path) -> list[Path]:
    path = Path(given).expanduser()
    if _is_unfinished(path):
        raise BadInput(f"{path} is unfinished work; finish it, or rename it if it is yours")
    if path.is_dir():
        if holds_weights(path):
            return [path]
        members = sweep_members(path)
        if members:
            return members
        raise BadInput(f"{path} holds no checkpoint and is no sweep's folder; name checkpoints")
    if path.exists():
        return [path]
    if any(character in str(given) for character in "*?["):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        usable = sorted((match for match in matches if _is_ingredient(match)), key=_natural)
        if usable:
            return usable
        raise BadInput(f"no checkpoint matches {str(given)!r}; check the pattern")
    raise BadInput(f"{path} does not exist; check the path")


def _is_ingredient(path: Path) -> bool:
    """Whether a glob's match is meant: not unfinished work, nor the base of a sweep."""
    is_base = path.name == "base" and (path.parent / "sweep.json").is_file()
    return (
        not _is_unfinished(path) and not is_base and (is_weights_file(path) or holds_weights(path))
    )


def _is_unfinished(path: Path) -> bool:
    return path.suffix == ".part" or path.parent.suffix == ".part"


def sweep_members(folder: Path) -> list[Path]:
    """The finished runs of a sweep's folder, in order; empty if it is none."""
    if not (folder / "sweep.json").is_file():
        return []
    runs = (record.parent for record in folder.glob("run-*/run.json"))
    # A run that diverged has a record but no weights.
    finished = (run for run in runs if run.suffix != ".part" and holds_weights(run))
    return sorted(finished, key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts step-9 before step-10."""
    pieces: list[tuple[int, int, str]] = []
    digits = ""
    for character in [*str(path), ""]:
        if character.isdecimal() and character.isascii():
            digits += character
            continue
        if digits:
            pieces.append((0, int(digits), ""))
            digits = ""
        pieces.append((1, 0, character))
    return pieces


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of `paths` that tell them apart, without `model.safetensors`."""
    shown = [p.parent if p.name.startswith(("model.", "pytorch_model.")) else p for p in paths]
    if len(set(shown)) < len(shown):
        shown = list(paths)
    # Not resolved: a link is known by its own name.
    parts = [path.absolute().parts for path in shown]
    for length in range(1, max((len(p) for p in parts), default=1) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in shown]


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
        lines = _differences(tensors, first.ties, layout)
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


def _differences(
    expected: Mapping[str, TensorSpec], ties: Mapping[str, str], found: Layout
) -> list[str]:
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
