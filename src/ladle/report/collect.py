"""The records of an output folder as plain values: `soup.json` and `evaluations.jsonl`.

Fields that are not known here are passed over: `version` says whether a record can be read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast, get_args

from ladle.errors import BadInput
from ladle.report.fields import Fields
from ladle.report.record import (
    Evaluation,
    Ingredient,
    Kind,
    Metric,
    Record,
    Split,
    Tasting,
    Verdict,
    Versus,
)

VERSION = 1


def collect(folder: Path) -> Record:
    """The records of an output folder, checked."""
    path = folder / "soup.json"
    soup = Fields(_object(_read(path, folder), str(path)), str(path))
    if soup.values.get("version") != VERSION:
        found = json.dumps(soup.values.get("version"))
        raise BadInput(
            f"{path} has version {found}, this ladle reads version {VERSION}; "
            "make the report with the ladle that cooked the soup, or upgrade ladle"
        )
    lines = _evaluations(folder / "evaluations.jsonl")
    tastings = tuple(map(_tasting, soup.objects("tastings")))
    metric = _metric(soup.object("metric"), tastings, lines)
    own = tuple(line for line in lines if metric and line.metric == metric.name)
    pool = tuple(map(_ingredient, soup.objects("pool")))
    ingredients = tuple(map(_ingredient, soup.objects("ingredients")))
    return Record(
        ladle=soup.text("ladle"),
        command=_text_or_empty(soup, "command"),
        created=soup.text("created"),
        recipe=soup.object("recipe").text("name"),
        options=soup.object("recipe").object("options").shown(),
        merge=soup.object("merge").text("kind"),
        merge_options=soup.object("merge").shown("kind", "weights", "divisor"),
        ingredients=ingredients,
        pool=pool or ingredients,
        tastings=tastings,
        metric=metric,
        task=soup.object("task").text("name") if soup.has("task") else "",
        task_digest=_text_or_empty(soup.object("task"), "digest"),
        splits=tuple(_split(soup.object("splits"), name) for name in soup.object("splits").values),
        seed=soup.integer_or_none("seed"),
        repeats=soup.object("recipe").object("repeats").numbers("scores"),
        caveats=soup.texts("caveats") if soup.has("caveats") else (),
        rank=_truncated(soup.object("adapter")) if soup.has("adapter") else None,
        versions=soup.object("versions").shown(),
        evaluations=own,
        other_metrics=tuple(dict.fromkeys(line.metric for line in lines if line not in own)),
    )


def _read(path: Path, folder: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        unfinished = folder.with_name(f"{folder.name}.part")
        hint = (
            f"{unfinished} is unfinished: run its command again, it continues there"
            if unfinished.exists()
            else "give the output folder of a finished `ladle cook` or `ladle average`"
        )
        raise BadInput(f"{path} is missing; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); make the soup again") from error


def _object(text: str, where: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where} is not JSON ({error}); make the soup again") from None
    if not isinstance(value, dict):
        raise BadInput(f"{where} does not hold a JSON object; make the soup again")
    return value


def _evaluations(path: Path) -> tuple[Evaluation, ...]:
    """One per line; none without the file, as when a score command judged the candidates."""
    if not path.exists():
        return ()
    lines = enumerate(_read(path, path.parent).splitlines(), start=1)
    return tuple(_evaluation(line, f"{path}, line {i}") for i, line in lines if line.strip())


def _evaluation(line: str, where: str) -> Evaluation:
    fields = Fields(_object(line, where), where)
    return Evaluation(
        model=fields.text("model"),
        kind=cast(Kind, _one_of(fields, "kind", get_args(Kind))),
        members=fields.texts("members") if fields.has("members") else (),
        split=fields.text("split"),
        role=fields.text("role"),
        metric=fields.text("metric"),
        value=fields.number_or_none("value"),
        low=fields.number_or_none("low"),
        high=fields.number_or_none("high"),
        n=fields.integer_or_none("n"),
        versus=_versus(fields.object("versus")) if fields.has("versus") else None,
    )


def _truncated(adapter: Fields) -> int | None:
    return adapter.integer("rank") if adapter.has("relative_error") else None


def _versus(fields: Fields) -> Versus:
    return Versus(
        model=fields.text("model"),
        difference=fields.number_or_none("difference"),
        low=fields.number_or_none("low"),
        high=fields.number_or_none("high"),
        wins=fields.integer_or_none("wins"),
        losses=fields.integer_or_none("losses"),
        p=fields.number_or_none("p"),
        test=_text_or_empty(fields, "test"),
        verdict=cast(Verdict, _one_of(fields, "verdict", get_args(Verdict))),
    )


def _one_of(fields: Fields, key: str, known: tuple[str, ...]) -> str:
    value = fields.text(key)
    if value not in known:
        raise BadInput(f"{fields.where}: `{key}` is {value!r}, known are {', '.join(known)}")
    return value


def _tasting(fields: Fields) -> Tasting:
    return Tasting(
        candidate=fields.text("candidate"),
        members=fields.texts("members"),
        score=fields.number_or_none("score"),
        kept=fields.flag("kept"),
        reason=_text_or_empty(fields, "reason"),
        margin=fields.number_or_none("margin"),
        examples=fields.integer_or_none("examples"),
        bound=fields.number_or_none("bound"),
    )


def _ingredient(fields: Fields) -> Ingredient:
    return Ingredient(
        name=fields.text("name"),
        path=_text_or_empty(fields, "path"),
        sha256=_text_or_empty(fields, "sha256"),
        nbytes=fields.integer_or_none("bytes"),
        weight=fields.number_or_none("weight"),
    )


def _split(splits: Fields, name: str) -> Split:
    fields = splits.object(name)
    digest = _text_or_empty(fields, "digest")
    return Split(name, fields.text("role"), fields.integer_or_none("n"), digest)


def _text_or_empty(fields: Fields, key: str) -> str:
    return fields.text(key) if fields.has(key) else ""


def _metric(
    fields: Fields, tastings: tuple[Tasting, ...], lines: tuple[Evaluation, ...]
) -> Metric | None:
    """The metric that chose; a score without a name is called `score`; None: nothing measured."""
    if not fields.values and not tastings and not lines:
        return None
    name = "score"
    if fields.values:
        name = fields.text("name")
    elif lines:
        name = lines[0].metric
    higher = fields.flag("higher_is_better") if fields.values else True
    values = [t.score for t in tastings] + [e.value for e in lines if e.metric == name]
    # A user's own score command may print an accuracy of 81.2 for 81.2 %: that is left alone.
    fraction = all(0 <= value <= 1 for value in values if value is not None)
    return Metric(name, higher, percent=higher and fraction and name.endswith("accuracy"))
