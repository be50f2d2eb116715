"""`members.csv` and `members.yaml`: checkpoints listed by hand, or by a framework of one's own."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ladle.errors import BadInput, MissingExtra
from ladle.runs.base import Facts, Found, Member
from ladle.runs.facts import numbers, parsed

_NAMES = ("members.csv", "members.yaml", "members.yml")


def listed(folder: Path) -> Found | None:
    """The members that a list in `folder` names, in its order; None without a list.

    Each has a `path`, relative to the folder, and may have a `name`, a `step` and a `run`. Further
    columns with numbers are metrics, others hyper-parameters; YAML may also tell them apart as
    `metrics` and `hyperparameters`.

    Raises:
        BadInput: the list is broken, or names a checkpoint that is not there.
    """
    lists = [folder / name for name in _NAMES if (folder / name).is_file()]
    if not lists:
        return None
    if len(lists) > 1:
        raise BadInput(f"{lists[0]} and {lists[1].name} both list members; remove one of them")
    rows = _csv(lists[0]) if lists[0].suffix == ".csv" else _yaml(lists[0])
    members = [_member(lists[0], where, row) for where, row in rows]
    names = [member.name for member in members if member.name is not None]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{lists[0]} has two members called {twice!r}; give each a name of its own")
    if not members:
        raise BadInput(f"{lists[0]} lists no member; add one, or remove the file")
    return Found(tuple(members))


def _member(file: Path, where: str, row: Mapping[str, Any]) -> Member:
    rest = dict(row)
    given = rest.pop("path", None)
    if not isinstance(given, str):
        raise BadInput(f"{file}, {where}: there is no path; every member needs one")
    path = file.parent / given
    if not path.exists():
        raise BadInput(f"{file}, {where}: {path} does not exist; mend the path or remove the line")
    step, name = rest.pop("step", None), rest.pop("name", None)
    if step is not None and (isinstance(step, bool) or not isinstance(step, int)):
        raise BadInput(f"{file}, {where}: the step {step!r} is no whole number")
    run = rest.pop("run", None)
    metrics, parameters = rest.pop("metrics", {}), rest.pop("hyperparameters", {})
    if not isinstance(metrics, dict) or not isinstance(parameters, dict):
        raise BadInput(f"{file}, {where}: write metrics and hyperparameters as name: value")
    measured = numbers(rest)
    settings = {name: value for name, value in rest.items() if name not in measured}
    return Member(
        path,
        file.parent if run is None else file.parent / str(run),
        Facts(step, {**measured, **numbers(metrics)}, {**settings, **parameters}),
        None if name is None else str(name),
    )


def _csv(file: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            if "path" not in (reader.fieldnames or ()):
                raise BadInput(f"{file} has no column `path`; name the columns in its first line")
            return [(f"line {reader.line_num}", _cells(row)) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is no CSV file that can be read ({error})") from error


def _cells(row: Mapping[str | None, Any]) -> dict[str, Any]:
    texts = ("path", "name", "run")
    return {
        name: text if name in texts else parsed(text)
        for name, text in row.items()
        if name and isinstance(text, str) and text != ""
    }


def _yaml(file: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        import yaml
    except ImportError:
        raise MissingExtra(f"PyYAML (for {file.name})", "yaml") from None
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise BadInput(f"{file} is no YAML file that can be read ({line})") from error
    rows = content.get("members") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{file} is no list of members; begin each with `- path: ...`")
    return [(f"member {number}", row) for number, row in enumerate(rows, 1)]
