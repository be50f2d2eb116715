"""How the frameworks of the field lay out what a training leaves behind.

A layout is asked about one folder, and answers with the members that lie directly in it, or with
None where the folder is not of its making.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ladle.checkpoint import SUFFIXES, holds_weights
from ladle.runs.base import Facts, Found, Member
from ladle.runs.facts import json_of, lines_of, numbers, parsed, rows_of, yaml_of
from ladle.runs.records import RUN_RECORD, SWEEP_RECORD

Layout = Callable[[Path], "Found | None"]

_STEP_FOLDER = re.compile(r"checkpoint[-_](\d+)")
_TIMM = re.compile(r"checkpoint-(\d+)\.pth\.tar")
_OPEN_CLIP = re.compile(r"epoch_(\d+|latest)\.pt")
_MODEL_SOUPS = re.compile(r"model_(\d+)\.pt")
_NAMED_VALUE = re.compile(r"([A-Za-z][\w/]*)=(-?\d+(?:\.\d+)?(?:e-?\d+)?)")
_NUMBERED = re.compile(r"(?:epoch|step|steps|iter|checkpoint|ckpt)[-_=]?(\d+)|^(\d+)(?:epoch|step)")
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.\w+")
_NO_MODEL = re.compile(
    r"(optimizer|optim|scheduler|scaler|rng_state|random_states|training_args|custom_checkpoint"
    r"|recovery|tmp)",
    re.IGNORECASE,
)
"""Beginnings of the names of files that hold no model, or not yet all of one."""


def natural(text: object) -> list[tuple[int, int, str]]:
    """Sort key that puts step-9 before step-10."""
    pieces = re.split(r"([0-9]+)", str(text))
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]


def step_folders(folder: Path) -> Found | None:
    """Hugging Face `Trainer` (`checkpoint-500/`) and accelerate (`checkpoint_5/`).

    The weights in `folder` itself are those that the training ended with.
    """
    steps = [
        (int(found.group(1)), path)
        for path in folder.iterdir()
        if (found := _STEP_FOLDER.fullmatch(path.name)) and path.is_dir()
    ]
    if not steps:
        return None
    steps.sort()
    members = [
        Member(path, folder, _trainer_facts(path, step))
        for step, path in steps
        if holds_weights(path)
    ]
    remarks = [f"left out: {path} holds no weights" for _, path in steps if not holds_weights(path)]
    if holds_weights(folder):
        facts = _trainer_facts(folder, None)
        end = _mapping(json_of(steps[-1][1] / "trainer_state.json")).get("max_steps")
        if facts.step is None and isinstance(end, int):
            facts = Facts(end).over(facts)
        members.append(Member(folder, folder, facts))
    return Found(tuple(members), tuple(remarks))


def _trainer_facts(folder: Path, step: int | None) -> Facts:
    state = _mapping(json_of(folder / "trainer_state.json"))
    if step is None and isinstance(state.get("global_step"), int):
        step = state["global_step"]
    metrics: dict[str, float] = {}
    history = state.get("log_history")
    for entry in history if isinstance(history, list) else ():
        if isinstance(entry, dict) and entry.get("step") == step:
            metrics |= numbers({k: v for k, v in entry.items() if str(k).startswith("eval_")})
    return Facts(step, metrics, _mapping(state.get("trial_params")))


def timm(folder: Path) -> Found | None:
    """`train.py` of timm: `checkpoint-<epoch>.pth.tar`, `last`, `model_best`."""
    epochs = {
        int(found.group(1)): path
        for path in folder.glob("checkpoint-*.pth.tar")
        if (found := _TIMM.fullmatch(path.name))
    }
    others = [folder / f"{name}.pth.tar" for name in ("last", "model_best")]
    if not epochs and not any(path.is_file() for path in others):
        return None
    rows = {str(row.get("epoch")): row for row in rows_of(folder / "summary.csv")}
    arguments = dict(yaml_of(folder / "args.yaml"))
    members = [
        Member(path, folder, Facts(epoch, _measured(rows.get(str(epoch), {})), arguments))
        for epoch, path in sorted(epochs.items())
    ]
    members += [Member(p, folder, Facts(None, {}, arguments)) for p in others if p.is_file()]
    return _whole(members)


def lightning(folder: Path) -> Found | None:
    """`ModelCheckpoint` of Lightning: `epoch=1-step=8.ckpt`, `last.ckpt`, or names of one's own."""
    paths = sorted(folder.glob("*.ckpt"), key=natural)
    if not paths:
        return None
    run = folder.parent if folder.name == "checkpoints" else folder
    rows = rows_of(run / "metrics.csv")
    members = []
    for path in paths:
        values = numbers({n: parsed(value) for n, value in _NAMED_VALUE.findall(path.stem)})
        epoch, step = values.pop("epoch", None), values.pop("step", None)
        measured: dict[str, float] = {}
        for row in rows:
            said = numbers(row)
            # Rows are numbered by the batch before which they were written, from 0.
            if (
                epoch is not None
                and said.get("epoch") == epoch
                and said.get("step", 0) < (step or 1e18)
            ):
                measured |= said
        at = step if step is not None else epoch
        facts = Facts(None if at is None else int(at), {**values, **_measured(measured)})
        members.append(Member(path, run, facts))
    # Those with a step by step, then `last`, which knows its own.
    members.sort(key=lambda member: (member.facts.step is None, member.facts.step or 0))
    return _whole(members)


def open_clip(folder: Path) -> Found | None:
    """`epoch_<n>.pt` beside `results.jsonl`, under the `params.txt` of the run."""
    names = [path for path in folder.iterdir() if _OPEN_CLIP.fullmatch(path.name)]
    params = folder.parent / "params.txt"
    if not names or not (params.is_file() or (folder / "results.jsonl").is_file()):
        return None
    rows = {str(row.get("epoch")): row for row in lines_of(folder / "results.jsonl")}
    arguments = {}
    if params.is_file():
        for line in params.read_text("utf-8", errors="replace").splitlines():
            name, colon, value = line.partition(": ")
            if colon:
                arguments[name] = parsed(value)
    members = []
    for path in sorted(names, key=natural):
        # `epoch_latest.pt` tells its epoch itself.
        epoch = step_in(path.name)
        facts = Facts(epoch, _measured(rows.get(str(epoch), {})), arguments)
        members.append(Member(path, folder.parent, facts))
    return _whole(members)


def model_soups(folder: Path) -> Found | None:
    """The files of the model soups paper: `model_<i>.pt`, each a run of its own."""
    paths = sorted((p for p in folder.iterdir() if _MODEL_SOUPS.fullmatch(p.name)), key=natural)
    beside = (folder, folder.parent)
    results = [
        row for place in beside for row in lines_of(place / "individual_model_results.jsonl")
    ]
    known = [_mapping(json_of(place / "hparam_info.json")) for place in beside]
    parameters = next((one for one in known if one), {})
    if not paths or not (results or parameters):
        return None
    rows = {str(row.get("model_name")): row for row in results}
    members = [
        Member(
            path,
            path,
            Facts(None, numbers(rows.get(path.stem, {})), _mapping(parameters.get(path.stem))),
        )
        for path in paths
    ]
    return _whole(members)


def ladle_sweep(folder: Path) -> Found | None:
    """The finished runs of `ladle sweep`; the base is none of them."""
    if not (folder / SWEEP_RECORD).is_file():
        return None
    members = [
        # Each is the end of a run of its own, at no step of another's.
        Member(run, run, replace(facts, step=None))
        for run, facts in _recorded(folder.glob(f"run-*/{RUN_RECORD}"))
    ]
    return Found(tuple(members))


def ladle_steps(folder: Path) -> Found | None:
    """What a run of `ladle sweep` kept on its way."""
    kept = _recorded(folder.glob(f"step-*/{RUN_RECORD}"))
    members = [Member(step, folder.parent, facts) for step, facts in kept]
    return Found(tuple(members)) if members else None


def _recorded(records: Iterable[Path]) -> Iterator[tuple[Path, Facts]]:
    """The folders of checkpoints with a record of `ladle sweep`; one that failed has no weights."""
    for path in sorted(records, key=natural):
        if path.parent.suffix != ".part" and holds_weights(path.parent):
            record = _mapping(json_of(path))
            scores = record.get("scores")
            score = _mapping(scores[-1]) if isinstance(scores, list) and scores else {}
            metrics = numbers({str(score.get("metric")): score.get("value")})
            step = record.get("step")
            settings = _mapping(record.get("run"))
            yield path.parent, Facts(step if isinstance(step, int) else None, metrics, settings)


def side_by_side(folder: Path) -> Found | None:
    """Weights files, whoever wrote them; a number after `epoch` or `step` in a name is the step."""
    files = [
        path
        for path in sorted(folder.iterdir(), key=natural)
        if path.name.endswith(SUFFIXES)
        and path.is_file()
        and not path.name.startswith(".")
        and not _NO_MODEL.match(path.name)
    ]
    shards = [path for path in files if _SHARD.fullmatch(path.name)]
    remarks = (
        (f"left out: {shards[0]} and other shards, for want of their index",) if shards else ()
    )
    members = [
        Member(path, folder, Facts(step_in(path.name))) for path in files if path not in shards
    ]
    whole = _whole(members)
    if not whole.members and not remarks:
        return None
    return Found(whole.members, (*whole.remarks, *remarks))


def step_in(name: str) -> int | None:
    """The number after `epoch`, `step` and their like in a file's name."""
    found = _NUMBERED.search(name)
    return int(found.group(1) or found.group(2)) if found else None


LAYOUTS: tuple[Layout, ...] = (
    ladle_sweep,
    ladle_steps,
    step_folders,
    timm,
    open_clip,
    model_soups,
    lightning,
)
"""Asked in this order; the first that knows a folder tells what is in it."""


def _mapping(content: object) -> Mapping[str, Any]:
    """A record if it is one: what lies beside checkpoints may be anything."""
    return content if isinstance(content, dict) else {}


def _measured(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a row of a log."""
    return numbers(
        {n: v for n, v in row.items() if n not in ("epoch", "step", "lr", "num_samples")}
    )


def _whole(members: list[Member]) -> Found:
    """The members whose files have been written to, and remarks on the others."""
    empty = [member for member in members if member.path.stat().st_size == 0]
    return Found(
        tuple(member for member in members if member not in empty),
        tuple(f"left out: {member.path} is empty" for member in empty),
    )
