"""Checkpoints behind URLs: everything reads as it does from a disk."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import save_file

import ladle
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
