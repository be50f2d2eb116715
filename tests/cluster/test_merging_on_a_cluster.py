"""Soups whose shards are written by the nodes of a real cluster, some of which die at it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import ray
import torch
from machines import node_of, nodes
from ray.cluster_utils import Cluster

import ladle
from ladle.checkpoint.write import FileSink
from ladle.cluster.tasks import LostWork, Tasks
from ladle.errors import BadInput, NonFiniteTensor
from ladle.soup import Soup
from ladle.soup.output import WriteOptions, save
from states import generator, save_shards

pytestmark = pytest.mark.slow
LADLE = Path(sys.executable).with_name("ladle")
OPTIONS = WriteOptions(max_shard_bytes=2_000_000)
ON_CLUSTER = replace(OPTIONS, map=Tasks(2), threads=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a CPU each; this process is connected to them."""
    # What the tests define has to reach the workers by value: they cannot import it.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with nodes(1, 1, connected=True) as found:
        yield found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three sharded models of 8 MB."""
    folder = tmp_path_factory.mktemp("runs")
    for i in range(3):
        state = {
            f"layer.{j}.weight": torch.randn(500, 500, generator=generator(10 * i + j))
            for j in range(8)
        }
        save_shards(folder / f"run-{i}", state, 3)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    return contents(save(soup_of(runs), tmp_path_factory.mktemp("one") / "soup", options=OPTIONS))


def soup_of(runs: list[Path]) -> Soup:
    return ladle.uniform(ladle.open(runs))


def contents(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in output.iterdir() if file.name != "soup.json"}


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_two_nodes_write_the_bytes_of_one_process(
    cluster: Cluster, runs: list[Path], expected: dict[str, bytes], tmp_path: Path, at_once: Any
) -> None:
    options = replace(ON_CLUSTER, map=Tasks(at_once))
    assert contents(save(soup_of(runs), tmp_path / "soup", options=options)) == expected


@dataclass(frozen=True)
class Dying:
    """Work that kills its worker after the first slice of a shard, the first `times` times."""

    work: Any
    marks: Path
    times: int

    def __call__(self, item: Any) -> Any:
        if hasattr(item, "layout") and len(list(self.marks.iterdir())) < self.times:
            write = FileSink.write

            def once(sink: FileSink, *args: Any) -> None:
                write(sink, *args)
                (self.marks / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)

            FileSink.write = once  # type: ignore[method-assign]
        return self.work(item)


def dying(marks: Path, times: int) -> Any:
    marks.mkdir()

    def map_(work: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        return Tasks(2)(Dying(work, marks, times), items)

    return map_


def test_a_shard_whose_worker_is_killed_is_written_again(
    cluster: Cluster, runs: list[Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    options = replace(ON_CLUSTER, map=dying(tmp_path / "marks", 2))
    assert contents(save(soup_of(runs), tmp_path / "soup", options=options)) == expected
    assert len(list((tmp_path / "marks").iterdir())) >= 2


def test_workers_that_always_die_are_an_error_and_leave_nothing(
    cluster: Cluster, runs: list[Path], tmp_path: Path
) -> None:
    options = replace(ON_CLUSTER, map=dying(tmp_path / "marks", 1000))
    with pytest.raises(LostWork, match="again and again"):
        save(soup_of(runs), tmp_path / "soup", options=options)
    assert [one.name for one in tmp_path.iterdir()] == ["marks"]


def test_what_a_worker_finds_wrong_is_told_as_it_is(
    cluster: Cluster, runs: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken" / "run"
    save_shards(broken, {f"layer.{j}.weight": torch.full((500, 500), torch.nan) for j in range(8)})
    with pytest.raises(NonFiniteTensor, match=r"run has NaN or infinity in tensor 'layer\.0"):
        save(soup_of([*runs, broken]), tmp_path / "soup", options=ON_CLUSTER)
    assert [one.name for one in tmp_path.iterdir()] == ["broken"]


@dataclass(frozen=True)
class Slow:
    """Work that takes a second more."""

    work: Any

    def __call__(self, item: Any) -> Any:
        time.sleep(1)
        return self.work(item)


def test_a_node_that_is_removed_is_done_without(
    cluster: Cluster, runs: list[Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    extra = cluster.add_node(**node_of(1))
    cluster.wait_for_nodes()
    done: list[object] = []

    def map_(work: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for result in Tasks(2)(Slow(work), items):
            if not done:
                cluster.remove_node(extra, allow_graceful=False)
            done.append(result)
            yield result

    options = replace(ON_CLUSTER, hashed=False, map=map_)
    found = contents(save(soup_of(runs), tmp_path / "soup", options=options))
    assert found.keys() == expected.keys()
    assert len(done) == 4


def command(address: str, runs: list[Path], output: Path, *more: str) -> list[str]:
    given = [str(LADLE), "average", *map(str, runs), "-o", str(output), *more]
    return [*given, "--max-shard-size", "2MB", "--ray", address]


def test_the_command_writes_the_same_and_says_nothing_of_ray(
    cluster: Cluster, runs: list[Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "soup"
    done = subprocess.run(
        command(cluster.address, runs, output, "--workers", "2"),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = contents(output)
    assert found.pop("README.md")  # The command stands in it.
    assert found == {name: data for name, data in expected.items() if name != "README.md"}


def test_a_killed_command_publishes_nothing_and_can_be_run_again(
    cluster: Cluster, runs: list[Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "soup"
    with subprocess.Popen(command(cluster.address, runs, output)) as process:
        while not list(tmp_path.glob("soup.part/.shards-*")) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert not output.exists()
    assert (tmp_path / "soup.part").exists()
    done = subprocess.run(
        command(cluster.address, runs, output), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = contents(output)
    assert {name for name in found if name.startswith(".")} == set()
    for name in expected.keys() - {"README.md"}:
        assert found[name] == expected[name]
    assert [one.name for one in tmp_path.iterdir()] == ["soup"]


@pytest.fixture
def blind_node(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A node that has an empty folder where the others share one, by a mount of its own."""
    folder = tmp_path / "shared"
    folder.mkdir()
    hidden = f"mount -t tmpfs none {folder}"
    if subprocess.run(
        ["unshare", "-m", "sh", "-c", hidden], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounts need more rights")
    script = Path(sys.executable).with_name("ray")
    start = f"{hidden} && exec {script} start --address {cluster.address} --num-cpus 1 --block"
    start += " --resources '{\"blind\": 1}' --object-store-memory 80000000"
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", start],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            for _ in range(600):
                if "blind" in ray.cluster_resources():
                    break
                time.sleep(0.1)
            else:
                raise AssertionError("the node does not start")
            yield folder
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def test_a_node_that_does_not_see_the_files_is_told(
    blind_node: Path, runs: list[Path], tmp_path: Path
) -> None:
    machine = os.uname().nodename
    options = replace(ON_CLUSTER, map=Tasks(6))
    with pytest.raises(BadInput, match=f"{machine} does not see {blind_node}/soup.part; name an"):
        save(soup_of(runs), blind_node / "soup", options=replace(options, hashed=False))
    inputs = [shutil.copytree(run, blind_node / run.name) for run in runs]
    file = rf"{blind_node}/run-\d/model-0000\d-of-00003.safetensors"
    for hashed in (True, False):
        with pytest.raises(BadInput, match=rf"{machine} cannot read {file} \(No such file"):
            save(soup_of(inputs), tmp_path / "soup", options=replace(options, hashed=hashed))
    assert {one.name for one in tmp_path.iterdir()} == {"shared"}


def test_no_ray_is_loaded_where_none_is_asked_for(runs: list[Path], tmp_path: Path) -> None:
    program = (
        "import sys, ladle.cli\n"
        "try:\n    ladle.cli.main(sys.argv[1:])\n"
        "except SystemExit as done:\n    assert not done.code\n"
        "assert 'ray' not in sys.modules"
    )
    given = ["average", *map(str, runs), "-o", str(tmp_path / "soup"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *given], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["soup"]["recipe"]["name"] == "uniform"
