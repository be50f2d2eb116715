"""The digits as a task that counts its forward passes, and the command line in this process."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from digits import EXAMPLE
from ladle.cli import main

# Every forward pass leaves a line; the process dies in the middle of the one that DIE_AT names.
COUNTED = f"""
import os, signal, sys
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, {str(EXAMPLE.parent)!r})
from digits_task import Digits
class Counted(Digits):
    digest = "DIGEST"
    def note(self, pass_):
        log = Path(__file__).with_name("passes.log")
        done = len(log.read_text().split()) if log.exists() else 0
        if os.environ.get("DIE_AT") == str(done):
            os.kill(os.getpid(), signal.SIGKILL)
        with log.open("a") as file:
            file.write(pass_ + "\\n")
    def predict(self, model, split, **options):
        self.note(split)
        return super().predict(model, split, **options)
class Some(Counted):
    def arranged(self, split, order, *, batch_size):
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    def predict_some(self, model, split, batches, *, device):
        self.note(f"{{split}}:{{sum(map(len, batches))}}")
        for batch in batches:
            yield model(torch.from_numpy(self.images[split][batch])).numpy()
"""


def write_counted(
    file: Path, name: str = "Counted", *, digest: str = "counted", further: str = ""
) -> str:
    """The task of this name, in a file that it leaves `passes.log` beside; `further` is code."""
    file.write_text(COUNTED.replace("DIGEST", digest) + further)
    return f"{file}:{name}"


def passes(task: str) -> list[str]:
    """The splits that a model was run on since this was last asked; `test:50` for 50 examples."""
    log = Path(task.rpartition("/")[0], "passes.log")
    lines = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def run_here(*arguments: object, cwd: Path | None = None) -> Any:
    """A command in this process: to start another takes seconds."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        _inside(cwd or Path.cwd()),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(one) for one in arguments])
    return subprocess.CompletedProcess([], ended.value.code, stdout.getvalue(), stderr.getvalue())


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def complaint(done: Any, exit_code: int = 2) -> str:
    """The one sentence that a command ended with."""
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("ladle: ")
    return str(sentence)
