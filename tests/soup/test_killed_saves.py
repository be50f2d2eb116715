"""Killed at any moment, a save leaves the old soup or the new one: whole, and never a mix."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ladle.merge import Linear
from ladle.soup import Pool, Soup
from ladle.soup.output import check_output
from states import pool_of

# Saves over and over: all the weight on the first ingredient, on the second, and so on.
PROGRAM = """
import sys
from ladle.merge import Linear
from ladle.soup import Soup, open_pool
out, *paths = sys.argv[1:]
pool = open_pool(paths)
print("ready", flush=True)
i = 0
while True:
    i += 1
    Soup(pool, Linear((float(i % 2), float(1 - i % 2)))).save(out, overwrite=True)
"""


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Of zeros and of ones, in several tensors, so that a mix shows."""
    return pool_of(
        tmp_path / "runs",
        *[{f"layer{j}": torch.full((40_000,), float(i)) for j in range(5)} for i in range(2)],
    )


def kill_while_saving(out: Path, pool: Pool, seconds: float) -> None:
    paths = [str(one.checkpoint.path) for one in pool]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out), *paths], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soup", "soup.safetensors"])
def test_sigkill_leaves_the_old_or_the_new_soup(pool: Pool, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out" / name
    moments = np.random.default_rng(7)
    seen = set()
    for _ in range(25):
        kill_while_saving(out, pool, float(moments.uniform(0.0, 0.12)))
        check_output([], out, overwrite=True)  # as the next save does
        if not out.exists():
            assert not seen, "an existing output has vanished"
            continue
        file = out / "model.safetensors" if out.is_dir() else out
        values = torch.cat(list(load_file(file).values()))
        assert len(values) == 200_000
        assert values.unique().numel() == 1, "a mix of two soups"
        seen.add(float(values[0]))
        if out.is_dir():
            names = {entry.name for entry in out.iterdir()}
            assert names == {"model.safetensors", "soup.json", "README.md"}
            weights = [
                one["weight"] for one in json.loads((out / "soup.json").read_text())["ingredients"]
            ]
            assert weights[1] == values[0], "record and weights are of two soups"
    assert seen == {0.0, 1.0}, "the moments were badly chosen"
    # And the next save works and cleans up.
    Soup(pool, Linear((1.0, 0.0))).save(out, overwrite=True)
    left = {entry.name for entry in out.parent.iterdir()}
    assert left <= {name, f"{name}.json"}


@pytest.mark.slow
def test_a_killed_first_save_leaves_nothing_or_everything(pool: Pool, tmp_path: Path) -> None:
    moments = np.random.default_rng(3)
    for i in range(6):
        out = tmp_path / "out" / f"soup{i}"
        kill_while_saving(out, pool, float(moments.uniform(0.0, 0.02)))
        if out.exists():
            assert {entry.name for entry in out.iterdir()} == {
                "model.safetensors",
                "soup.json",
                "README.md",
            }
            assert len(load_file(out / "model.safetensors")) == 5
