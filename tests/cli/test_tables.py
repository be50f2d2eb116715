"""Tables on a terminal, in a pipe and where there is little room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from digits import TASK, make_runs
from ladle.cli import evaluations, screen

LADLE = Path(sys.executable).with_name("ladle")
SPLITS = ["held-out", "test", "amazon", "tweets"]
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

BETTER, WORSE, SAME = "better", "worse", "no difference that this set can show"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours, as on a terminal of 80 columns."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)


def row(model: str, split: str, value: float, verdict: str | None = None, **more: Any) -> Any:
    return {
        "model": model, "split": split, "metric": "accuracy", "value": value,
        "low": value - 0.0123, "high": value + 0.0123,
        "versus": None if verdict is None else {"model": "run-0", "verdict": verdict},
        **more,
    }  # fmt: skip


def rows(*names: str) -> list[Any]:
    return [
        row(name, split, 0.8 + 0.001 * i + 0.01 * j, [None, BETTER, WORSE, SAME][i % 4])
        for i, name in enumerate(names or ("run-0", "run-1", "run-2", "uniform soup"))
        for j, split in enumerate(SPLITS)
    ]


def test_in_a_pipe_the_table_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    evaluations.show(rows(), higher_is_better=True)
    assert capsys.readouterr().out == (
        "              held-out     test   amazon   tweets\n"
        "run-0          80.00    81.00    82.00    83.00\n"
        "run-1          80.10 +  81.10 +  82.10 +  83.10 +\n"
        "run-2          80.20 -  81.20 -  82.20 -  83.20 -\n"
        "uniform soup   80.30 =  81.30 =  82.30 =  83.30 =\n"
        "accuracy; against run-0: + better, - worse, = no difference that this set can show "
        "(paired test, p < 0.05)\n"
    )


def test_intervals_stand_below_and_fit_into_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluations.show(rows(), higher_is_better=True, intervals=True)
    out = capsys.readouterr().out.splitlines()
    assert out[3] == (
        "run-1                80.10 +         81.10 +         82.10 +         83.10 +"
    )
    assert out[4] == (
        "              [78.87, 81.33]  [79.87, 82.33]  [80.87, 83.33]  [81.87, 84.33]"
    )
    assert max(map(len, out[:-1])) <= 80
    assert out[-1].startswith("accuracy [95 % interval]; against run-0: + better")


def test_colours_say_what_the_marks_say(capsys: pytest.CaptureFixture[str], terminal: None) -> None:
    evaluations.show(rows(), higher_is_better=True, intervals=True)
    out = capsys.readouterr().out
    assert out.count("\x1b[32m+\x1b[0m") == out.count("\x1b[31m-\x1b[0m") == len(SPLITS)
    bold = re.findall(r"\x1b\[1m(.*?)\x1b\[0m", out)
    assert bold == ["80.30", "81.30", "82.30", "83.30"]
    plain = [line.rstrip() for line in ESCAPES.sub("", out).splitlines()]
    os.environ.pop("FORCE_COLOR")
    evaluations.show(rows(), higher_is_better=True, intervals=True)
    assert plain == capsys.readouterr().out.splitlines()


def test_the_best_is_the_lowest_where_lower_is_better_and_all_that_are_equal(
    capsys: pytest.CaptureFixture[str], terminal: None
) -> None:
    found = [
        row(name, "test", value, metric="log loss")
        for name, value in [("a", 0.5), ("b", 0.25), ("c", float("nan")), ("d", 0.25)]
    ]
    evaluations.show(found, higher_is_better=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines if "\x1b[1m0.25\x1b[0m" in line] == ["b", "d"]
    assert ESCAPES.sub("", lines[3]).split() == ["c", "-"]


def test_a_score_that_json_could_not_keep_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    found = [row("a", "test", 0.5), {**row("b", "test", 0.5), "value": None, "low": None}]
    evaluations.show(found, higher_is_better=True, intervals=True)
    assert capsys.readouterr().out.splitlines()[3:] == [
        "b             -",
        "accuracy [95 % interval]",
    ]


def test_what_does_not_fit_goes_on_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    evaluations.show(rows(), higher_is_better=True, intervals=True)
    out = capsys.readouterr().out
    above, below = out.split("\n\n")
    assert above.splitlines()[0].split() == ["held-out", "test"]
    assert below.splitlines()[0].split() == ["amazon", "tweets"]
    for block in (above, below):
        for name in ("run-0", "run-1", "run-2", "uniform soup"):
            assert f"\n{name} " in block
    assert max(map(len, out.splitlines()[:-1])) <= 50


def test_a_long_name_is_folded_and_never_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "sweep-of-the-eleventh/" + "x" * 60 + "/checkpoint-1000"
    evaluations.show(rows("run-0", name), higher_is_better=True)
    assert f"\n{name}  " in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "60")
    evaluations.show(rows("run-0", name), higher_is_better=True)
    out = capsys.readouterr().out
    block = out.split("\n\n")[0]
    assert "".join(line[:30].strip() for line in block.splitlines()[2:]).startswith(name)
    assert max(map(len, out.splitlines()[:-1])) <= 60


def test_a_column_wider_than_the_terminal_has_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    screen.print_table(["", "n" * 30, "m"], [["a", "1", "2"]])
    assert capsys.readouterr().out.splitlines() == [
        "   " + "n" * 30, "a  " + "1".rjust(30), "", "   m", "a  2",
    ]  # fmt: skip


def test_a_name_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_table(["", "n"], [["[bold]run[/bold] :smile:", "1"], [r"\[x]", "2"]])
    assert "[bold]run[/bold] :smile:  1\n" in capsys.readouterr().out


NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), max_size=30)


@given(
    st.lists(st.tuples(NAMES, st.lists(NAMES, min_size=3, max_size=3)), min_size=1, max_size=5),
    st.integers(2, 120),
)
def test_no_character_is_lost_at_any_width(table: list[tuple[str, list[str]]], width: int) -> None:
    import contextlib
    import io

    lines = [[name, *cells] for name, cells in table]
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setenv("COLUMNS", str(width))
        screen.print_table(["", "a", "b", "c"], lines)
    found = "".join(shown.getvalue().split())
    for character in set("".join("".join(line) for line in lines)):
        wanted = sum(line.count(character) for row in lines for line in row)
        assert found.count(character) >= wanted


def test_cells_of_several_lines_are_right_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_table(["", "long header"], [["a", Text("1\n22")], ["b", "333"]])
    assert capsys.readouterr().out.splitlines() == [
        "   long header",
        "a            1",
        "            22",
        "b          333",
    ]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there are no such terminals")
def test_a_real_terminal_gets_colours_and_its_own_width(tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    files = map(str, make_runs(tmp_path, 2))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    process = subprocess.Popen(
        [str(LADLE), "evaluate", *files, "--task", TASK],
        stdout=theirs, stderr=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    out = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Nobody writes any more.
            break
        if not chunk:
            break
        out += chunk
    os.close(ours)
    assert process.wait(timeout=300) == 0
    assert b"\x1b[1m" in out
    *table, legend = ESCAPES.sub("", out.decode()).splitlines()
    assert max(len(line) for line in table) <= 50
    assert legend.startswith("accuracy [95 % interval]; against run-")
    assert sum(line.startswith("run-0.pt") for line in table) == 2
