"""From a folder to the checkpoints in it."""

from __future__ import annotations

from pathlib import Path

from ladle.checkpoint import holds_weights
from ladle.errors import BadInput
from ladle.runs.base import Facts, Found, Member
from ladle.runs.layouts import LAYOUTS, natural, side_by_side, step_in
from ladle.runs.listing import listed

_DEPTH = 5


def find_members(folder: Path) -> Found:
    """The checkpoints in a folder, or in those below it, run by run and step by step.

    A list of members counts before everything else; then the layouts of the frameworks; a folder
    with weights of its own is one checkpoint; weights side by side are one each.

    Raises:
        BadInput: a list of members is broken, or a folder cannot be read.
    """
    try:
        return _found(folder, _DEPTH)
    except OSError as error:
        place = error.filename or folder
        raise BadInput(f"{place} cannot be read ({error.strerror or error}); check it") from error


def member_at(path: Path) -> Member:
    """What is known about a checkpoint that was named, from what lies beside it."""
    for layout in (listed, *LAYOUTS):
        try:
            found = layout(path.parent) if path.parent.is_dir() else None
        except (BadInput, OSError):  # It was not asked for.
            continue
        for member in found.members if found else ():
            if member.path == path:
                return member
    run = path if path.is_dir() else path.parent
    return Member(path, run, Facts(step_in(path.name)))


def _found(folder: Path, depth: int) -> Found:
    for layout in (listed, *LAYOUTS):
        found = layout(folder)
        if found is not None:
            return found
    if holds_weights(folder):
        return Found((Member(folder, folder),))
    found = side_by_side(folder) or Found()
    if depth:
        inner = [
            _found(one, depth - 1)
            for one in sorted(folder.iterdir(), key=natural)
            if _looked_into(one)
        ]
        found = Found(
            found.members + tuple(member for one in inner for member in one.members),
            found.remarks + tuple(remark for one in inner for remark in one.remarks),
        )
    return found


def _looked_into(path: Path) -> bool:
    hidden = path.name.startswith((".", "tmp", "_tmp", "__")) or path.suffix == ".part"
    return not hidden and path.is_dir()
