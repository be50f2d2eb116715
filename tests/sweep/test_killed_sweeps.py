"""Real processes: killed at any moment and started again; and two that share the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parents[1]
SPACE = """
epochs = {choice = [40, 44]}
batch_size = 1
dropout = 0.1
"""
"""Runs of 2,000 or 2,200 steps: more than a few starts get through."""


def command(space, output, *more):
    return [
        "-m", "ladle", "sweep", "--task", f"{TESTS / 'toy_task.py'}:PointsTask", "--runs", "2",
        "--space", str(space), "--output", str(output), *more,
    ]  # fmt: skip


def files(output):
    """The bytes of everything, but how long it took, which the page shows too."""
    found = {}
    for path in sorted(output.rglob("*")):
        name = str(path.relative_to(output))
        if path.name == "run.json":
            found[name] = {**json.loads(path.read_text()), "seconds": None}
        elif path.is_file() and path.name not in ("optuna.journal", "report.html"):
            found[name] = path.read_bytes()
    return found


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return path


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_makes_the_same_bytes(tmp_path, space):
    kept = ("--ema", "0.9", "--save-every", "500")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([sys.executable, *command(space, whole, *kept)], check=True, capture_output=True)
    chance = np.random.default_rng(0)
    for _ in range(4):
        before = states(cut)
        process = subprocess.Popen(
            [sys.executable, *command(space, cut, *kept)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Once it has gone on, so that there is something to lose.
        deadline = time.monotonic() + 120
        while states(cut) == before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        process.wait()
        assert list(cut.glob("*.part"))
    subprocess.run([sys.executable, *command(space, cut, *kept)], check=True, capture_output=True)
    assert files(cut) == files(whole)


def states(output):
    """When the runs under way were last put down."""
    found = []
    for path in output.glob("*.part/state.pt"):
        with suppress(FileNotFoundError):
            found.append((path.parent.name, path.stat().st_mtime_ns))
    return found


@pytest.mark.slow
def test_two_processes_share_a_run(tmp_path, space):
    """Through accelerate's own launcher; what they make is what one makes, but for rounding."""
    space.write_text("epochs = 2\nbatch_size = 7\ndropout = 0.0\naugmentation = 0.0\nlr = 0.01\n")
    subprocess.run(
        [sys.executable, *command(space, tmp_path / "one")], check=True, capture_output=True
    )
    launched = [
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launched, *command(space, tmp_path / "two")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for run in ("run-0000", "run-0001"):
        one, two = (load_file(tmp_path / x / run / "model.safetensors") for x in ("one", "two"))
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
        record = json.loads((tmp_path / "two" / run / "run.json").read_text())
        assert record["step"] == 16
    # One process alone wrote and spoke.
    assert done.stderr.count("run-0001 (2 of 2)") == done.stdout.count("2 runs ->") == 1
