"""Checkpoints behind URLs: everything reads as it does from a disk."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save_file

import ladle
from ladle.checkpoint import near as near_module
from ladle.checkpoint import open_checkpoint
from ladle.errors import BadInput, UnreadableCheckpoint
from states import data_of, read, same_bits, save_shards, small_state

STATES = [small_state(i) for i in range(3)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """The URL of a store in memory with three runs, each in a format of its own."""
    runs = tmp_path / "runs"
    for name in ("a", "c"):
        (runs / name).mkdir(parents=True)
    save_file(STATES[0], runs / "a" / "model.safetensors")
    (runs / "a" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_shards(runs / "b", STATES[1], 2)
    state = dict(STATES[2])
    state["body.weight"] = state["body.weight"].t().contiguous().t()  # not in row-major order
    torch.save({"state_dict": state, "epoch": 4}, runs / "c" / "model.pt")
    remote = fsspec.filesystem("memory")
    remote.put(str(tmp_path / "runs"), "/bucket/runs", recursive=True)
    yield "memory://bucket/runs"
    remote.rm("/bucket", recursive=True)


def test_every_format_reads_slice_by_slice(store: str) -> None:
    for name, state in zip("abc", STATES, strict=True):
        checkpoint = open_checkpoint(f"{store}/{name}")
        for tensor, values in state.items():
            assert read(checkpoint, tensor) == data_of(values)
        assert read(checkpoint, "body.weight", 3, 20) == data_of(state["body.weight"])[12:80]
        assert len(checkpoint.digest()) == 64


@pytest.mark.parametrize("pattern", ["", "/*", "/?"])
def test_a_soup_of_urls_is_that_of_the_files(store: str, tmp_path: Path, pattern: str) -> None:
    found = ladle.open(store + pattern)
    local = ladle.open([tmp_path / "runs" / name for name in "abc"])
    assert [one.name for one in found] == ["a", "b", "c"]
    assert same_bits(ladle.uniform(found).state_dict(), ladle.uniform(local).state_dict())
    out = ladle.uniform(found).save(tmp_path / "soup")
    assert json.loads((out / "config.json").read_text()) == {"model_type": "bert"}
    record = json.loads((out / "soup.json").read_text())
    assert record["ingredients"][0]["path"] == f"{store}/a"
    assert [one["sha256"] for one in record["ingredients"]] == list(local.digests)


def test_any_store_of_fsspec_will_do(tmp_path: Path) -> None:
    """A folder in a zip file, and a file by its `file:` URL."""
    save_file(STATES[0], tmp_path / "a.safetensors")
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as file:
        file.write(tmp_path / "a.safetensors", "sweep/a.safetensors")
    for url in (
        f"zip://sweep/a.safetensors::{tmp_path}/runs.zip",
        f"file://{tmp_path}/a.safetensors",
    ):
        checkpoint = open_checkpoint(url)
        assert read(checkpoint, "body.bias") == data_of(STATES[0]["body.bias"])


def test_what_is_not_there_is_named(store: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"memory://bucket/gone.pt does not exist"):
        open_checkpoint("memory://bucket/gone.pt")
    with pytest.raises(BadInput, match="no checkpoint matches"):
        ladle.open(f"{store}/x*")
    with pytest.raises(BadInput, match="nosuchstore://a cannot be opened"):
        ladle.open("nosuchstore://a")


def test_a_remote_file_that_changed_is_noticed(store: str) -> None:
    checkpoint = open_checkpoint(f"{store}/a")
    fsspec.filesystem("memory").pipe("/bucket/runs/a/model.safetensors", b"short")
    with pytest.raises(UnreadableCheckpoint, match="changed after it was opened"):
        read(checkpoint, "body.weight")


def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the bytes that a memory store gives from now on, by file."""
    given: Counter[str] = Counter()
    remote = fsspec.filesystem("memory")
    cat_file, get_file = remote.cat_file, remote.get_file

    def counting_cat(path: str, **asked: Any) -> bytes:
        found = bytes(cat_file(path, **asked))
        given[path] += len(found)
        return found

    def counting_get(path: str, target: str, **more: Any) -> None:
        get_file(path, target, **more)
        given[path] += Path(target).stat().st_size

    monkeypatch.setattr(remote, "cat_file", counting_cat)
    monkeypatch.setattr(remote, "get_file", counting_get)
    return given


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where copies are, of a process that has made none yet."""
    monkeypatch.setenv("LADLE_CACHE", str(tmp_path / "cache"))
    near_module._folder.cache_clear()
    yield tmp_path / "cache" / "near"
    near_module._folder.cache_clear()


def test_what_is_read_again_and_again_is_fetched_twice_at_most(
    store: str, near: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ladle.open(store)
    expected = ladle.uniform(pool).state_dict()
    given = fetched(monkeypatch)
    pool = ladle.open(store)
    assert same_bits(ladle.uniform(pool).state_dict(), expected)
    once = Counter(given)
    assert not near.exists()  # One pass needs no copy.
    for _ in range(5):
        assert same_bits(ladle.uniform(pool).state_dict(), expected)
    remote = fsspec.filesystem("memory")
    for name, nbytes in given.items():
        assert nbytes <= 2 * remote.size(name) + once[name]
    assert len([file for file in near.rglob("*") if file.stat().st_size]) == 4
    # What goes to another machine knows nothing of copies here.
    sent = pickle.loads(pickle.dumps(pool))  # noqa: S301 -- our own
    shutil.rmtree(near)
    assert same_bits(ladle.uniform(sent).state_dict(), expected)


def test_without_room_for_copies_it_is_read_from_afar(
    store: str, near: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ladle.open(store)
    expected = ladle.uniform(pool).state_dict()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    for _ in range(3):
        assert same_bits(ladle.uniform(pool).state_dict(), expected)
    assert not [file for file in near.rglob("*") if file.is_file() and file.stat().st_size]


def test_a_file_that_changes_while_it_is_copied_is_noticed(
    store: str, near: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = fsspec.filesystem("memory")
    get_file = remote.get_file

    def changing(path: str, target: str) -> None:
        get_file(path, target)
        remote.pipe(path, remote.cat(path) + b" ")

    monkeypatch.setattr(remote, "get_file", changing)
    checkpoint = open_checkpoint(f"{store}/a")
    with pytest.raises(UnreadableCheckpoint, match="changed after it was opened"):
        assert all([read(checkpoint, name) for name in STATES[0]] for _ in range(20))
    with pytest.raises(UnreadableCheckpoint, match="changed after it was opened"):
        read(checkpoint, "body.weight")


@pytest.mark.slow
def test_copies_go_when_the_process_ends_and_those_of_killed_ones_later(tmp_path: Path) -> None:
    save_file(STATES[0], tmp_path / "a.safetensors")
    code = f"""
import os, signal, sys, ladle
soup = ladle.uniform(ladle.open("file://{tmp_path}/a.safetensors"))
for _ in range(3):
    soup.state_dict()
if sys.argv[1:]:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "LADLE_CACHE": str(tmp_path / "cache")}
    near = tmp_path / "cache" / "near"
    killed = subprocess.run([sys.executable, "-c", code, "die"], env=environment, check=False)
    assert killed.returncode == -9
    assert [file.stat().st_size for file in near.rglob("*") if file.is_file()].count(0) == 1
    assert len(list(near.rglob("*"))) == 3  # The folder, its claim, and the copy.
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(near.rglob("*")) == []
