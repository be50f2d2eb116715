"""Held-out examples cut out of the training split, for every kind of task.

In a TOML file, `held-out` is then a rule instead of a path:

    held-out = { per_class = 26, seed = 0 }         # the paper's: 2 % of ImageNet's train
    held-out = { fraction = 0.02, seed = 0 }        # or n = 1000
    held-out = { list = "held_out.txt" }            # names, as `write_list` writes them

A list may also be a .npy file of zeros and ones, in the order of the sorted names, as the paper's
`imagenet_98_idxs.npy` is: 1 is held out.

What is not taken stays for training. The same rule takes the same examples on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ladle.errors import BadInput, BadTask
from ladle.files import new_file
from ladle.location import located
from ladle.tasks.base import Drawn, Split
from ladle.wording import some

Labelled = TypeVar("Labelled", bound=tuple[Any, ...])
Flags = npt.NDArray[np.bool_]

_WAYS = ("per_class", "fraction", "n", "list")
_HOW = "write it as { per_class = 26 }, { fraction = 0.02 }, { n = 1000 } or { list = 'names.txt' }"


@dataclass(frozen=True)
class Rule:
    """One of four ways to choose from the training examples; `seed` is that of a random one.

    `where` is what error messages begin with.
    """

    where: str
    per_class: int | None = None
    fraction: float | None = None
    n: int | None = None
    listed: Path | None = None
    seed: int = 0

    def divide(
        self, names: Sequence[str], labels: npt.ArrayLike, label_names: Sequence[str]
    ) -> tuple[Flags, Drawn]:
        """Which of the examples to hold out, (N,) flags in their order, and a note of it.

        A choice depends on names and seed, not on the order that a disk lists files in; with
        `per_class`, that in one class on nothing of the others.

        Raises:
            BadTask: the rule asks for more than there is, with the classes or names.
        """
        if self.listed is not None:
            return _listed(self.where, self.listed, names)
        if self.per_class is not None:
            flags = self._of_each_class(self.per_class, names, np.asarray(labels), label_names)
            return flags, self._drawn(names, flags, {"per_class": self.per_class})
        if self.fraction is not None:
            count = round(self.fraction * len(names))
            rule: dict[str, object] = {"fraction": self.fraction}
        else:
            count = self.n or 0
            rule = {"n": count}
        if not 0 < count < len(names):
            raise BadTask(
                f"{self.where} takes {count:,} of {len(names):,} training examples; it has to take "
                "at least one and leave one for training"
            )
        flags = np.zeros(len(names), np.bool_)
        flags[_drawn_from(range(len(names)), names, count, self.seed, "")] = True
        return flags, self._drawn(names, flags, rule)

    def _of_each_class(
        self, count: int, names: Sequence[str], labels: npt.NDArray[Any], of: Sequence[str]
    ) -> Flags:
        if not np.issubdtype(labels.dtype, np.integer):
            raise BadTask(f"{self.where}: per_class needs classes; use fraction or n")
        order = np.argsort(labels, kind="stable")
        found, starts = np.unique(labels[order], return_index=True)
        groups = dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True))
        if short := [f"{of[label]} ({len(g)})" for label, g in groups.items() if len(g) <= count]:
            raise BadTask(
                f"{self.where}: per_class = {count} leaves nothing for training where a class has "
                f"no more examples than that: {some(short)}; take fewer or add some"
            )
        flags = np.zeros(len(names), np.bool_)
        for label, members in groups.items():
            flags[_drawn_from(members.tolist(), names, count, self.seed, of[label])] = True
        return flags

    def _drawn(self, names: Sequence[str], flags: Flags, rule: Mapping[str, object]) -> Drawn:
        taken = sorted(name for name, flag in zip(names, flags, strict=True) if flag)
        return Drawn({"from": "train", **rule, "seed": self.seed}, tuple(taken))


def read_rule(file: Path, splits: Mapping[str, Any]) -> Rule | None:
    """The rule that a TOML file gives in place of a path for `held-out`; None where it gives none.

    Raises:
        BadTask: it is written wrongly, or there is no training split to cut from.
    """
    given = splits.get("held-out")
    if not isinstance(given, Mapping) or "path" in given:
        return None
    where = f"{file}: held-out"
    if unknown := [key for key in given if key not in (*_WAYS, "seed")]:
        raise BadTask(f"{where} has the unknown key {unknown[0]!r}; {_HOW}")
    ways = [key for key in _WAYS if key in given]
    if len(ways) != 1:
        raise BadTask(f"{where} is given {' and '.join(ways) or 'no way to choose'}; {_HOW}")
    if "train" not in splits:
        raise BadTask(f"{where} is cut out of train, which is not there; add train to the splits")
    (way,) = ways
    value, seed = given[way], given.get("seed", 0)
    if way == "list":
        if not isinstance(value, str) or "seed" in given:
            raise BadTask(f"{where}.list is the path of a file and takes no seed; {_HOW}")
        return Rule(where, listed=file.parent / Path(value).expanduser())
    for key, number in ((way, value), ("seed", seed)):
        if key == "fraction":
            fits, needed = isinstance(number, float) and 0 < number < 1, "a number between 0 and 1"
        else:
            least = 0 if key == "seed" else 1
            # bool is an int to Python.
            fits = isinstance(number, int) and not isinstance(number, bool) and number >= least
            needed = f"a whole number from {least} on"
        if not fits:
            raise BadTask(f"{where}.{key} is {number!r}; it has to be {needed}")
    return Rule(where, seed=seed, **{way: value})


def cut_out(
    splits: Mapping[str, Labelled], rule: Rule, names: Sequence[str], label_names: Sequence[str]
) -> dict[str, Labelled]:
    """The splits with `held-out` cut out of `train`, whose examples are called `names`.

    Of every kind of examples: named tuples that begin with role, items, labels and `Drawn`.
    """
    train = splits["train"]
    kind = type(train)
    _, items, labels, _, *rest = train
    flags, drawn = rule.divide(names, labels, label_names)

    def where(flag: bool) -> tuple[Any, list[Any]]:
        chosen = np.flatnonzero(flags == flag).tolist()
        # Images in a saved data set stay there.
        some = items.subset(chosen) if hasattr(items, "subset") else [items[i] for i in chosen]
        return some, [labels[i] for i in chosen]

    kept = kind("train", *where(False), None, *rest)  # type: ignore[call-arg]
    taken = kind("held-out", *where(True), drawn, *rest)  # type: ignore[call-arg]
    others = {name: split for name, split in splits.items() if name != "train"}
    return {"train": kept, "held-out": taken, **others}


def write_list(split: Split, path: str | Path) -> None:
    """Write the names that a held-out split took out of train, one a line, for a rule `list`.

    Example:
        >>> task = ladle.load_task("task.toml")
        >>> write_list(task.splits["held-out"], "held_out.txt")

    Raises:
        BadInput: the split was not cut out of train.
    """
    if split.drawn is None:
        raise BadInput(
            f"split {split.name!r} was not cut out of the training examples, so there is no choice "
            "to write down; give held-out as a rule, as in { per_class = 26 }"
        )
    with new_file(located(path)) as part:
        part.write_text("\n".join(split.drawn.names) + "\n", "utf-8")


def _listed(where: str, file: Path, names: Sequence[str]) -> tuple[Flags, Drawn]:
    try:
        wanted = _flagged(file, names) if file.suffix == ".npy" else _lines(file)
    except FileNotFoundError:
        raise BadTask(f"{where}: {file} does not exist; check the path") from None
    except (OSError, EOFError, ValueError) as error:
        raise BadTask(f"{where}: {file} cannot be read ({error})") from error
    flags = np.array([name in wanted for name in names], np.bool_)
    if missing := sorted(wanted.difference(names)):
        raise BadTask(
            f"{file} lists what is not among the training examples: {some(missing)}; write "
            "paths relative to the train folder (of a table, numbers of rows from 0), one a "
            "line"
        )
    if not wanted or flags.all():
        raise BadTask(
            f"{file} lists {'nothing' if not wanted else 'every training example'}; it has to "
            "name at least one and leave one for training"
        )
    content = hashlib.sha256("\n".join(sorted(wanted)).encode()).hexdigest()
    rule: dict[str, object] = {"from": "train", "list": file.name, "sha256": content}
    return flags, Drawn(rule, tuple(sorted(wanted)))


def _lines(file: Path) -> set[str]:
    return {line.strip() for line in file.read_text("utf-8").split("\n")} - {""}


def _flagged(file: Path, names: Sequence[str]) -> set[str]:
    """The names at which an array, in the order of sorted names, is 1: the paper's own list."""
    flags = np.load(file, allow_pickle=False)
    if flags.shape != (len(names),) or not np.isin(flags, (0, 1)).all():
        raise BadTask(
            f"{file} holds {flags.dtype} {flags.shape}; for these training examples it has to be "
            f"{len(names):,} numbers, 1 for what is held out and 0 for the rest"
        )
    return {name for name, flag in zip(sorted(names), flags.tolist(), strict=True) if flag}


def _drawn_from(
    members: Sequence[int], names: Sequence[str], count: int, seed: int, salt: str
) -> list[int]:
    """`count` of the members, chosen by seed, salt and their names."""
    ordered = sorted(members, key=names.__getitem__)
    # What `Generator.choice` gives may change between versions of numpy; these bits may not.
    salted = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "little")
    bits = np.random.PCG64(np.random.SeedSequence([seed, salted])).random_raw(len(ordered))
    return [ordered[i] for i in np.argsort(bits, kind="stable")[:count].tolist()]
