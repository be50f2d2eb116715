"""What frozen layers say, computed once by the workers of a real cluster, some of which die."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from machines import node_of, nodes
from ray.cluster_utils import Cluster as LocalCluster
from test_evaluating_on_a_cluster import contents, evaluator, singles, workers

import ladle
from ladle.cluster import Cluster, Workers
from ladle.cook import Kitchen, cook
from ladle.evaluate import Evaluator, Store
from ladle.soup import Pool, Soup
from ladle.tasks import TextClassification, load_task
from reviews import write_task

pytestmark = pytest.mark.slow
PIECES = 6
"""Of each split: 16 texts, three at a time."""
FROZEN = """
import os, time
from pathlib import Path
from ladle.tasks import load_task, text

HERE = Path(__file__).parent
text._STATES_BATCH, text._STATES_BATCHES = 3, 1

def task():
    found = load_task(HERE / "task.toml")
    said = found._said
    def telling(split, batches):
        with (HERE / "computed.log").open("a") as log:
            log.write(f"{split}:{int(batches[0][0][0])} {os.getpid()}\\n")
        if (HERE / "slow").exists():
            time.sleep(0.5)
        return said(split, batches)
    found._said = telling
    return found
"""


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    """Two nodes of two CPUs, beside one without, to which this process is connected."""
    with nodes(0, 2, 2, connected=True) as found:
        yield found


@pytest.fixture
def cluster(local: LocalCluster) -> Cluster:
    return Cluster(ray, local.address)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task in a file, and some runs of it."""
    folder = tmp_path_factory.mktemp("kitchen")
    write_task(folder)
    (folder / "frozen.py").write_text(FROZEN)
    task = load_task(str(folder / "task.toml"))
    assert isinstance(task, TextClassification)
    for number in range(3):
        save(task, folder / f"run-{number}", seed=number)
    return folder


def save(task: TextClassification, folder: Path, *, seed: int, frozen: bool = True) -> None:
    """A model whose head and upper layers are other than the base's, and if asked all."""
    model = task.build()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if task.trainable(name) or not frozen:
                one.add_(0.02 * torch.randn_like(one))
    folder.mkdir()
    task.save(model, folder)


@pytest.fixture
def reference(kitchen: Path) -> Iterator[str]:
    """The task, of which nothing was computed yet."""
    log(kitchen).write_text("")
    yield f"{kitchen / 'frozen.py'}:task"
    (kitchen / "slow").unlink(missing_ok=True)


def pool_of(kitchen: Path) -> Pool:
    return ladle.open(sorted(kitchen.glob("run-*")))


def log(kitchen: Path) -> Path:
    return kitchen / "computed.log"


def computed(kitchen: Path) -> Counter[str]:
    """How often each piece was."""
    return Counter(line.partition(" ")[0] for line in log(kitchen).read_text().splitlines())


def processes(kitchen: Path) -> set[int]:
    return {int(line.rpartition(" ")[2]) for line in log(kitchen).read_text().splitlines()}


def each_once(found: Counter[str], *splits: str) -> bool:
    of_splits = Counter(piece.partition(":")[0] for piece in found)
    return set(found.values()) == {1} and of_splits == dict.fromkeys(splits, PIECES)


def on_workers(crew: Workers) -> Evaluator:
    return evaluator(crew._task, crew)(Store(None), Path())


def alone(kitchen: Path) -> Evaluator:
    return evaluator(load_task(str(kitchen / "task.toml")), None)(Store(None), Path())


def said(evaluate: Evaluator, soups: list[Soup], split: str = "held-out") -> list[bytes]:
    return [evaluate.predict(soup, split).logits.tobytes() for soup in soups]


@pytest.fixture(scope="module")
def expected(kitchen: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this process makes alone."""
    output = tmp_path_factory.mktemp("one") / "soup"
    task = load_task(f"{kitchen / 'frozen.py'}:task")
    cook(pool_of(kitchen), ladle.greedy, evaluator(task, None), output)
    return contents(output)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_piece_is_computed_once_however_many_workers_there_are(
    count: int,
    cluster: Cluster,
    kitchen: Path,
    expected: dict[str, Any],
    reference: str,
    tmp_path: Path,
) -> None:
    with workers(cluster, count, reference) as crew:

        def recipe(pool: Pool, evaluate: Any) -> Soup:
            return ladle.greedy(pool, evaluate, map=crew.map)

        opened = evaluator(crew._task, crew)
        cook(pool_of(kitchen), recipe, opened, tmp_path / "soup", Kitchen(map=crew.map))
    assert contents(tmp_path / "soup") == expected
    # Training texts are not needed; and this process computes nothing.
    assert each_once(computed(kitchen), "held-out", "test", "other")
    assert os.getpid() not in processes(kitchen)
    if count > 1:
        assert len(processes(kitchen)) > 1


def test_nothing_is_computed_that_is_not_asked_for(
    cluster: Cluster, kitchen: Path, reference: str, tmp_path: Path
) -> None:
    soups, store = singles(pool_of(kitchen)), Store(tmp_path / "ladle.sqlite")
    with workers(cluster, 2, reference) as crew:
        assert computed(kitchen) == {}
        found = said(evaluator(crew._task, crew)(store, tmp_path), soups, "test")
        assert found == said(alone(kitchen), soups, "test")
        assert each_once(computed(kitchen), "test")
    with workers(cluster, 2, reference) as crew:
        assert said(evaluator(crew._task, crew)(store, tmp_path), soups, "test") == found
        assert each_once(computed(kitchen), "test")
    store.close()


def test_a_model_with_frozen_layers_of_its_own_is_evaluated_in_full(
    cluster: Cluster, kitchen: Path, reference: str, tmp_path: Path
) -> None:
    task = load_task(str(kitchen / "task.toml"))
    assert isinstance(task, TextClassification)
    save(task, tmp_path / "other", seed=9, frozen=False)
    soups = singles(ladle.open([tmp_path / "other"]))
    with workers(cluster, 2, reference) as crew:
        assert said(on_workers(crew), soups) == said(alone(kitchen), soups)
    assert computed(kitchen) == {}


def test_slopes_on_held_out_texts_share_it(cluster: Cluster, kitchen: Path, reference: str) -> None:
    import numpy as np

    pool, some = pool_of(kitchen), np.arange(16)
    soup = ladle.uniform(pool)
    here = alone(kitchen)
    with workers(cluster, 2, reference) as crew:
        evaluate = Evaluator(crew._task, batch_size=16, device="cpu", forward=crew, crew=crew)
        gradients = evaluate.gradients(pool)
        assert gradients.taste(soup, some, 1.0) == here.gradients(pool).taste(soup, some, 1.0)
    assert each_once(computed(kitchen), "held-out")


def test_a_worker_that_is_killed_at_a_piece_costs_that_piece_alone(
    cluster: Cluster, kitchen: Path, reference: str
) -> None:
    (kitchen / "slow").touch()
    soups = singles(pool_of(kitchen))
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 100
        while not killed and time.monotonic() < end:
            if len(lines := log(kitchen).read_text().splitlines()) > 2:
                killed.append(int(lines[-1].rpartition(" ")[2]))
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.01)

    with workers(cluster, 2, reference) as crew:
        killing = threading.Thread(target=kill)
        killing.start()
        found = said(on_workers(crew), soups)
        killing.join()
    assert found == said(alone(kitchen), soups)
    assert len(killed) == 1
    again = computed(kitchen)
    assert len(again) == PIECES
    assert sum(again.values()) == PIECES + 1


def test_workers_that_take_the_place_of_others_take_what_these_computed(
    cluster: Cluster, kitchen: Path, reference: str
) -> None:
    soups = singles(pool_of(kitchen))
    with workers(cluster, 2, reference) as crew:
        evaluate = on_workers(crew)
        said(evaluate, soups[:1])
        first = processes(kitchen)
        for process in first:
            os.kill(process, signal.SIGKILL)
        assert said(evaluate, soups) == said(alone(kitchen), soups)
        assert each_once(computed(kitchen), "held-out")


def test_what_is_lost_with_its_node_is_computed_again(
    local: LocalCluster, cluster: Cluster, kitchen: Path, reference: str
) -> None:
    soups = singles(pool_of(kitchen))
    with workers(cluster, 2, reference) as crew:
        evaluate = on_workers(crew)
        said(evaluate, soups[:1])
        before = list(local.worker_nodes)
        for _ in before:
            local.add_node(**node_of(2))
        for node in before:
            local.remove_node(node, False)
        assert said(evaluate, soups) == said(alone(kitchen), soups)
    again = computed(kitchen)
    assert len(again) == PIECES
    assert set(again.values()) == {2}
