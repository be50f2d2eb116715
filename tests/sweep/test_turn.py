"""Two at one run: whoever began last goes on, and the other one writes nothing more."""

from __future__ import annotations

import fcntl
import threading
import time

import pytest

from ladle.errors import OutputExists, Overtaken
from ladle.files import claimed, part_of
from ladle.sweep import Constant, Space, sweep
from ladle.sweep.turn import Turn
from sweep_files import files
from toy_task import PointsTask

SPACE = Space(lr=Constant(0.05), epochs=Constant(2), batch_size=Constant(16))
"""Runs of 8 steps."""


def test_where_locks_do_not_reach_the_one_that_was_overtaken_stops(tmp_path, monkeypatch):
    sweep(PointsTask(), tmp_path / "alone", runs=1, space=SPACE)
    # As on storage that knows the locks of one machine only.
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    shared = tmp_path / "shared"
    told = []

    def overtake(progress):
        if progress.moment and progress.moment.step == 3:
            sweep(PointsTask(), shared, runs=1, space=SPACE, on_step=told.append)

    with pytest.raises(Overtaken, match="taken over run-0000"):
        sweep(PointsTask(), shared, runs=1, space=SPACE, on_step=overtake)
    assert told[-1].score is not None
    assert files(shared) == files(tmp_path / "alone")


def test_a_turn_ends_when_another_begins(tmp_path):
    first = Turn(tmp_path)
    first.check()
    second = Turn(tmp_path)
    with pytest.raises(Overtaken):
        first.end()
    second.end()
    assert not list(tmp_path.iterdir())
    with pytest.raises(Overtaken):
        second.check()


def test_a_claim_waits_for_another(tmp_path):
    path, order = tmp_path / "out", []

    def first():
        with claimed(path):
            held.set()
            time.sleep(0.5)
            order.append("first")

    held = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with pytest.raises(OutputExists, match="another ladle is at work"), claimed(path):
        pass
    with claimed(path, patience=60) as part:
        order.append("second")
        assert part == part_of(path)
    thread.join()
    assert order == ["first", "second"]


def test_a_claim_that_waited_is_not_of_what_was_finished_meanwhile(tmp_path):
    """The folder that it had its lock in was renamed; what it gets is a new one."""
    path = tmp_path / "out"

    def first():
        with claimed(path) as part:
            held.set()
            time.sleep(0.5)
            part.rename(path)

    held = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with claimed(path, patience=60) as part:
        assert path.is_dir()
        assert part.is_dir()
    thread.join()
