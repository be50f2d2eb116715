"""An index and its shards have to tell the same story."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ladle.checkpoint import open_checkpoint
from ladle.errors import UnreadableCheckpoint
from states import data_of, read, save_shards, small_state

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return save_shards(tmp_path / "run", small_state())


def rewrite(index: Path, **weight_map: str | None) -> None:
    """Change some entries of the index; None takes one out."""
    content = json.loads(index.read_text())
    content["weight_map"] |= weight_map
    content["weight_map"] = {k: v for k, v in content["weight_map"].items() if v is not None}
    index.write_text(json.dumps(content))


def refused(index: Path, match: str | None = None) -> None:
    for path in (index, index.parent):
        with pytest.raises(UnreadableCheckpoint, match=match):
            open_checkpoint(path)


def test_index_and_folder_are_the_same_checkpoint(index: Path) -> None:
    by_index, by_folder = open_checkpoint(index), open_checkpoint(index.parent)
    assert by_index.layout == by_folder.layout
    assert by_index.digest() == by_folder.digest()
    assert by_index.files == by_folder.files
    assert by_index.format == "safetensors, 2 shards"
    for name, tensor in small_state().items():
        assert read(by_folder, name) == data_of(tensor)


def test_the_digest_is_that_of_the_sha256sum_lines(index: Path) -> None:
    import hashlib

    lines = "".join(
        f"{hashlib.sha256((index.parent / name).read_bytes()).hexdigest()}  {name}\n"
        for name in SHARDS
    )
    assert open_checkpoint(index).digest() == hashlib.sha256(lines.encode()).hexdigest()


def test_a_missing_shard_is_named(index: Path) -> None:
    (index.parent / SHARDS[1]).unlink()
    refused(index, f"{SHARDS[1]}, which is missing")


def test_a_cut_shard_is_named(index: Path) -> None:
    shard = index.parent / SHARDS[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    refused(index, SHARDS[0])


def test_a_tensor_that_only_the_index_knows_is_named(index: Path) -> None:
    rewrite(index, ghost=SHARDS[0])
    refused(index, "disagree.*'ghost'")


def test_a_tensor_that_only_a_shard_knows_is_named(index: Path) -> None:
    rewrite(index, **{"body.bias": None})
    refused(index, "disagree.*'body.bias'")


def test_a_tensor_in_another_shard_than_the_index_says_is_named(index: Path) -> None:
    rewrite(index, **{"body.bias": SHARDS[1]})
    refused(index, "disagree.*'body.bias'")


@pytest.mark.parametrize("extra", [0, 1])
def test_a_tensor_in_two_shards_is_refused(index: Path, extra: int) -> None:
    """Shards of two saves mixed: one of the two values would win by accident."""
    state = small_state()
    names = sorted(state)
    mine = {name: state[name] for name in [*names[extra::2], names[1 - extra]]}
    save_file(mine, index.parent / SHARDS[extra])
    refused(index, f"disagree.*'{names[1 - extra]}'")


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        ".",
        "",
        "./x",
        "x\0y",
        "x" * 5000,
    ],
    ids=range(9),
)
def test_a_shard_outside_the_folder_is_refused(index: Path, name: str) -> None:
    save_file({"steps": torch.tensor(17)}, index.parent.parent / "x.safetensors")
    rewrite(index, steps=name)
    refused(index, "not a file beside it" if "/" in name else None)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"weight_map": null}',
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"w": 1}}',
        '{"weight_map": {"w": null}}',
        '{"weight_map": ' + "[" * 100_000,
        "\ud800",
    ],
    ids=range(12),
)
def test_a_broken_index_is_refused(index: Path, content: str) -> None:
    index.write_bytes(content.encode("utf-8", "surrogatepass"))
    refused(index, str(index.parent))


def test_ties_of_every_shard_are_seen(tmp_path: Path) -> None:
    index = save_shards(tmp_path, {"a": torch.ones(2), "b": torch.zeros(2)})
    save_file({"a": torch.ones(2)}, tmp_path / SHARDS[0], {"format": "pt", "head": "a"})
    assert open_checkpoint(index).layout.ties == {"head": "a"}


def test_an_index_is_read_whatever_else_it_says(index: Path) -> None:
    content: dict[str, Any] = json.loads(index.read_text())
    content |= {"metadata": {"total_size": 1, "total_parameters": None}, "more": []}
    index.write_text(json.dumps(content))
    assert set(open_checkpoint(index).layout.tensors) == set(small_state())
