"""Sweeps on a real cluster of two nodes, of which workers, nodes and drivers die."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from machines import node_of, nodes, wait_for
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.cluster_utils import Cluster
from slow_points import STEPS, steps, write_slow

from reviews import write_task
from sweep_files import files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a CPU each."""
    with nodes(1, 1) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task, a space, and a log of all steps that are taken."""
    write_slow(tmp_path)
    return tmp_path


def command(folder: Path, output: str, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "ladle", "sweep", "--task", f"{folder}/task.py:Slow",
        "--space", f"{folder}/space.toml", "--output", f"{folder}/{output}", *more,
    ]  # fmt: skip


def started(folder: Path, output: str, *more: str) -> subprocess.Popen[str]:
    # One thread, as a worker has.
    return subprocess.Popen(
        command(folder, output, *more), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def done(folder: Path, output: str, *more: str) -> str:
    """What it says on stderr."""
    process = started(folder, output, *more)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def states(folder: Path) -> list[Path]:
    return list((folder / "out").glob("run-*.part/state.pt"))


def at_work(folder: Path, *, least: int = 70) -> bool:
    """Whether some way was gone, of which there is a state."""
    return len(steps(folder)) >= least and bool(states(folder))


def test_the_same_runs_as_without(cluster: Cluster, folder: Path) -> None:
    more = ("--runs", "4", "--ema", "0.9", "--save-every", "60", "--score-every", "50")
    done(folder, "alone", *more)
    said = done(folder, "out", *more, "--ray", cluster.address)
    assert files(folder / "out") == files(folder / "alone")
    assert said.count("on held-out") == 4
    assert "(raylet)" not in said
    studies = [
        optuna.load_study(
            study_name=None, storage=JournalStorage(JournalFileBackend(f"{path}/optuna.journal"))
        )
        for path in (folder / "alone", folder / "out")
    ]
    one, other = ([(t.state, t.values, t.intermediate_values) for t in s.trials] for s in studies)
    assert one == other
    # Nothing is left to do, and it is found so.
    assert "run-0003 (4 of 4)" in done(folder, "out", *more, "--ray", cluster.address)


def test_two_runs_are_under_way_at_the_same_time(cluster: Cluster, folder: Path) -> None:
    (folder / "steps.log").touch()
    (folder / "meet").touch()  # No run takes its second step before another takes its first.
    done(folder, "out", "--runs", "2", "--ray", cluster.address)
    assert len(steps(folder)) == 2 * STEPS
    assert len(set(steps(folder))) == 2


def test_a_run_whose_worker_is_killed_goes_on(cluster: Cluster, folder: Path) -> None:
    done(folder, "alone", "--runs", "1")
    (folder / "steps.log").touch()
    process = started(folder, "out", "--runs", "1", "--ray", cluster.address)
    wait_for(lambda: at_work(folder))
    os.kill(steps(folder)[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "the worker of run-0000 died" in said
    assert files(folder / "out") == files(folder / "alone")
    took = steps(folder)
    assert len(set(took)) == 2
    assert STEPS <= len(took) < STEPS + 50  # No epoch twice.


def test_a_run_whose_node_is_removed_goes_on_at_another(cluster: Cluster, folder: Path) -> None:
    done(folder, "alone", "--runs", "2")
    (folder / "steps.log").touch()
    node = cluster.add_node(**node_of(1))
    cluster.remove_node(next(iter(cluster.worker_nodes - {node})), allow_graceful=False)
    process = started(folder, "out", "--runs", "2", "--ray", cluster.address)
    wait_for(lambda: len(states(folder)) == 2 and at_work(folder, least=140))
    cluster.remove_node(node, allow_graceful=False)
    try:
        _, said = process.communicate(timeout=300)
    finally:
        cluster.add_node(**node_of(1))
    assert process.returncode == 0, said
    assert "died" in said
    assert files(folder / "out") == files(folder / "alone")
    assert 2 * STEPS <= len(steps(folder)) < 2 * STEPS + 50


def test_a_sweep_that_is_killed_goes_on_when_run_again(cluster: Cluster, folder: Path) -> None:
    done(folder, "alone", "--runs", "2")
    (folder / "steps.log").touch()
    given = ("--runs", "2", "--ray", cluster.address)
    process = started(folder, "out", *given)
    wait_for(lambda: len(states(folder)) == 2 and at_work(folder, least=140))
    process.kill()
    process.communicate()
    done(folder, "out", *given)
    assert files(folder / "out") == files(folder / "alone")
    assert 2 * STEPS <= len(steps(folder)) < 2 * STEPS + 2 * 50


def test_ctrl_c_keeps_every_step_of_all_runs(cluster: Cluster, folder: Path) -> None:
    # Long runs, for on a busy machine Ctrl-C takes its time.
    write_slow(folder, epochs=9)
    done(folder, "alone", "--runs", "2")
    (folder / "steps.log").touch()
    given = ("--runs", "2", "--ray", cluster.address)
    process = started(folder, "out", *given)
    wait_for(lambda: len(states(folder)) == 2 and at_work(folder, least=100))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    stopped = len(steps(folder))
    assert stopped < 2 * 3 * STEPS
    done(folder, "out", *given)
    assert files(folder / "out") == files(folder / "alone")
    assert len(steps(folder)) == 2 * 3 * STEPS


def test_a_run_that_kills_every_worker_is_named(cluster: Cluster, folder: Path) -> None:
    with (folder / "task.py").open("a") as file:
        file.write("        \n    def batches(self, **how):\n        os.kill(os.getpid(), 9)\n")
    process = started(folder, "out", "--runs", "1", "--head", "as-is", "--ray", cluster.address)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert "run-0000 has lost its worker 3 times" in said


def refused(folder: Path, *more: str, code: str | None = None) -> str:
    """The one sentence that a sweep says of bad input."""
    asked = command(folder, "out", "--runs", "1", *more)
    if code is not None:
        asked = [sys.executable, "-c", f"{code}\nfrom ladle.cli import main; main({asked[3:]!r})"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=200)
    assert found.returncode == 2, found.stderr
    (line,) = found.stderr.splitlines()
    return line


def test_no_cluster(folder: Path) -> None:
    line = refused(folder, "--ray", "127.0.0.1:9")
    assert "there is no Ray cluster at 127.0.0.1:9" in line
    assert "no address of a Ray cluster" in refused(folder, "--ray", "nonsense")
    assert "--workers is for runs on a Ray cluster" in refused(folder, "--workers", "2")


def test_more_than_any_node_has(cluster: Cluster, folder: Path) -> None:
    line = refused(folder, "--ray", cluster.address, "--gpus-per-run", "1")
    assert "no node" in line
    assert "1 GPUs" in line


def test_another_version_of_ray(cluster: Cluster, folder: Path) -> None:
    older = "import ray; ray.__version__ = '2.59.0'"
    line = refused(folder, "--ray", cluster.address, code=older)
    assert "other versions" in line
    assert "2.59.0" in line


def test_another_version_of_ladle_on_a_node(cluster: Cluster, folder: Path, tmp_path: Path) -> None:
    """It is what the node's own Python says of what is installed there."""
    installed = tmp_path / "elsewhere" / "ladle-9.9.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ladle\nVersion: 9.9\n")
    paths = f"{installed.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    node = cluster.add_node(**node_of(1), env_vars={"PYTHONPATH": paths})
    try:
        line = refused(folder, "--ray", cluster.address)
    finally:
        cluster.remove_node(node)
    assert "has ladle 9.9, where this command runs with ladle 0.1.0" in line


@pytest.fixture
def node_elsewhere(cluster: Cluster, folder: Path) -> Iterator[None]:
    """One more node, that does not see what others write to `folder`/out."""
    (folder / "out").mkdir()
    hidden = f"mount -t tmpfs none {folder / 'out'}"
    alone = [shutil.which("unshare") or "unshare", "-m", "sh", "-c"]
    try:
        subprocess.run([*alone, hidden], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can show a process other files")
    begin = f"{Path(sys.executable).with_name('ray')} start --address={cluster.address} --block"
    process = subprocess.Popen(
        [*alone, f"{hidden} && exec {begin} --num-cpus=1 --object-store-memory=100000000"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert any("runtime started" in line for line in process.stdout)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=100)


@pytest.mark.usefixtures("node_elsewhere")
def test_a_node_that_cannot_read_the_output(cluster: Cluster, folder: Path) -> None:
    line = refused(folder, "--ray", cluster.address)
    assert f"cannot read {folder}/out/sweep.json" in line


FROZEN = """
from pathlib import Path
from ladle.tasks import load_task, text

LOG = Path(__file__).with_name("computed.log")
text._STATES_BATCH, text._STATES_BATCHES = 3, 1

def task():
    found = load_task(Path(__file__).with_name("task.toml"))
    said = found._said
    def telling(split, batches):
        with LOG.open("a") as log:
            log.write(f"{split}:{int(batches[0][0][0])}\\n")
        return said(split, batches)
    found._said = telling
    return found
"""


def test_what_frozen_layers_say_is_computed_once_for_all_workers(
    cluster: Cluster, tmp_path: Path
) -> None:
    """And the runs are those of a process that computed it itself."""
    write_task(tmp_path)
    (tmp_path / "frozen.py").write_text(FROZEN)
    log = tmp_path / "computed.log"
    asked = command(tmp_path, "out", "--runs", "3", "--ray", cluster.address)
    asked[asked.index("--task") + 1] = f"{tmp_path}/frozen.py:task"
    del asked[asked.index("--space") : asked.index("--space") + 2]
    subprocess.run(asked, check=True, capture_output=True, timeout=300)
    pieces = log.read_text().split()
    assert len(pieces) == len(set(pieces)) > 2
    assert {piece.partition(":")[0] for piece in pieces} == {"held-out", "train"}
    asked[asked.index("--output") + 1] = f"{tmp_path}/alone"
    subprocess.run(
        asked[: asked.index("--ray")], check=True, capture_output=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert files(tmp_path / "out") == files(tmp_path / "alone")
