"""Learned soups whose slopes are computed by actors of a real cluster, some of which die at it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import ladle
from digits import TASK, Digits, make_runs
from ladle.cluster.crew import RayCrew, crew
from ladle.cluster.tasks import LostWork
from ladle.errors import BadTask
from ladle.evaluate import Evaluator
from ladle.soup import Soup

pytestmark = pytest.mark.slow
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
WAYS: list[dict[str, Any]] = [
    {"by_layer": True, "epochs": 2},
    {"affine": True, "ingredients_per_step": 2, "examples_per_step": 64, "epochs": 1},
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with two CPUs each; this process is connected to them."""
    # What the tests define has to reach the workers by value: they cannot import it.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    node = {**NODE, "num_cpus": 2}
    found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        found.add_node(**node)
        ray.init(found.address, log_to_driver=False, configure_logging=False)
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"))


def make() -> Evaluator:
    return Evaluator(ladle.load_task(TASK))


def learned(runs: list[Path], crew: RayCrew | None = None, **way: Any) -> Soup:
    return ladle.learned(ladle.open(runs), Evaluator(Digits(), crew=crew), **way)


def said(soup: Soup) -> list[Any]:
    return [soup.merge.record(), soup.tastings, dict(soup.options), soup.caveats]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_learns_what_one_process_does(
    cluster: Cluster, runs: list[Path], workers: int
) -> None:
    with crew(make, workers) as hands:
        for way in WAYS:
            assert said(learned(runs, hands, **way)) == said(learned(runs, **way))


def _where(evaluator: Evaluator, item: object) -> int:
    return os.getpid()


def _die(evaluator: Evaluator, item: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_are_killed_change_nothing(cluster: Cluster, runs: list[Path]) -> None:
    killed: list[int] = []

    class Deadly(RayCrew):
        """Kills a worker in every eighth step."""

        steps = 0

        def each(self, work: Any, items: Any, /) -> Iterator[Any]:
            results = super().each(work, items)
            for i, result in enumerate(results):
                if i == 1:
                    self.steps += 1
                    if self.steps % 8 == 1:
                        victim = next(iter(super().each(_where, [None])))
                        os.kill(victim, signal.SIGKILL)
                        killed.append(victim)
                yield result

    hands = Deadly(make, 2, 1, 0)
    try:
        found = learned(runs, hands, **WAYS[0])
    finally:
        hands.close()
    assert len(set(killed)) >= 2
    assert said(found) == said(learned(runs, **WAYS[0]))


def test_work_that_kills_every_worker_is_an_error(cluster: Cluster) -> None:
    with crew(make, 2) as hands, pytest.raises(LostWork, match="3 workers died at one piece"):
        list(hands.each(_die, [1, 2]))


def _cannot() -> Evaluator:
    raise BadTask("the data are not here")


def _crash() -> Evaluator:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_worker_that_cannot_load_the_task_says_why(cluster: Cluster) -> None:
    with crew(_cannot, 2) as hands, pytest.raises(BadTask, match="the data are not here"):
        list(hands.each(_where, [1]))
    with crew(_crash, 2) as hands, pytest.raises(LostWork, match="while they loaded the task"):
        list(hands.each(_where, [1]))


def test_a_node_that_is_removed_is_done_without(cluster: Cluster, runs: list[Path]) -> None:
    extra = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    removed: list[object] = []

    class Shrinking(RayCrew):
        def each(self, work: Any, items: Any, /) -> Iterator[Any]:
            for i, result in enumerate(super().each(work, items)):
                if i == 2 and not removed:
                    removed.append(extra)
                    cluster.remove_node(extra, allow_graceful=False)
                yield result

    hands = Shrinking(make, 5, 1, 0)
    try:
        found = learned(runs, hands, **WAYS[0])
    finally:
        hands.close()
    assert removed
    assert said(found) == said(learned(runs, **WAYS[0]))
