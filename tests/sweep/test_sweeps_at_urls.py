"""Sweeps whose folder lies behind a URL: what a disk would have, whichever machine goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from buckets import BUCKET, contents, s3_server
from ladle.errors import BadInput
from ladle.location import located
from ladle.sweep import Keeping, Space, sweep
from toy_task import PointsTask

TESTS = Path(__file__).parents[1]
SPACE = Space.from_table({"epochs": 3, "batch_size": 4, "dropout": 0.1}, "the test")
KEEPING = Keeping(save_every=5, score_every=4, ema=(0.9,))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LADLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://sweeps/one"
    fsspec.filesystem("memory").rm("/sweeps", recursive=True)


def timeless(found: dict[str, bytes]) -> dict[str, object]:
    """Without how long it took, and Optuna's book, which has dates."""
    return {
        name: {**json.loads(content), "seconds": None} if name.endswith("run.json") else content
        for name, content in found.items()
        if name != "optuna.journal" and not name.endswith("report.html")
    }


def test_a_sweep_has_what_that_of_a_disk_has(memory: str, tmp_path: Path, cache: Path) -> None:
    more = {"runs": 2, "space": SPACE, "keeping": KEEPING}
    sweep(PointsTask(), tmp_path / "disk", **more)
    folders = sweep(PointsTask(), memory, **more)
    found = contents(located(memory))
    assert timeless(found) == timeless(contents(tmp_path / "disk"))
    assert any("/steps/" in name for name in found)
    assert b"run-0001" in found["optuna.journal"]
    assert [str(folder) for folder in folders] == [f"{memory}/run-0000", f"{memory}/run-0001"]
    assert not list((cache / "outputs").iterdir())
    # Nothing is left to do, and more can be asked for.
    assert sweep(PointsTask(), memory, **more) == folders
    assert contents(located(memory)).keys() == found.keys()
    assert len(sweep(PointsTask(), memory, **{**more, "runs": 3})) == 3
    with pytest.raises(BadInput, match="one holds another sweep: seed is 0 there and 1 here"):
        sweep(PointsTask(), memory, **more, seed=1)


def test_failed_runs_are_tried_again(memory: str) -> None:
    wild = Space.from_table({"epochs": 3, "batch_size": 4, "lr": 1e30}, "the test")
    assert sweep(PointsTask(), memory, runs=1, space=wild) == []
    before = contents(located(memory))["run-0000/run.json"]
    assert json.loads(before)["failed"]
    assert sweep(PointsTask(), memory, runs=1, space=wild, retry_failed=True) == []
    assert contents(located(memory))["run-0000/run.json"] != before


@pytest.mark.slow
def test_another_machine_goes_on_where_one_was_killed(tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text("epochs = {choice = [40, 44]}\nbatch_size = 1\ndropout = 0.1\n")

    def command(output: str) -> list[str]:
        return [
            sys.executable, "-m", "ladle", "sweep", "--task", f"{TESTS / 'toy_task.py'}:PointsTask",
            "--runs", "2", "--space", str(space), "--ema", "0.9", "--save-every", "500",
            "--output", output,
        ]  # fmt: skip

    with s3_server():
        url = f"{BUCKET}/sweep"
        subprocess.run(command(str(tmp_path / "whole")), check=True, capture_output=True)
        for machine in range(2):
            environment = {**os.environ, "LADLE_CACHE": str(tmp_path / f"machine-{machine}")}
            before = states(url)
            said = tmp_path / f"machine-{machine}.log"
            with said.open("w") as log:
                process = subprocess.Popen(command(url), env=environment, stdout=log, stderr=log)
            deadline = time.monotonic() + 120
            while states(url) == before:
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.kill()
            process.wait()
        environment["LADLE_CACHE"] = str(tmp_path / "another")
        done = subprocess.run(
            command(url), env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = contents(located(url))
        assert timeless(found) == timeless(contents(tmp_path / "whole"))
        assert "report.html" in found
        # It makes a soup, too.
        soup = [sys.executable, "-m", "ladle", "average", url, "-o", f"{BUCKET}/soup"]
        subprocess.run(soup, env=environment, check=True, capture_output=True)
        assert "soup.json" in contents(located(f"{BUCKET}/soup"))
        assert not list((tmp_path / "another" / "outputs").iterdir())


def states(url: str) -> dict[str, object]:
    """The states of runs under way."""
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    found = store.glob(f"{url}/*.part/state.pt")
    return {name: store.info(name)["LastModified"] for name in found if store.exists(name)}
