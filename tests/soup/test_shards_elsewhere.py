"""Shards written as jobs: the bytes of one pass, whoever does them and however often."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import ladle
from ladle.ahead import one_by_one
from ladle.checkpoint import MemoryCheckpoint
from ladle.checkpoint.hashing import RunningSha256
from ladle.errors import BadInput, NonFiniteTensor, UnreadableCheckpoint
from ladle.merge import Linear
from ladle.soup import Pool, Soup
from ladle.soup.output import WriteOptions, save

CONFIG = BertConfig(
    vocab_size=500, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
)
SMALL = 40_000
"""Bytes of an output's shard; of the models' own there are 60,000."""


def make_models(folder: Path, dtype: torch.dtype, n: int = 3) -> list[Path]:
    """Real sharded models, in the files of transformers."""
    paths = [folder / f"run-{i}" for i in range(n)]
    for i, path in enumerate(paths):
        torch.manual_seed(i)
        BertForSequenceClassification(CONFIG).to(dtype).save_pretrained(path, max_shard_size=60_000)
        assert (path / "model.safetensors.index.json").is_file()
    return paths


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_models(tmp_path_factory.mktemp("models"), request.param)


def soups(pool: Pool) -> dict[str, Soup]:
    names = sorted(pool.layout.tensors)
    rows = {name: (0.2, 0.3, 0.5) if i % 2 else (1.5, -0.5, 0.0) for i, name in enumerate(names)}
    return {
        "uniform": ladle.uniform(pool),
        "by tensor": Soup(pool, Linear((0.1, 0.2, 0.7), by_tensor=rows), recipe="learned"),
    }


def contents(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in output.iterdir() if file.name != "soup.json"}


def pickling(work: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
    """A map that sends work and results as another process would get them."""
    sent = pickle.dumps(work)
    for item in items:
        result = pickle.loads(sent)(pickle.loads(pickle.dumps(item)))  # noqa: S301 -- our own
        yield pickle.loads(pickle.dumps(result))  # noqa: S301


def twice(work: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
    """Does everything again, as for a job that was thought to be lost."""
    return ([work(item), work(item)][1] for item in items)


@pytest.mark.parametrize("kind", ["uniform", "by tensor"])
@pytest.mark.parametrize("map_", [one_by_one, builtins.map, pickling, twice])
def test_jobs_write_the_bytes_of_one_pass(
    models: list[Path], tmp_path: Path, kind: str, map_: Any
) -> None:
    here, there = tmp_path / "here" / "soup", tmp_path / "there" / "soup"
    options = WriteOptions(max_shard_bytes=SMALL)
    save(soups(ladle.open(models))[kind], here, options=options)
    told: list[int] = []
    save(
        soups(ladle.open(models))[kind],
        there,
        options=replace(options, map=map_, threads=1),
        advance=told.append,
    )
    assert contents(here) == contents(there)
    assert len([name for name in contents(here) if name.endswith(".safetensors")]) >= 4
    records = [json.loads((one / "soup.json").read_text()) for one in (here, there)]
    assert records[0]["ingredients"] == records[1]["ingredients"]
    assert all(one["sha256"] for one in records[1]["ingredients"])
    assert sum(told) == ladle.open(models).layout.nbytes
    loaded = BertForSequenceClassification.from_pretrained(there)
    assert loaded.num_parameters() > 0


def test_no_hash_is_computed_that_is_not_wanted(models: list[Path], tmp_path: Path) -> None:
    done: list[object] = []

    def counting(work: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        done.extend(items := list(items))
        return builtins.map(work, items)

    options = WriteOptions(max_shard_bytes=SMALL, map=counting, hashed=False)
    save(ladle.uniform(ladle.open(models)), tmp_path / "soup", options=options)
    shards = list((tmp_path / "soup").glob("model-*"))
    assert len(done) == len(shards)
    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert record["ingredients"][0]["sha256"] is None
    # With digests, each file of each ingredient is a job too.
    done.clear()
    options = replace(options, hashed=True)
    save(ladle.uniform(ladle.open(models)), tmp_path / "hashed", options=options)
    files = [file for model in models for file in model.glob("model-*")]
    assert len(done) == len(shards) + len(files)


def test_who_hands_out_jobs_hashes_nothing_itself(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: list[bool] = []
    read_on = RunningSha256._read_on

    def watched(self: RunningSha256, stop: int) -> None:
        assert at_work
        read_on(self, stop)

    def working(work: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            at_work.append(True)
            result = pickling(work, [item])
            yield next(result)
            at_work.clear()

    monkeypatch.setattr(RunningSha256, "_read_on", watched)
    options = WriteOptions(max_shard_bytes=SMALL, map=working)
    save(ladle.uniform(ladle.open(models)), tmp_path / "soup", options=options)
    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert all(one["sha256"] for one in record["ingredients"])


def test_a_job_is_small_and_takes_no_weights_along(models: list[Path], tmp_path: Path) -> None:
    pool = ladle.open(models)
    state = {"bert.embeddings.word_embeddings.weight": torch.randn(500, 32)}
    soup = replace(
        ladle.uniform(pool), statistics=MemoryCheckpoint(Path("estimated"), state), beside={"x": 1}
    )
    sizes: list[int] = []

    def weighing(work: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        sizes.append(len(pickle.dumps(work)))
        return pickling(work, items)

    options = WriteOptions(max_shard_bytes=SMALL, hashed=False)
    save(soup, tmp_path / "there" / "soup", options=replace(options, map=weighing))
    save(soup, tmp_path / "here" / "soup", options=options)
    assert contents(tmp_path / "here" / "soup") == contents(tmp_path / "there" / "soup")
    # The statistics, and what the headers say.
    assert sizes[0] < 500 * 32 * 4 + 100_000


def test_one_file_is_written_here(models: list[Path], tmp_path: Path) -> None:
    def refused(work: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        raise AssertionError

    for name in ("soup", "soup.safetensors", "soup.pt"):
        options = WriteOptions(map=refused)
        save(ladle.uniform(ladle.open(models)), tmp_path / name, options=options)


def leftovers(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name != "other"]


def test_what_fails_publishes_nothing(models: list[Path], tmp_path: Path) -> None:
    """In the last shard, when the others are there."""
    broken = tmp_path / "other"
    shutil.copytree(models[0], broken)
    model = BertForSequenceClassification.from_pretrained(broken)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    model.save_pretrained(broken, max_shard_size=60_000)
    options = WriteOptions(max_shard_bytes=SMALL, map=pickling)
    with pytest.raises(NonFiniteTensor, match=r"tensor 'classifier\.bias'"):
        save(ladle.uniform(ladle.open([*models, broken])), tmp_path / "soup", options=options)
    assert leftovers(tmp_path) == []


def before_jobs(do: Callable[[Path], object]) -> Any:
    """A map that does something to the folder of the jobs first."""

    def map_(work: Any, items: Iterable[Any], /) -> Iterator[Any]:
        do(work.folder)
        return builtins.map(work, items)

    return map_


def test_a_machine_with_a_folder_of_its_own_is_told(models: list[Path], tmp_path: Path) -> None:
    """There the output is, but not what the command has made in it."""
    options = WriteOptions(
        max_shard_bytes=SMALL, hashed=False, map=before_jobs(lambda work: work.rmdir())
    )
    with pytest.raises(BadInput, match=rf"does not see {tmp_path}/soup.part; name an --output"):
        save(ladle.uniform(ladle.open(models)), tmp_path / "soup", options=options)
    assert leftovers(tmp_path) == []


def test_what_a_machine_says_it_wrote_has_to_be_here(models: list[Path], tmp_path: Path) -> None:
    def lost(work: Any, items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            done = work(item)
            (work.folder / item.name).unlink()
            yield done

    options = WriteOptions(max_shard_bytes=SMALL, hashed=False, map=lost)
    with pytest.raises(BadInput, match=r"wrote to .*soup.part is not there for"):
        save(ladle.uniform(ladle.open(models)), tmp_path / "soup", options=options)
    assert leftovers(tmp_path) == []


def test_an_input_that_a_machine_cannot_read_is_named(models: list[Path], tmp_path: Path) -> None:
    shutil.copytree(models[0], tmp_path / "other")
    file = min((tmp_path / "other").glob("model-*"))
    options = WriteOptions(
        max_shard_bytes=SMALL, hashed=False, map=before_jobs(lambda _: file.unlink())
    )
    soup = ladle.uniform(ladle.open([*models[1:], tmp_path / "other"]))
    with pytest.raises(BadInput, match=rf"{os.uname().nodename} cannot read {file} \(No such file"):
        save(soup, tmp_path / "soup", options=options)
    assert leftovers(tmp_path) == []


def test_another_copy_of_an_input_is_not_taken_for_it(models: list[Path], tmp_path: Path) -> None:
    """A machine that has another file under this path would give another model's bytes."""
    shutil.copytree(models[0], tmp_path / "other")
    file = min((tmp_path / "other").glob("model-*"))
    options = WriteOptions(
        max_shard_bytes=SMALL, hashed=False, map=before_jobs(lambda _: os.utime(file, (1, 1)))
    )
    soup = ladle.uniform(ladle.open([*models[1:], tmp_path / "other"]))
    with pytest.raises(
        UnreadableCheckpoint, match=rf"on {os.uname().nodename}: {file} changed after it was opened"
    ):
        save(soup, tmp_path / "soup", options=options)


def test_jobs_read_urls(models: list[Path], tmp_path: Path) -> None:
    remote = fsspec.filesystem("memory")
    for model in models:
        remote.put(str(model), f"/bucket/runs/{model.name}", recursive=True)
    try:
        options = WriteOptions(max_shard_bytes=SMALL)
        save(ladle.uniform(ladle.open(models)), tmp_path / "here" / "soup", options=options)
        pool = ladle.open([f"memory://bucket/runs/{model.name}" for model in models])
        options = replace(options, map=pickling)
        save(ladle.uniform(pool), tmp_path / "there" / "soup", options=options)
    finally:
        remote.rm("/bucket", recursive=True)
    assert contents(tmp_path / "here" / "soup") == contents(tmp_path / "there" / "soup")
