"""Learned soups whose slopes are computed by actors of a real cluster, some of which die at it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from machines import nodes
from ray.cluster_utils import Cluster as LocalCluster

import ladle
from digits import TASK, Digits, make_runs
from ladle.cluster import Cluster, Workers
from ladle.errors import LadleError
from ladle.evaluate import Evaluator
from ladle.soup import Soup
from ladle.tasks import Task
from ladle.tasks.load import loader

pytestmark = pytest.mark.slow
LADLE = Path(sys.executable).with_name("ladle")
WAYS: list[dict[str, Any]] = [
    {"by_layer": True, "epochs": 2},
    {"affine": True, "ingredients_per_step": 2, "examples_per_step": 64, "epochs": 1},
]


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    """Two nodes with two CPUs each; this process is connected to them."""
    # What the tests define has to reach the workers by value: they cannot import it.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with nodes(2, 2, connected=True) as found:
        yield found


@pytest.fixture
def cluster(local: LocalCluster) -> Cluster:
    return Cluster(ray, local.address)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"))


def hands(cluster: Cluster, count: int) -> Workers:
    return Workers(cluster, loader(TASK), ladle.load_task(TASK), count=count)


def learned(runs: list[Path], crew: Workers | None = None, **way: Any) -> Soup:
    return ladle.learned(ladle.open(runs), Evaluator(Digits(), forward=crew, crew=crew), **way)


def said(soup: Soup) -> list[Any]:
    return [soup.merge.record(), soup.tastings, dict(soup.options), soup.caveats]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_learns_what_one_process_does(
    cluster: Cluster, runs: list[Path], count: int
) -> None:
    with hands(cluster, count) as crew:
        for way in WAYS:
            assert said(learned(runs, crew, **way)) == said(learned(runs, **way))


def where(evaluator: Evaluator, item: object) -> int:
    return os.getpid()


def die(evaluator: Evaluator, item: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(Workers):
    """Kills a worker in every eighth step."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.killed: set[int] = set()
        self.steps = 0

    def each(self, work: Any, items: Any, /) -> Iterator[Any]:
        for i, result in enumerate(super().each(work, items)):
            if i == 1:
                self.steps += 1
                if self.steps % 8 == 1:
                    (victim,) = super().each(where, [None])
                    os.kill(victim, signal.SIGKILL)
                    self.killed.add(victim)
            yield result


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_workers_that_are_killed_change_nothing(
    cluster: Cluster, runs: list[Path], way: dict[str, Any]
) -> None:
    with Deadly(cluster, loader(TASK), ladle.load_task(TASK), count=2) as crew:
        found = learned(runs, crew, **way)
    assert crew.killed
    assert said(found) == said(learned(runs, **way))


def test_work_that_kills_every_worker_is_an_error(cluster: Cluster) -> None:
    with hands(cluster, 2) as crew, pytest.raises(LadleError, match="4 workers were lost one"):
        list(crew.each(die, [1]))


def crash() -> Task:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_workers_that_die_loading_the_task_are_an_error(cluster: Cluster) -> None:
    with pytest.raises(LadleError, match="4 workers died while they loaded the task"):
        Workers(cluster, crash, ladle.load_task(TASK), count=1)


def size(evaluator: Evaluator, shared: Any) -> tuple[int, bool]:
    from ladle.cluster import sharing

    return len(shared()), shared() is shared() and len(sharing._values) == 1


def test_what_is_shared_is_read_once_and_kept_no_longer_than_needed(cluster: Cluster) -> None:
    with hands(cluster, 1) as crew:
        for n in (3, 5):
            value = crew.share(bytes(n))
            assert list(crew.each(size, [value, value])) == [(n, True)] * 2


def test_a_removed_node_is_done_without(
    local: LocalCluster, cluster: Cluster, runs: list[Path]
) -> None:
    extra = local.add_node(num_cpus=4, object_store_memory=100 << 20)
    local.wait_for_nodes()
    removed: list[object] = []

    class Shrinking(Workers):
        def each(self, work: Any, items: Any, /) -> Iterator[Any]:
            for i, result in enumerate(super().each(work, items)):
                if i == 2 and not removed:
                    removed.append(extra)
                    local.remove_node(extra, allow_graceful=False)
                yield result

    with Shrinking(cluster, loader(TASK), ladle.load_task(TASK), count=8) as crew:
        found = learned(runs, crew, **WAYS[0])
    assert removed
    assert said(found) == said(learned(runs, **WAYS[0]))


def test_cook_learns_and_writes_shards_on_the_cluster(
    local: LocalCluster, runs: list[Path], tmp_path: Path
) -> None:
    """The shards too, though the workers have all the CPUs that there are."""
    for name, more in (("one", []), ("many", ["--ray", local.address])):
        given = ["cook", *map(str, runs), "--task", TASK, "--recipe", "learned", "--by-layer"]
        given += ["--epochs", "1", "--max-shard-size", "4KB", "-o", str(tmp_path / name / "soup")]
        done = subprocess.run(
            [str(LADLE), *given, *more], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    one, many = tmp_path / "one" / "soup", tmp_path / "many" / "soup"
    weights = {file.name: file.read_bytes() for file in one.glob("model*")}
    assert len(weights) > 2
    assert {file.name: file.read_bytes() for file in many.glob("model*")} == weights
    records = [json.loads((output / "soup.json").read_text()) for output in (one, many)]
    for key in ("recipe", "tastings", "merge", "ingredients"):
        assert records[0][key] == records[1][key]
