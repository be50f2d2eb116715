"""Selection by the workers of a real cluster, some of which die at it: the soup of one process."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import slow_digits  # noqa: F401 -- finds the neighbours' tests
from machines import node_of, nodes
from ray.cluster_utils import Cluster as LocalCluster

import ladle
from digits import make_runs
from ladle.cluster import Cluster, Settings, Size, Workers
from ladle.cook import Kitchen, cook
from ladle.errors import BadInput, BadTask
from ladle.evaluate import Evaluator, Store
from ladle.location import located
from ladle.soup import Pool, Soup
from ladle.tasks import Task, load_task

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
LADLE = Path(sys.executable).with_name("ladle")
TASK = f"{HERE / 'slow_digits.py'}:task"
BATCH = 16


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("marks")
    os.environ["LADLE_TEST_MARKS"] = str(folder)
    yield folder
    del os.environ["LADLE_TEST_MARKS"]


@pytest.fixture(scope="module")
def local(marks: Path) -> Iterator[LocalCluster]:
    """Two nodes of two CPUs; this process is connected to them."""
    with nodes(2, 2, connected=True) as found:
        yield found


@pytest.fixture
def cluster(local: LocalCluster) -> Cluster:
    return Cluster(ray, local.address)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"), 6)


@pytest.fixture(scope="module")
def expected(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this process makes alone."""
    output = tmp_path_factory.mktemp("one") / "soup"
    task = load_task(TASK)
    cook(ladle.open(runs), ladle.greedy, evaluator(task, None), output)
    return contents(output)


def evaluator(task: Task, forward: Workers | None) -> Callable[[Store, Path], Evaluator]:
    def opened(store: Store, workspace: Path) -> Evaluator:
        return Evaluator(task, store=store, batch_size=BATCH, forward=forward, device="cpu")

    return opened


def contents(output: Path) -> dict[str, Any]:
    """All that is in an output, but times and the command."""
    record = json.loads((output / "soup.json").read_text())
    for name in ("created", "command", "versions"):
        del record[name]
    store = Store(output / "ladle.sqlite")
    keys = store._base.execute("SELECT soup, task, split FROM predictions").fetchall()
    logits = {key: store.logits(*key) for key in keys}
    store.close()
    weights = next(file for file in output.iterdir() if file.name.startswith("model"))
    return {
        "record": record,
        "weights": weights.read_bytes(),
        "evaluations": (output / "evaluations.jsonl").read_text(),
        "store": {key: None if one is None else one.tobytes() for key, one in logits.items()},
        "arrays": len(list((output / "ladle.predictions").glob("*.npy"))),
    }


def workers(cluster: Cluster, count: int, reference: str = TASK, **more: Any) -> Workers:
    return Workers(
        cluster,
        functools.partial(load_task, reference),
        load_task(reference),
        settings=Settings("cpu", BATCH),
        count=count,
        **more,
    )


def cooked(runs: list[Path], crew: Workers, output: Path) -> dict[str, Any]:
    def recipe(pool: Pool, evaluate: Any) -> Soup:
        return ladle.greedy(pool, evaluate, map=crew.map)

    kitchen = Kitchen(map=crew.map)
    cook(ladle.open(runs), recipe, evaluator(crew._task, crew), output, kitchen)
    return contents(output)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_makes_the_same_output(
    count: int, cluster: Cluster, runs: list[Path], expected: dict[str, Any], tmp_path: Path
) -> None:
    with workers(cluster, count) as crew:
        assert cooked(runs, crew, tmp_path / "soup") == expected
    assert any(tasting["bound"] is not None for tasting in expected["record"]["tastings"])


@pytest.mark.parametrize("mode", ["best", "recalibrate"])
def test_batchnorm_statistics_are_estimated_by_workers(
    mode: Any, cluster: Cluster, tmp_path: Path
) -> None:
    from test_batchnorm import sweep

    from ladle.evaluate import BatchNormTaster

    pool, reference = sweep(tmp_path), f"{HERE / 'slow_digits.py'}:normalised"
    task = load_task(reference)
    alone = Evaluator(task, batch_size=BATCH, device="cpu")
    one = ladle.greedy(pool, BatchNormTaster(alone, mode))
    with workers(cluster, 2, reference) as crew:
        evaluate = Evaluator(task, batch_size=BATCH, device="cpu", forward=crew)
        taste = BatchNormTaster(evaluate, mode)
        soup = ladle.greedy(pool, taste, map=crew.map)
        assert (soup.digest, soup.tastings) == (one.digest, one.tastings)
        assert len(soup.members) > 1
        assert taste(soup) == BatchNormTaster(alone, mode)(soup)


def when_marked(marks: Path, do: Callable[[int], None], *, times: int) -> threading.Thread:
    """Do something to the processes that are in the middle of an evaluation, once to each."""

    def watch() -> None:
        done: set[int] = set()
        end = time.monotonic() + 120
        while len(done) < times and time.monotonic() < end:
            for file in sorted(marks.glob("*-*")):
                process = int(file.name.rpartition("-")[2])
                if process not in done and len(done) < times:
                    done.add(process)
                    do(process)
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.fixture
def slowly(marks: Path) -> Iterator[None]:
    (marks / "slow").touch()
    yield
    for file in marks.iterdir():
        file.unlink()


@pytest.mark.usefixtures("slowly")
def test_a_large_split_is_shared_by_workers_that_are_idle(
    cluster: Cluster, runs: list[Path], marks: Path
) -> None:
    reference = f"{HERE / 'slow_digits.py'}:shared"
    task, pool = load_task(reference), ladle.open(runs)
    soup = ladle.uniform(pool)
    alone = Evaluator(task, batch_size=BATCH, device="cpu").predict(soup, "held-out").logits
    for file in marks.glob("*-*"):
        file.unlink()
    with workers(cluster, 4, reference, piece=3 * BATCH) as crew:
        end = time.monotonic() + 60
        while crew._idle.qsize() < 4 and time.monotonic() < end:
            time.sleep(0.1)
        killed = when_marked(marks, lambda process: os.kill(process, signal.SIGKILL), times=1)
        evaluate = Evaluator(task, batch_size=BATCH, device="cpu", forward=crew)
        found = evaluate.predict(soup, "held-out").logits
        killed.join()
        assert found.tobytes() == alone.tobytes()
        assert len({file.name.rpartition("-")[2] for file in marks.glob("*-*")}) > 2
        (marks / "slow").unlink()
        # Who is busy is not asked, and all are.
        assert all(
            a.tobytes() == b.tobytes()
            for a, b in zip(
                crew.map(lambda one: evaluate.predict(one, "test").logits, singles(pool)),
                [Evaluator(task, batch_size=BATCH).predict(one, "test").logits
                 for one in singles(pool)],
                strict=True,
            )
        )  # fmt: skip


def singles(pool: Pool) -> list[Soup]:
    return [ladle.uniform(pool.subset([i])) for i in range(len(pool))]


@pytest.mark.usefixtures("slowly")
def test_workers_that_are_killed_are_replaced(
    cluster: Cluster, runs: list[Path], expected: dict[str, Any], marks: Path, tmp_path: Path
) -> None:
    killed = []

    def kill(process: int) -> None:
        os.kill(process, signal.SIGKILL)
        killed.append(process)

    with workers(cluster, 2) as crew:
        watch = when_marked(marks, kill, times=3)
        assert cooked(runs, crew, tmp_path / "soup") == expected
        watch.join()
    assert len(killed) == 3


@pytest.mark.usefixtures("slowly")
def test_a_node_that_leaves_takes_nothing_along(
    local: LocalCluster,
    cluster: Cluster,
    runs: list[Path],
    expected: dict[str, Any],
    marks: Path,
    tmp_path: Path,
) -> None:
    further = local.add_node(**node_of(2))
    try:
        # More than the two others have room for.
        with workers(cluster, 6) as crew:
            leave = when_marked(marks, lambda _: local.remove_node(further, False), times=1)
            assert cooked(runs, crew, tmp_path / "soup") == expected
            leave.join()
    finally:
        if further in local.worker_nodes:
            local.remove_node(further, False)


@pytest.mark.usefixtures("slowly")
def test_a_command_that_is_killed_goes_on(
    local: LocalCluster, runs: list[Path], expected: dict[str, Any], marks: Path, tmp_path: Path
) -> None:
    output = tmp_path / "soup"
    command = [
        LADLE, "cook", *runs, "--task", TASK, "-o", output, "--ray", local.address, "--workers",
        "2", "--batch-size", str(BATCH), "--device", "cpu",
    ]  # fmt: skip
    first = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    when_marked(marks, lambda _: first.kill(), times=1).join()
    assert first.wait() == -signal.SIGKILL
    assert not output.exists()
    before = Store(tmp_path / "soup.part" / "ladle.sqlite")
    known = before._base.execute("SELECT count(*) FROM predictions").fetchone()[0]
    before.close()
    assert known >= len(runs)
    (marks / "slow").unlink()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    found = contents(output)
    assert found["weights"] == expected["weights"]
    assert found["record"]["tastings"] == expected["record"]["tastings"]
    assert found["evaluations"] == expected["evaluations"]


def test_a_checkpoint_that_a_worker_cannot_read_is_named(
    cluster: Cluster, runs: list[Path], tmp_path: Path
) -> None:
    copies = [Path(shutil.copy(run, tmp_path)) for run in runs]
    pool = ladle.open(copies)
    pool.hash_all()
    with workers(cluster, 1) as crew:
        evaluate = Evaluator(crew._task, batch_size=BATCH, device="cpu", forward=crew)
        evaluate(ladle.uniform(pool))
        copies[0].unlink()
        with pytest.raises(BadInput, match=rf"node .* cannot read {copies[0]} .*; put it where"):
            evaluate(ladle.uniform(pool.subset([0])))


def test_a_url_that_a_node_cannot_read_is_named(cluster: Cluster, runs: list[Path]) -> None:
    everywhere = located(runs[0].absolute().as_uri())
    cluster.check_paths([everywhere, runs[1]])
    here = located("memory://only/here.safetensors")
    here.write_bytes(runs[0].read_bytes())
    with pytest.raises(BadInput, match=r"node .* cannot read memory://only/here\.safetensors; put"):
        cluster.check_paths([everywhere, here])


def test_runs_on_urls_are_souped_by_workers(
    cluster: Cluster, runs: list[Path], expected: dict[str, Any], tmp_path: Path
) -> None:
    urls = [run.absolute().as_uri() for run in runs]
    command = [
        LADLE, "cook", *urls, "--task", TASK, "-o", tmp_path / "soup", "--ray", cluster.address,
        "--workers", "2", "--batch-size", str(BATCH), "--device", "cpu",
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / "soup")["weights"] == expected["weights"]


def test_who_has_to_wait_for_room_is_told(cluster: Cluster) -> None:
    told: list[str] = []
    with ThreadPoolExecutor() as executor, workers(cluster, 4, tell=told.append):
        assert told == []
        waiting = executor.submit(workers, cluster, 1, tell=told.append)
        end = time.monotonic() + 60
        while not told and time.monotonic() < end:
            time.sleep(0.1)
        assert [one.partition(";")[0].partition("is full: ")[2] for one in told] == [
            "0 CPUs and 0 GPUs are free, and a worker takes 1 and 0"
        ]
        assert not waiting.done()
    waiting.result().close()


def test_what_is_wrong_with_the_workers_is_said_before_work_begins(cluster: Cluster) -> None:
    with pytest.raises(BadInput, match=r"--workers 9: .* has room for 4 of 1 CPUs"):
        workers(cluster, 9)
    with pytest.raises(BadInput, match=r"no node .* has 3 CPUs"):
        Workers(cluster, functools.partial(load_task, TASK), load_task(TASK), size=Size(3))
    missing = functools.partial(load_task, "nowhere/task.toml")
    with pytest.raises(BadInput, match=r"nowhere/task\.toml"):
        Workers(cluster, missing, load_task(TASK), count=1)
    other = functools.partial(load_task, f"{HERE / 'slow_digits.py'}:normalised")
    with pytest.raises(BadTask, match="is not the same on a worker"):
        Workers(cluster, other, load_task(TASK), count=1)
