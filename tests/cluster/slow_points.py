"""A task for sweeps whose steps take their time, and say which process took them."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
TASK = f"""
import os, sys, time
from pathlib import Path
sys.path.append({str(TESTS)!r})
from toy_task import PointsTask

LOG = Path(__file__).with_name("steps.log")
MEET = Path(__file__).with_name("meet")

class Slow(PointsTask):
    '''Says which process took a step, and takes its time.'''
    def logits(self, model, inputs):
        if model.training and LOG.exists():
            with LOG.open("a") as log:
                log.write(f"{{os.getpid()}}\\n")
            while MEET.exists() and len(set(LOG.read_text().split())) < 2:
                time.sleep(0.03)
            time.sleep(0.03)
        return super().logits(model, inputs)
"""
STEPS = 150
"""Of a run: 3 epochs of 50."""


def write_slow(folder: Path, *, epochs: int = 3) -> None:
    """task.py with the task Slow, and space.toml."""
    (folder / "task.py").write_text(TASK)
    (folder / "space.toml").write_text(f"epochs = {epochs}\nbatch_size = 1\ndropout = 0.1\n")


def steps(folder: Path) -> list[int]:
    """The processes that took a step, one for each; written once there is a steps.log."""
    return [int(line) for line in (folder / "steps.log").read_text().splitlines()]
