"""The digits as tasks that workers load from this file, and that can be slowed down."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS), str(TESTS / "evaluate"), str(TESTS.parent / "examples")]

from digits_task import Digits  # noqa: E402

MARKS = "LADLE_TEST_MARKS"
"""A folder; while it has a file `slow`, every evaluation along a course leaves a file in it that is
named for the process, and takes its time."""
PAUSE = 0.05


def some(task: Any, model: Any, split: str, batches: Any) -> Any:
    folder = Path(os.environ.get(MARKS, "none"))
    slow = (folder / "slow").exists()
    for number, batch in enumerate(batches):
        if slow:
            if number == 1:
                (folder / f"{time.monotonic_ns()}-{os.getpid()}").touch()
            time.sleep(PAUSE)
        yield model(torch.from_numpy(task.images[split][batch])).cpu().numpy()


def arranged(order: Any, batch_size: int) -> Any:
    return np.split(order, range(batch_size, len(order), batch_size))


class SlowDigits(Digits):
    def arranged(self, split: str, order: Any, *, batch_size: int) -> Any:
        return arranged(order, batch_size)

    def predict_some(self, model: Any, split: str, batches: Any, *, device: Any) -> Any:
        yield from some(self, model, split, batches)


class SharedDigits(SlowDigits):
    """Of which several models may say a part each."""

    def in_batches(self, split: str, *, batch_size: int) -> Any:
        # Not in the order of the split, as texts by length are not.
        return arranged(np.arange(len(self.splits[split]))[::-1], batch_size)

    def predict(self, model: Any, split: str, *, device: Any, batch_size: int, advance: Any) -> Any:
        logits = np.empty((len(self.splits[split]), 10), np.float32)
        batches = self.in_batches(split, batch_size=batch_size)
        said = self.predict_some(model, split, batches, device=device)
        for batch, rows in zip(batches, said, strict=True):
            logits[batch] = rows
            advance(len(batch))
        return logits


def normalised() -> Any:
    from test_early_exit_on_models import SomeNormalisedDigits

    return SomeNormalisedDigits()


task = SlowDigits
shared = SharedDigits
