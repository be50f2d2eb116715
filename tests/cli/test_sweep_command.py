"""What `ladle sweep` would run, and which spaces it refuses before it runs anything."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

import toy_task
from ladle.cli import main
from ladle.cli.sweep_command import command
from ladle.sweep import Space
from ladle.sweep.points import POINTS

TASK = f"{toy_task.__file__}:PointsTask"


def sweep(*arguments: object) -> object:
    """The exit code of a dry run."""
    given = ["sweep", "--task", TASK, "--output", "out", "--dry-run", *map(str, arguments)]
    with pytest.raises(SystemExit) as exit_:
        main(given)
    return exit_.value.code


@pytest.mark.parametrize("points", ["random", "sobol"])
def test_a_dry_run_lists_the_configurations(capsys, tmp_path, monkeypatch, points):
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text('like = "paper-text"\nepochs = 7\n')
    flags = ("--runs", 3, "--seed", 2, "--space", "own.toml", "--points", points)
    assert sweep(*flags, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    runs = Space.read("own.toml").runs(2, 3, points)
    assert said["runs"] == [
        {"name": f"run-000{number}", "run": asdict(run)} for number, run in enumerate(runs)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["own.toml"]


def test_a_table_shows_in_what_the_runs_differ(capsys):
    assert sweep("--runs", 40, "--space", "paper-vision") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "lr", "weight_decay", "epochs", "label_smoothing", "augmentation", "mixup"
    ]  # fmt: skip
    assert len(lines) == 41
    assert any("rand-m" in line for line in lines)


def test_one_run_alone_differs_in_nothing(capsys):
    assert sweep("--runs", 1) == 0
    assert capsys.readouterr().out.split() == ["run-0000"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--space", "paper-visoin"), "no space 'paper-visoin' (did you mean 'paper-vision'?)"),
        (("--space", "none.toml"), "none.toml does not exist"),
        (("--space", "paper-text", "--points", "grid"), "lr is not from a list of values"),
        (("--seed", "-1"), "at least 0, not -1"),
        (("--points", "halton"), "'halton' is not one of"),
    ],
)
def test_a_wrong_space_ends_with_one_sentence_and_2(capsys, flags, says):
    assert sweep(*flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "Traceback" not in err


def test_the_command_knows_the_points_that_there_are():
    (points,) = (one for one in command.params if one.name == "points")
    assert tuple(points.type.to_info_dict()["choices"]) == POINTS
