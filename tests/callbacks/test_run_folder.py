"""The folder itself: who may write into it, and when; and libraries that are not there."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from ladle.callbacks.folder import RunFolder
from ladle.callbacks.weights import refuse_sharded, write_state
from ladle.checkpoint import open_checkpoint
from ladle.errors import BadInput
from states import State, read, small_state


def written(folder: Path, state: State) -> None:
    save_file(state, folder / "model.safetensors")


def finish(run: RunFolder, seed: int) -> Path:
    return run.finish(
        lambda folder: written(folder, small_state(seed)), run={}, step=1, scores=[], libraries=[]
    )


def test_runs_that_begin_at_once_share_one_base_and_no_number(tmp_path: Path) -> None:
    """All write it at the same moment; one rename wins, the others compare."""
    together = threading.Barrier(6)
    done: list[Path] = []

    def train(seed: int) -> None:
        run = RunFolder(tmp_path)

        def write(folder: Path) -> None:
            written(folder, small_state(0))
            together.wait()

        run.start(write)
        done.append(finish(run, seed))

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in done) == [f"run-{n:04d}" for n in range(6)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "base", *(f"run-{n:04d}" for n in range(6)), "sweep.json",
    ]  # fmt: skip


def test_a_write_that_fails_leaves_nothing_of_the_start(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "sweep")

    def fail(folder: Path) -> None:
        written(folder, small_state(0))
        raise OSError("the disk broke")

    with pytest.raises(OSError, match="broke"):
        run.start(fail)
    assert list((tmp_path / "sweep").iterdir()) == []
    run.start(lambda folder: written(folder, small_state(0)))
    with pytest.raises(OSError, match="broke"):
        run.finish(fail, run={}, step=1, scores=[], libraries=[])
    assert (
        not list((tmp_path / "sweep").glob("run-*/run.json"))[:1]
        or not (tmp_path / "sweep" / "run-0000").exists()
    )


def test_a_base_of_ones_own_counts(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    written(tmp_path / "base", small_state(0))
    run = RunFolder(tmp_path)
    with pytest.raises(BadInput, match=r"base: body.bias, body.weight, head.weight differ;"):
        run.start(lambda folder: written(folder, small_state(1)))
    run.start(lambda folder: written(folder, small_state(0)))
    record = json.loads((finish(run, 3) / "run.json").read_text())
    assert record["base"] == open_checkpoint(tmp_path / "base").digest()
    assert record["scores"] == []


def test_a_damaged_mark_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(BadInput, match="is damaged"):
        RunFolder(tmp_path).start(lambda folder: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        RunFolder(tmp_path / "file").start(lambda folder: None)


def test_a_named_run_that_was_killed_begins_anew(tmp_path: Path) -> None:
    def begin() -> RunFolder:
        run = RunFolder(tmp_path, "run-a")
        run.start(lambda folder: written(folder, small_state(0)))
        return run

    killed = begin()
    killed.keep_step(3, lambda folder: written(folder, small_state(1)))
    done = finish(begin(), 2)
    assert done == tmp_path / "run-a"
    assert sorted(p.name for p in done.iterdir()) == ["model.safetensors", "run.json"]


def test_a_live_state_is_written_as_it_is(tmp_path: Path) -> None:
    """NaN too, which the record tells; ties and strides as well."""
    state = small_state(1) | {"nan": torch.full((3,), float("nan")), "t": torch.randn(4, 3).t()}
    state["alias"] = state["body.weight"]
    write_state(state, tmp_path)
    found = open_checkpoint(tmp_path)
    assert found.layout.ties == {"alias": "body.weight"}
    assert read(found, "t") == state["t"].contiguous().numpy().tobytes()
    assert read(found, "nan") == state["nan"].numpy().tobytes()
    with pytest.raises(BadInput, match="'extra' is a dict"):
        write_state(state | {"extra": {}}, tmp_path)  # type: ignore[dict-item]


KILLED = """
import os, signal, sys
import torch
from safetensors.torch import save_file
from ladle.callbacks.folder import RunFolder

def write(folder):
    save_file({"w": torch.zeros(3)}, folder / "model.safetensors")

def write_and_die(folder):
    write(folder)
    os.kill(os.getpid(), signal.SIGKILL)

run = RunFolder(sys.argv[1])
if sys.argv[2] == "base":
    run.start(write_and_die)
run.start(write)
run.finish(write_and_die, run={}, step=1, scores=[], libraries=[])
"""


@pytest.mark.parametrize(
    ("moment", "left"),
    [("base", {"run-0000.part"}), ("end", {"base", "run-0000.part", "sweep.json"})],
)
def test_killed_while_it_writes_it_leaves_no_half_model(
    tmp_path: Path, moment: str, left: set[str]
) -> None:
    arguments = [sys.executable, "-c", KILLED, tmp_path, moment]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert {path.name for path in tmp_path.iterdir()} == left
    # What is there is in nobody's way.
    run = RunFolder(tmp_path)
    run.start(lambda folder: save_file({"w": torch.zeros(3)}, folder / "model.safetensors"))
    assert finish(run, 1).name == "run-0001"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_sharded_models_are_refused(alone: None) -> None:
    refuse_sharded(nn.Linear(2, 2))
    refuse_sharded(nn.parallel.DistributedDataParallel(nn.Linear(2, 2)))
    model = nn.Sequential(nn.Linear(2, 2))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(BadInput, match="sharded over processes"):
        refuse_sharded(model)
    flat = FullyShardedDataParallel(nn.Linear(2, 2), device_id=torch.device("cpu"))
    with pytest.raises(BadInput, match="sharded over processes"):
        refuse_sharded(flat)


IMPORTS = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
import ladle.callbacks
assert not {{"torch", "transformers", "lightning", "pytorch_lightning"}} & {{
    name for name, module in sys.modules.items() if module
}}
from ladle.callbacks import {wanted}
"""


@pytest.mark.parametrize(
    ("missing", "wanted", "said"),
    [
        (["transformers"], "TrainerIngredients", "pip install 'ladle[text]'"),
        (["lightning", "pytorch_lightning"], "LightningIngredients", "pip install 'ladle[lightn"),
        (["lightning", "pytorch_lightning"], "TrainerIngredients", None),
    ],
)
@pytest.mark.slow
def test_only_the_library_that_is_used_is_needed(
    missing: list[str], wanted: str, said: str | None
) -> None:
    script = IMPORTS.format(missing=missing, wanted=wanted)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False
    )
    if said is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert said in done.stderr


def test_the_package_tells_its_names() -> None:
    import ladle.callbacks

    assert dir(ladle.callbacks) == ["LightningIngredients", "TrainerIngredients"]
    with pytest.raises(AttributeError, match="'Keras'"):
        _ = ladle.callbacks.Keras
