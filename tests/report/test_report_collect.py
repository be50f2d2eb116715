"""Reading the records: what is wrong is named, with what to do."""

from __future__ import annotations

import json
import re

import pytest

from ladle.errors import BadInput
from ladle.report.collect import collect


def test_everything_in_the_sample_is_read(soup, lines, write):
    record = collect(write(soup, lines))
    assert (record.recipe, record.options) == ("greedy", {"strict": "false"})
    assert len(record.ingredients) == 5
    assert len(record.pool) == 8
    assert [split.name for split in record.splits] == list(soup["splits"])
    assert len(record.evaluations) == len(lines)
    assert record.metric is not None
    assert record.metric.percent


@pytest.mark.parametrize("version", [2, None, "1", True])
def test_another_version_is_refused(soup, write, version):
    with pytest.raises(BadInput, match=rf"has version {re.escape(json.dumps(version))}"):
        collect(write(soup | {"version": version}, []))


def test_missing_evaluations_are_no_error(soup, write):
    assert collect(write(soup, None)).evaluations == ()


def test_a_damaged_line_is_named(soup, lines, write):
    folder = write(soup, lines[:2])
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write('{"model": "ru')
    with pytest.raises(BadInput, match=r"evaluations\.jsonl, line 3 is not JSON"):
        collect(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", 3, "`model` should be a string, found 3"),
        ("kind", "stew", "`kind` is 'stew', known are base, single, soup, curve, ensemble"),
        ("value", "high", '`value` should be a number, found "high"'),
        ("n", True, "`n` should be an integer, found true"),
        ("members", [1], "`members` should be a list of strings"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(soup, lines, write, key, value, message):
    lines[4][key] = value
    with pytest.raises(BadInput, match=rf"line 5.*{re.escape(message)}"):
        collect(write(soup, lines))


def test_a_score_that_is_not_finite_is_unknown(soup, lines, write):
    soup["tastings"][2]["score"] = float("nan")
    assert collect(write(soup, lines)).tastings[2].score is None


def test_percentages_printed_by_a_score_command_are_left_alone(soup, write):
    for tasting in soup["tastings"]:
        tasting["score"] *= 100
    metric = collect(write(soup, None)).metric
    assert metric is not None
    assert not metric.percent


def test_a_soup_made_from_python_has_no_command(soup, lines, write):
    assert collect(write(soup | {"command": None}, lines)).command == ""


def test_other_metrics_are_named_and_not_mixed_in(soup, lines, write):
    record = collect(write(soup, [*lines, lines[0] | {"metric": "nll", "value": 0.9}]))
    assert len(record.evaluations) == len(lines)
    assert record.other_metrics == ("nll",)
