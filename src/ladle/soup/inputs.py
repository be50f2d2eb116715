"""From what a user names to ingredients: files, folders, globs, the folders of trainings."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ladle.checkpoint import (
    Checkpoint,
    holds_weights,
    is_weights_file,
    open_checkpoint,
)
from ladle.errors import BadInput, UnreadableCheckpoint
from ladle.files import is_unfinished
from ladle.location import is_local, is_place, located
from ladle.runs import Choice, Facts, Member, choose, facts_in, find_members, member_at, natural
from ladle.soup.fingerprint import same_tensors
from ladle.soup.pool import Content, Ingredient, Pool


@dataclass(frozen=True)
class _Opened:
    """A member and its checkpoint; `found_in` is the folder that was looked into for it."""

    member: Member
    checkpoint: Checkpoint
    found_in: Path | None = None

    @cached_property
    def content(self) -> Content:
        return Content(self.checkpoint)

    @property
    def facts(self) -> Facts:
        """What the records beside the file say, and what the file itself says."""
        return self.member.facts.over(facts_in(self.checkpoint.envelope.values))


@dataclass(frozen=True)
class Gathered:
    """Ingredients in order, and remarks on what was left out or chosen.

    `repeated` are those on what was named and left out, for it is another that was named.
    """

    ingredients: tuple[Ingredient, ...]
    remarks: tuple[str, ...]
    repeated: tuple[str, ...] = ()


def open_pool(
    inputs: str | Path | Iterable[str | Path],
    *,
    use_ema: bool = True,
    choice: Choice | None = None,
) -> Pool:
    """Open files, folders, globs or the folder of a training or sweep as one pool.

    Only headers are read. See `gather` for what is found.

    Raises:
        BadInput: a path or glob leads to no checkpoint.
        UnreadableCheckpoint: one that was named is damaged.
        LayoutMismatch: their tensors differ.
    """
    found = gather(inputs, use_ema=use_ema, choice=choice)
    return Pool.of(found.ingredients, found.remarks)


def gather(
    inputs: str | Path | Iterable[str | Path],
    *,
    use_ema: bool = True,
    choice: Choice | None = None,
    within: bool = True,
) -> Gathered:
    """The checkpoints that `inputs` lead to, whether or not they can be averaged.

    The order is that of `inputs`; a glob's matches and a folder's members are sorted, numbers by
    value. What lies in a folder and cannot be read is left out, as is what is there twice (links,
    and checkpoints with the same tensors); remarks say so. A folder that has weights itself is one
    checkpoint; given alone, it is looked into, unless `within` is False.

    Raises:
        BadInput: a path or glob leads to no checkpoint, or nothing is left to choose from.
        UnreadableCheckpoint: one that was named is damaged.
    """
    given = [inputs] if is_place(inputs) else list(inputs)
    remarks: list[str] = []
    repeated: list[str] = []
    opened: list[_Opened] = []
    for one in given:
        named = _named(one, alone=within and len(given) == 1)
        if named is None:
            opened += _found(located(one), use_ema, remarks)
        else:
            opened += [_Opened(m, open_checkpoint(m.path, use_ema=use_ema)) for m in named]
    kept, said = choose(
        [(one.member.run, one.facts, one) for one in _once(opened, remarks, repeated)],
        choice or Choice(),
    )
    remarks += said
    chosen = [one for _, _, one in kept]
    names = _names([one.member for one in chosen])
    ingredients = tuple(
        Ingredient(name, one.checkpoint, one.facts, one.found_in, one.content)
        for name, one in zip(names, chosen, strict=True)
    )
    averages = [one.name for one in ingredients if one.checkpoint.envelope.is_ema]
    if averages:
        remarks.append(
            f"EMA weights were taken from {', '.join(averages)}; --no-use-ema takes the others"
        )
    return Gathered(ingredients, tuple(remarks), tuple(repeated))


def _named(given: str | Path, *, alone: bool) -> list[Member] | None:
    """The checkpoints that are named one by one or by a glob; None for a folder to look into."""
    path = located(given)
    if _is_unfinished(path):
        raise BadInput(f"{path} is unfinished work; finish it, or rename it if it is yours")
    if path.is_dir():
        # With others beside it, a folder with weights is one of several models; alone, it is
        # looked into, for a soup of one is none.
        return None if alone or not holds_weights(path) else [member_at(path)]
    if path.exists():
        return [member_at(path)]
    if any(character in str(given) for character in "*?["):
        usable = sorted((match for match in _matches(path) if _is_ingredient(match)), key=natural)
        if usable:
            return [member_at(match) for match in usable]
        raise BadInput(f"no checkpoint matches {str(given)!r}; check the pattern")
    raise BadInput(f"{path} does not exist; check the path")


def _found(folder: Path, use_ema: bool, remarks: list[str]) -> Iterator[_Opened]:
    """What is in a folder and can be read: a training that still runs may be writing there."""
    found = find_members(folder)
    remarks += found.remarks
    answers = [(member, _readable(member, use_ema)) for member in found.members]
    refusals = [answer for _, answer in answers if isinstance(answer, UnreadableCheckpoint)]
    if len(refusals) == len(answers):
        raise next(
            iter(refusals),
            BadInput(f"{folder} holds no checkpoint; name a folder or file with weights"),
        )
    remarks += [f"left out: {refusal}" for refusal in refusals]
    for member, answer in answers:
        if not isinstance(answer, UnreadableCheckpoint):
            yield _Opened(member, answer, None if member.path == folder else folder)


def _readable(member: Member, use_ema: bool) -> Checkpoint | UnreadableCheckpoint:
    try:
        return open_checkpoint(member.path, use_ema=use_ema)
    except UnreadableCheckpoint as error:
        return error


def _matches(pattern: Path) -> list[Path]:
    if is_local(pattern):
        return [Path(match) for match in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207
    root = next(parent for parent in pattern.parents if not any(c in str(parent) for c in "*?["))
    return list(root.glob(str(pattern.relative_to(root))))


def _is_ingredient(path: Path) -> bool:
    """Whether a glob's match is meant: not unfinished work, nor the base of a sweep."""
    is_base = path.name == "base" and (path.parent / "sweep.json").is_file()
    return (
        not _is_unfinished(path) and not is_base and (is_weights_file(path) or holds_weights(path))
    )


def _is_unfinished(path: Path) -> bool:
    if path.suffix == ".part" or path.parent.suffix == ".part":
        return True
    # A URL has its own name before it is complete.
    return not is_local(path) and is_unfinished(path)


def _once(opened: Sequence[_Opened], remarks: list[str], repeated: list[str]) -> list[_Opened]:
    """Each model once: links to the same files and equal tensors count as one."""

    def leave_out(one: _Opened, remark: str) -> None:
        remarks.append(remark)
        if one.found_in is None:
            repeated.append(remark)

    kept: list[_Opened] = []
    by_files: dict[object, Member] = {}
    alikes: dict[bytes, list[_Opened]] = {}
    for one in opened:
        member, checkpoint = one.member, one.checkpoint
        # Links of both kinds lead to one inode; two state dicts of one file are two models.
        places = tuple(_place(file) for file in checkpoint.files)
        link = by_files.setdefault((places, checkpoint.envelope.key), member)
        if link is not member:
            leave_out(one, f"{member.path} is {link.path} again, and counts once")
            continue
        alike = alikes.setdefault(one.content.fingerprint, [])
        twin = next((o for o in alike if same_tensors(o.checkpoint, checkpoint)), None)
        if twin is not None:
            first = twin.member.path
            leave_out(one, f"{member.path} holds the same tensors as {first}; they count once")
            continue
        alike.append(one)
        kept.append(one)
    return kept


def _place(file: Path) -> object:
    found = file.stat()
    return (found.st_dev, found.st_ino) if found.st_ino else str(file)


def _names(members: Sequence[Member]) -> list[str]:
    """Unique names: those that a list of members gives, otherwise the shortest ends of paths."""
    short = short_names([member.path for member in members])
    names = [member.name or name for member, name in zip(members, short, strict=True)]
    return names if len(set(names)) == len(names) else short


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
