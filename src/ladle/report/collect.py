"""The records of an output folder as plain values: `soup.json` and `evaluations.jsonl`.

Fields that are not known here are passed over: `version` says whether a record can be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from ladle.report.fields import Fields
from ladle.report.files import check_version, lines_of, read_object
from ladle.report.record import (
    Bin,
    Evaluation,
    Ingredient,
    Kind,
    Metric,
    Record,
    Reliability,
    Split,
    Tasting,
    Verdict,
    Versus,
)

SOUP_RECORD = "soup.json"
_VERSION = 1


def collect(folder: Path) -> Record:
    """The records of an output folder, checked."""
    soup = read_object(folder / SOUP_RECORD)
    check_version(soup, _VERSION)
    lines = _evaluations(folder / "evaluations.jsonl")
    tastings = tuple(map(_tasting, soup.objects("tastings")))
    metric = _metric(soup.object("metric"), tastings, lines)
    own = tuple(line for line in lines if metric and line.metric == metric.name)
    pool = tuple(map(_ingredient, soup.objects("pool")))
    ingredients = tuple(map(_ingredient, soup.objects("ingredients")))
    return Record(
        ladle=soup.text("ladle"),
        command=soup.text_or_empty("command"),
        created=soup.text("created"),
        recipe=soup.object("recipe").text("name"),
        options=soup.object("recipe").object("options").shown(),
        merge=soup.object("merge").text("kind"),
        merge_options=soup.object("merge").shown("kind", "weights", "divisor", "by_tensor"),
        by_tensor=_by_tensor(soup.object("merge")),
        ingredients=ingredients,
        pool=pool or ingredients,
        tastings=tastings,
        metric=metric,
        task=soup.object("task").text("name") if soup.has("task") else "",
        task_digest=soup.object("task").text_or_empty("digest"),
        splits=tuple(_split(soup.object("splits"), name) for name in soup.object("splits").values),
        seed=soup.integer_or_none("seed"),
        repeats=soup.object("recipe").object("repeats").numbers("scores"),
        caveats=soup.texts("caveats") if soup.has("caveats") else (),
        rank=_truncated(soup.object("adapter")) if soup.has("adapter") else None,
        versions=soup.object("versions").shown(),
        evaluations=own,
        other_metrics=tuple(dict.fromkeys(line.metric for line in lines if line not in own)),
    )


def _evaluations(path: Path) -> tuple[Evaluation, ...]:
    """One per line; none without the file, as when a score command judged the candidates."""
    return tuple(map(_evaluation, lines_of(path))) if path.exists() else ()


def _evaluation(fields: Fields) -> Evaluation:
    return Evaluation(
        model=fields.text("model"),
        kind=cast(Kind, fields.one_of("kind", get_args(Kind))),
        members=fields.texts("members") if fields.has("members") else (),
        split=fields.text("split"),
        role=fields.text("role"),
        metric=fields.text("metric"),
        value=fields.number_or_none("value"),
        low=fields.number_or_none("low"),
        high=fields.number_or_none("high"),
        n=fields.integer_or_none("n"),
        versus=_versus(fields.object("versus")) if fields.has("versus") else None,
        reliability=_reliability(fields.object("calibration"))
        if fields.has("calibration")
        else None,
    )


def _reliability(fields: Fields) -> Reliability:
    bins = [
        Bin(one.number("confidence"), one.number("accuracy"), one.integer("n"))
        for one in fields.objects("bins")
    ]
    return Reliability(fields.number("ece"), tuple(bins))


def _by_tensor(merge: Fields) -> dict[str, tuple[float, ...]]:
    weights = merge.object("by_tensor")
    divisor = merge.number_or_none("divisor") or 1.0
    return {name: tuple(w / divisor for w in weights.numbers(name)) for name in weights.values}


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
        test=fields.text_or_empty("test"),
        verdict=cast(Verdict, fields.one_of("verdict", get_args(Verdict))),
    )


def _tasting(fields: Fields) -> Tasting:
    return Tasting(
        candidate=fields.text("candidate"),
        members=fields.texts("members"),
        score=fields.number_or_none("score"),
        kept=fields.flag("kept"),
        reason=fields.text_or_empty("reason"),
        margin=fields.number_or_none("margin"),
        examples=fields.integer_or_none("examples"),
        bound=fields.number_or_none("bound"),
    )


def _ingredient(fields: Fields) -> Ingredient:
    return Ingredient(
        name=fields.text("name"),
        path=fields.text_or_empty("path"),
        sha256=fields.text_or_empty("sha256"),
        nbytes=fields.integer_or_none("bytes"),
        weight=fields.number_or_none("weight"),
        hyperparameters=fields.scalars("hyperparameters"),
    )


def _split(splits: Fields, name: str) -> Split:
    fields = splits.object(name)
    digest = fields.text_or_empty("digest")
    return Split(name, fields.text("role"), fields.integer_or_none("n"), digest)


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
