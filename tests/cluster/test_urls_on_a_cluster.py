"""Nodes that share nothing but an S3 server: sweeps, soups and merges behind its URLs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from machines import nodes, wait_for
from ray.cluster_utils import Cluster
from slow_points import STEPS, steps, write_slow

from buckets import BUCKET, contents, s3_server
from digits import TASK, make_runs
from ladle.location import located
from states import generator, save_shards

pytestmark = pytest.mark.slow
LADLE = Path(sys.executable).with_name("ladle")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a CPU each, and an S3 server that they reach."""
    with s3_server(), nodes(1, 1) as found:
        yield found


def started(*command: object) -> subprocess.Popen[str]:
    # One thread, as a worker has.
    return subprocess.Popen(
        [LADLE, *map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def done(*command: object, exit_code: int = 0) -> str:
    """What it says on stderr."""
    process = started(*command)
    _, said = process.communicate(timeout=300)
    assert process.returncode == exit_code, said
    return said


def timeless(found: dict[str, bytes]) -> dict[str, Any]:
    """Without dates, and how long it took; a page has both."""
    kept: dict[str, Any] = {}
    for name, content in found.items():
        if name.endswith((".json", "evaluations.jsonl")):
            kept[name] = [
                {**json.loads(line), "seconds": 0} if line.startswith(b"{") else line
                for line in (content.splitlines() if name.endswith("l") else [content])
            ]
        elif not name.endswith((".journal", "report.html", ".sqlite")):
            kept[name] = content
    return kept


def states(url: str) -> list[str]:
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    return list(store.glob(f"{url}/run-*.part/state.pt"))


def test_a_sweep_whose_worker_is_killed_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    write_slow(tmp_path, epochs=9)  # Time for states to get there.
    asked = ["sweep", "--task", f"{tmp_path}/task.py:Slow", "--space", f"{tmp_path}/space.toml"]
    asked += ["--runs", "2", "--save-every", "60"]
    done(*asked, "-o", tmp_path / "alone")
    (tmp_path / "steps.log").touch()
    url = f"{BUCKET}/sweep"
    process = started(*asked, "-o", url, "--ray", cluster.address)
    wait_for(lambda: len(states(url)) == 2 and len(steps(tmp_path)) >= 140)
    killed = steps(tmp_path)[-1]
    os.kill(killed, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "died" in said
    assert "on held-out" in said or "on dev" in said
    assert timeless(contents(located(url))) == timeless(contents(tmp_path / "alone"))
    # It was not begun anew.
    assert 2 * 3 * STEPS <= len(steps(tmp_path)) < 2 * 3 * STEPS + steps(tmp_path).count(killed)
    # Nothing is left to do, and it is found so.
    before = len(steps(tmp_path))
    done(*asked, "-o", url, "--ray", cluster.address)
    assert len(steps(tmp_path)) == before


def test_nodes_send_their_shards(cluster: Cluster, tmp_path: Path) -> None:
    store = fsspec.filesystem("s3")
    for i in range(3):
        state = {f"layer.{j}.weight": generated(i, j) for j in range(6)}
        save_shards(tmp_path / "runs" / f"run-{i}", state, 3)
    store.put(str(tmp_path / "runs"), f"{BUCKET}/runs", recursive=True)
    asked = ["average", f"{BUCKET}/runs/*", "--max-shard-size", "2MB"]
    done(*asked, "-o", tmp_path / "soup")
    for more in ([], ["--overwrite"]):
        done(*asked, "-o", f"{BUCKET}/soup", "--ray", cluster.address, *more)
        found = contents(located(f"{BUCKET}/soup"))
        own = contents(tmp_path / "soup")
        assert found.keys() == own.keys()
        shards = [name for name in own if name.startswith("model")]
        assert len(shards) >= 4
        assert [found[name] for name in shards] == [own[name] for name in shards]
        assert contents(located(f"{BUCKET}/soup.part")) == {}
    # Each node has a memory of its own.
    said = done(*asked, "-o", "memory://soups/soup", "--ray", cluster.address, exit_code=2)
    assert "is not there for" in said
    assert "name an --output on storage that all machines share" in said


def generated(i: int, j: int) -> Any:
    import torch

    return torch.randn(500, 500, generator=generator(10 * i + j))


def test_cook_reads_and_writes_urls(cluster: Cluster, tmp_path: Path) -> None:
    make_runs(tmp_path, 3)
    store = fsspec.filesystem("s3")
    for run in tmp_path.glob("run-*.pt"):
        store.put(str(run), f"{BUCKET}/digits/{run.name}")
    asked = ["cook", f"{BUCKET}/digits/run-*.pt", "--task", TASK]
    done(*asked, "-o", tmp_path / "soup")
    done(*asked, "-o", f"{BUCKET}/cooked", "--ray", cluster.address)
    found, own = contents(located(f"{BUCKET}/cooked")), contents(tmp_path / "soup")
    assert found.keys() == own.keys()
    for name in ("model.safetensors", "evaluations.jsonl"):
        assert found[name] == own[name]
