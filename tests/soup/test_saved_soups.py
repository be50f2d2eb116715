"""What `Soup.save` writes, and what it refuses to."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

import ladle
from ladle.checkpoint import open_checkpoint
from ladle.errors import BadInput, NonFiniteTensor, NoSpace, OutputExists
from ladle.files import claimed
from ladle.merge import Linear
from ladle.soup import Pool, Soup, open_pool, uniform_soup
from ladle.soup.output import WriteOptions, save
from states import State, generator, pool_of, same_bits, small_state


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return pool_of(tmp_path / "runs", *[small_state(i) for i in range(3)])


def by_hand(*states: State) -> State:
    """The float64 mean of what floats, rounded once; the first of the rest."""
    return {
        name: (sum(s[name].double() for s in states) / len(states)).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


SOUP = by_hand(*[small_state(i) for i in range(3)])


def entries(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}


# --- the three kinds of output ------------------------------------------------------------


def test_a_folder_holds_weights_record_and_card(pool: Pool, tmp_path: Path) -> None:
    out = uniform_soup(pool).save(tmp_path / "soup")
    assert out == tmp_path / "soup"
    assert entries(out) == {"model.safetensors", "soup.json", "README.md"}
    assert same_bits(load_file(out / "model.safetensors"), SOUP)
    assert entries(tmp_path) - entries(tmp_path / "runs") >= {"soup/soup.json"}
    assert not (tmp_path / "soup.part").exists()


@pytest.mark.parametrize("name", ["soup.safetensors", "soup.pt", "soup.pth"])
def test_a_file_has_its_record_beside_it(pool: Pool, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    uniform_soup(pool).save(folder / name)
    assert entries(folder) == {name, f"{name}.json"}
    if name.endswith("safetensors"):
        found = load_file(folder / name)
    else:
        found = torch.load(folder / name, weights_only=True)
    assert same_bits(found, SOUP)
    assert json.loads((folder / f"{name}.json").read_text())["version"] == 1
    assert same_bits(uniform_soup(open_pool(folder / name)).state_dict(), SOUP)


@pytest.mark.parametrize("name", ["soup", "soup.safetensors", "soup.pt"])
def test_a_path_may_be_text_and_its_folder_may_be_missing(
    pool: Pool, tmp_path: Path, name: str
) -> None:
    uniform_soup(pool).save(str(tmp_path / "a" / "b" / name))
    assert (tmp_path / "a" / "b" / name).exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ""])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_weights_are_rounded_once_into_the_dtype_asked_for(
    pool: Pool, tmp_path: Path, dtype: str, suffix: str
) -> None:
    out = tmp_path / f"soup{suffix}"
    save(uniform_soup(pool), out, options=WriteOptions(dtype=dtype))
    file = out / "model.safetensors" if out.is_dir() else out
    found = torch.load(file, weights_only=True) if suffix == ".pt" else load_file(file)
    states = [small_state(i) for i in range(3)]
    for name, tensor in found.items():
        if not states[0][name].is_floating_point():
            assert torch.equal(tensor, states[0][name])
            continue
        exact = sum(s[name].double() for s in states) / 3
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, exact.to(tensor.dtype)) or dtype == "bfloat16"


def test_shapes_of_every_kind_are_written(tmp_path: Path) -> None:
    state = {
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "flag": torch.tensor(True),
        "byte": torch.tensor([7], dtype=torch.uint8),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "eighth": torch.ones(5).to(torch.float8_e4m3fn),
        "wide": torch.ones(2, dtype=torch.complex64),
        "": torch.ones(1),
        'ünï.✓ "quoted"\\': torch.ones(2),
    }
    pool = pool_of(tmp_path / "runs", state, state)
    for name in ("soup.safetensors", "soup.pt"):
        uniform_soup(pool).save(tmp_path / name)
    assert same_bits(load_file(tmp_path / "soup.safetensors"), state)
    assert same_bits(torch.load(tmp_path / "soup.pt", weights_only=True), state)


def test_a_tensor_may_not_be_called_as_the_header_calls_its_metadata(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "runs", {"__metadata__": torch.ones(1)}, suffix="pt")
    with pytest.raises(BadInput, match="__metadata__"):
        uniform_soup(pool).save(tmp_path / "soup.safetensors")
    assert not (tmp_path / "soup.safetensors").exists()


# --- shards -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 40, 100, 150, 10_000])
def test_shards_are_as_large_as_allowed_and_hold_everything_once(
    pool: Pool, tmp_path: Path, limit: int
) -> None:
    out = tmp_path / "soup"
    save(uniform_soup(pool), out, options=WriteOptions(max_shard_bytes=limit))
    found: State = {}
    shards = sorted(out.glob("*.safetensors"))
    for i, shard in enumerate(shards, 1):
        tensors = load_file(shard)
        assert not tensors.keys() & found.keys()
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= limit
        found |= tensors
        if len(shards) > 1:
            assert shard.name == f"model-{i:05d}-of-{len(shards):05d}.safetensors"
    assert same_bits(dict(sorted(found.items())), dict(sorted(SOUP.items())))
    assert (out / "model.safetensors.index.json").exists() == (len(shards) > 1)
    assert same_bits(uniform_soup(open_pool(out)).state_dict() | SOUP, SOUP)


def test_the_index_says_what_the_libraries_want_to_know(pool: Pool, tmp_path: Path) -> None:
    save(uniform_soup(pool), tmp_path / "soup", options=WriteOptions(max_shard_bytes=100))
    index = json.loads((tmp_path / "soup" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in SOUP.values())
    assert index["weight_map"].keys() == SOUP.keys()


# --- side files ---------------------------------------------------------------------------


def model_run(folder: Path, seed: int) -> Path:
    save_model_file = folder / "model.safetensors"
    (folder / "1_Pooling").mkdir(parents=True)
    save_file(small_state(seed), save_model_file, {"format": "pt"})
    (folder / "config.json").write_bytes(b'{"hidden": 1,\r\n "x":"\xc3\xbc"}')
    (folder / "tokenizer.json").write_bytes(bytes(range(256)))
    (folder / "1_Pooling" / "config.json").write_text(f'{{"of": {seed}}}')
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    torch.save({"x": 1}, folder / "optimizer.pt")
    torch.save({"x": 1}, folder / "rng_state.pth")
    return folder


def test_side_files_of_the_first_are_copied_byte_for_byte(tmp_path: Path) -> None:
    runs = [model_run(tmp_path / f"run{i}", i) for i in (1, 0)]
    out = uniform_soup(open_pool(runs)).save(tmp_path / "soup")
    copied = {"config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"}
    assert entries(out) == copied | {"model.safetensors", "soup.json", "README.md"}
    for name in copied:
        assert (out / name).read_bytes() == (runs[0] / name).read_bytes()


def test_a_file_output_has_no_side_files(tmp_path: Path) -> None:
    runs = [model_run(tmp_path / f"run{i}", i) for i in range(2)]
    uniform_soup(open_pool(runs)).save(tmp_path / "out" / "soup.safetensors")
    assert len(entries(tmp_path / "out")) == 2


def test_a_soup_of_soups_does_not_inherit_their_records(tmp_path: Path) -> None:
    runs = [model_run(tmp_path / f"run{i}", i) for i in range(3)]
    first = uniform_soup(open_pool(runs[:2])).save(tmp_path / "first")
    (first / "report.html").write_text("of the first")
    second = uniform_soup(open_pool([first, runs[2]])).save(tmp_path / "second")
    assert "report.html" not in entries(second)
    record = json.loads((second / "soup.json").read_text())
    assert [one["name"] for one in record["ingredients"]] == ["first", "run2"]


# --- ties ---------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_stay_tied_in_a_torch_file(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, *[Tied(i).state_dict() for i in range(3)], suffix="pt")
    uniform_soup(pool).save(tmp_path / "soup.pt")
    found = torch.load(tmp_path / "soup.pt", weights_only=True)
    assert found.keys() == Tied().state_dict().keys()
    assert found["embed.weight"].data_ptr() == found["head.weight"].data_ptr()
    assert same_bits(found, by_hand(*[Tied(i).state_dict() for i in range(3)]))
    # Twice the weights would be 288 bytes of data; what else is in the file does not depend on it.
    torch.save(Tied().state_dict(), tmp_path / "theirs.pt")
    size = (tmp_path / "soup.pt").stat().st_size
    assert abs(size - (tmp_path / "theirs.pt").stat().st_size) < 144


@pytest.mark.parametrize("out", ["soup.safetensors", "soup"])
def test_tied_weights_are_written_once_and_loaded_by_the_library(tmp_path: Path, out: str) -> None:
    pool = pool_of(tmp_path / "runs", *[Tied(i).state_dict() for i in range(3)], suffix="pt")
    path = uniform_soup(pool).save(tmp_path / out)
    file = path / "model.safetensors" if path.is_dir() else path
    assert set(load_file(file)) == {"embed.weight"}
    model = Tied(99)
    load_model(model, str(file))
    assert same_bits(model.state_dict(), by_hand(*[Tied(i).state_dict() for i in range(3)]))


def test_ties_survive_from_format_to_format(tmp_path: Path) -> None:
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"{i}.safetensors")
        save_model(Tied(i), str(paths[-1]))
    uniform_soup(open_pool(paths)).save(tmp_path / "soup.pt")
    found = torch.load(tmp_path / "soup.pt", weights_only=True)
    assert found["embed.weight"].data_ptr() == found["head.weight"].data_ptr()
    again = open_checkpoint(uniform_soup(open_pool(tmp_path / "soup.pt")).save(tmp_path / "again"))
    assert set(again.layout.tensors) | set(again.layout.ties) == set(found)


# --- records ------------------------------------------------------------------------------


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_the_header_says_where_the_soup_comes_from(pool: Pool, tmp_path: Path) -> None:
    uniform_soup(pool).save(tmp_path / "soup.safetensors")
    header = header_of(tmp_path / "soup.safetensors")
    assert header["format"] == "pt"
    tree = json.loads(header["ladle"])
    assert {row["sha256"] for row in tree["ingredients"]} == set(pool.digests)
    assert [row["weight"] for row in tree["ingredients"]] == [1 / 3] * 3


@pytest.mark.parametrize("out", ["first", "first.safetensors"])
def test_a_soup_of_soups_keeps_the_family_tree(pool: Pool, tmp_path: Path, out: str) -> None:
    first = uniform_soup(pool.subset([0, 1])).save(tmp_path / out)
    alone = tmp_path / "runs" / "c.safetensors"
    second = Soup(open_pool([first, alone]), Linear((0.75, 0.25))).save(tmp_path / "second")
    tree = json.loads(header_of(second / "model.safetensors")["ladle"])
    rows = {row["sha256"]: row for row in tree["ingredients"]}
    grandparents = rows[open_checkpoint(first).digest()]["soup"]["ingredients"]
    assert {row["sha256"] for row in grandparents} == set(pool.digests[:2])
    assert rows[pool.digests[2]] == {"sha256": pool.digests[2], "weight": 0.25}


def test_soup_json_tells_ingredients_and_weights(pool: Pool, tmp_path: Path) -> None:
    out = Soup(pool, Linear((2.0, 1.0, 1.0), 4.0), recipe="by hand", options={"a": 1}).save(
        tmp_path / "soup"
    )
    record: dict[str, Any] = json.loads((out / "soup.json").read_text())
    assert record["version"] == 1
    assert record["recipe"] == {"name": "by hand", "options": {"a": 1}}
    rows = [(row["name"], row["sha256"], row["weight"]) for row in record["ingredients"]]
    assert rows == list(
        zip(
            ["a.safetensors", "b.safetensors", "c.safetensors"],
            pool.digests,
            [0.5, 0.25, 0.25],
            strict=True,
        )
    )
    for row, one in zip(record["ingredients"], pool, strict=True):
        assert Path(row["path"]) == one.checkpoint.path
        assert row["bytes"] == one.checkpoint.layout.nbytes


def test_the_card_opens_with_front_matter_that_is_yaml(pool: Pool, tmp_path: Path) -> None:
    import yaml

    out = uniform_soup(pool).save(tmp_path / 'soup: "1" | ✓')
    text = (out / "README.md").read_text("utf-8")
    assert text.startswith("---\n")
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert "model-soup" in yaml.safe_load(front)["tags"]
    for one in pool:
        assert one.name in body
        assert one.digest in body


# --- determinism --------------------------------------------------------------------------


def weights_bytes(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes() if out.is_dir() else out.read_bytes()


@pytest.mark.parametrize("name", ["soup", "soup.safetensors", "soup.pt"])
@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_of_the_ingredients_changes_no_byte(
    tmp_path: Path, name: str, order: tuple[int, ...]
) -> None:
    # Each file has its tensors in another order, and numbers whose sum depends on the order.
    states: list[State] = []
    for i, scale in enumerate([1e30, 1.0, -1e30]):
        state = small_state(0, scale) | {"steps.num_batches_tracked": torch.tensor(i)}
        names = sorted(state, reverse=i == 1)
        states.append({n: state[n] for n in names})
    pool = pool_of(tmp_path / "runs", *states, suffix="pt")
    one = uniform_soup(pool).save(tmp_path / "one" / name)
    other = uniform_soup(pool.subset(order)).save(tmp_path / "other" / name)
    reopened = open_pool([pool[i].checkpoint.path for i in order])
    third = uniform_soup(reopened).save(tmp_path / "third" / name)
    assert weights_bytes(one) == weights_bytes(other) == weights_bytes(third)


@pytest.mark.slow
def test_every_process_writes_the_same_bytes(pool: Pool, tmp_path: Path) -> None:
    """A set of strings iterates in another order in every process; a soup must not notice."""
    program = (
        "import sys, ladle\nsoup = ladle.uniform(ladle.open(sys.argv[2]))\n"
        "for name in ('soup', 'soup.pt', 'soup.safetensors'): soup.save(sys.argv[1] + name)"
    )
    runs = str(tmp_path / "runs" / "*.safetensors")
    found = set()
    for seed in ("0", "1", "4242"):
        out = tmp_path / seed
        out.mkdir()
        subprocess.run(
            [sys.executable, "-c", program, f"{out}/", runs],
            env={"PYTHONHASHSEED": seed},
            check=True,
        )
        found.add(
            tuple(weights_bytes(out / name) for name in ("soup", "soup.pt", "soup.safetensors"))
        )
    assert len(found) == 1


def test_the_files_name_is_not_in_its_bytes(pool: Pool, tmp_path: Path) -> None:
    for suffix in ("pt", "safetensors"):
        one = uniform_soup(pool).save(tmp_path / f"one.{suffix}")
        other = uniform_soup(pool).save(tmp_path / f"another.{suffix}")
        assert one.read_bytes() == other.read_bytes()


# --- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["soup", "soup.safetensors", "soup.pt"])
def test_an_existing_output_is_kept_without_overwrite(
    pool: Pool, tmp_path: Path, name: str
) -> None:
    out = uniform_soup(pool).save(tmp_path / name)
    before = weights_bytes(out)
    other = Soup(pool, Linear((1.0, 0.0, 0.0)))
    with pytest.raises(OutputExists, match="add --overwrite"):
        other.save(out)
    assert weights_bytes(out) == before
    other.save(out, overwrite=True)
    assert weights_bytes(out) != before


def test_an_old_outputs_files_do_not_stay_in_the_new_one(pool: Pool, tmp_path: Path) -> None:
    soup, out = uniform_soup(pool), tmp_path / "soup"
    save(soup, out, options=WriteOptions(max_shard_bytes=1))
    soup.save(out, overwrite=True)
    assert entries(out) == {"model.safetensors", "soup.json", "README.md"}


def test_a_record_of_the_users_beside_a_new_file_is_kept(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "soup.pt.json").write_text("mine")
    with pytest.raises(OutputExists):
        uniform_soup(pool).save(tmp_path / "soup.pt")
    assert (tmp_path / "soup.pt.json").read_text() == "mine"


def test_a_folder_that_ladle_did_not_write_is_not_replaced(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(OutputExists, match="no soup that ladle wrote"):
        uniform_soup(pool).save(tmp_path / "thesis", overwrite=True)
    assert entries(tmp_path / "thesis") == {"chapter.tex"}


def test_an_output_that_is_holds_or_lies_in_an_ingredient_is_refused(tmp_path: Path) -> None:
    runs = [model_run(tmp_path / "runs" / f"run{i}", i) for i in range(2)]
    (runs[0] / "soup.json").write_text("{}")  # as if ladle had written it
    soup = uniform_soup(open_pool(runs))
    (tmp_path / "link").symlink_to(runs[0])
    before = entries(tmp_path)
    for out in [
        runs[0],
        runs[0] / "soup",
        runs[1] / "soup.safetensors",
        runs[1] / "model.safetensors",
        runs[0] / "a" / ".." / "b",
        tmp_path / "runs",
        tmp_path,
        tmp_path / "link",
        tmp_path / "link" / "soup",
    ]:
        with pytest.raises((BadInput, OutputExists)):
            soup.save(out, overwrite=True)
    files_only = uniform_soup(open_pool([run / "model.safetensors" for run in runs]))
    for out in [runs[0] / "model.safetensors", runs[0], tmp_path / "runs"]:
        with pytest.raises((BadInput, OutputExists)):
            files_only.save(out, overwrite=True)
    assert entries(tmp_path) == before


@pytest.mark.parametrize("name", ["soup", "soup.safetensors", "soup.pt"])
def test_a_full_disk_is_told_beforehand_and_leaves_nothing(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    before = entries(tmp_path)
    with pytest.raises(NoSpace, match="make room or name another --output"):
        uniform_soup(pool).save(tmp_path / name)
    assert entries(tmp_path) == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize("name", ["soup", "soup.safetensors", "soup.pt"])
def test_a_write_that_fails_half_way_leaves_nothing_and_says_so(tmp_path: Path, name: str) -> None:
    """A limit on file sizes stands for the disk that fills up while we write."""
    state = {"w": torch.randn(200_000, generator=generator(0))}
    pool_of(tmp_path / "runs", state, state)
    soup = ladle.uniform(ladle.open(str(tmp_path / "runs" / "*.safetensors")))
    allowed, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
    try:
        with pytest.raises(NoSpace, match=name):
            soup.save(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, most))
    assert {entry.name for entry in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize("name", ["soup", "soup.safetensors", "soup.pt"])
def test_a_soup_that_cannot_be_made_leaves_nothing(tmp_path: Path, name: str) -> None:
    bad = small_state(1)
    bad["head.weight"][1, 1] = float("nan")
    pool = pool_of(tmp_path / "runs", small_state(0), bad)
    with pytest.raises(NonFiniteTensor, match=r"b.safetensors.*'head.weight'"):
        uniform_soup(pool).save(tmp_path / name)
    assert {entry.name for entry in tmp_path.iterdir()} == {"runs"}


def test_what_waits_in_the_part_folder_of_a_killed_save_is_not_mixed_in(
    pool: Pool, tmp_path: Path
) -> None:
    with claimed(tmp_path / "soup") as work:  # as a killed save leaves it
        (work / "model-00001-of-00002.safetensors").write_text("half")
    out = uniform_soup(pool).save(tmp_path / "soup")
    assert entries(out) == {"model.safetensors", "soup.json", "README.md"}


def test_the_front_door_saves_too(tmp_path: Path) -> None:
    """The first example of the README."""
    pool_of(tmp_path / "runs", *[small_state(i) for i in range(3)])
    soup = ladle.uniform(ladle.open(str(tmp_path / "runs" / "*")))
    soup.save(tmp_path / "soup")
    assert same_bits(load_file(tmp_path / "soup" / "model.safetensors"), SOUP)


def test_further_weights_of_a_model_are_not_lost_in_silence(tmp_path: Path) -> None:
    """sentence-transformers keeps a dense layer in a folder of its own."""
    for name in ("a", "b"):
        (tmp_path / name / "2_Dense").mkdir(parents=True)
        save_file({"w": torch.zeros(1)}, tmp_path / name / "model.safetensors")
        save_file({"d": torch.zeros(1)}, tmp_path / name / "2_Dense" / "model.safetensors")
        (tmp_path / name / "modules.json").write_text('[{"path": ""}, {"path": "2_Dense"}]')
    soup = ladle.uniform(ladle.open([tmp_path / "a", tmp_path / "b"]))
    with pytest.raises(BadInput, match=r"2_Dense/model\.safetensors, which would not be averaged"):
        soup.save(tmp_path / "soup")
    assert not (tmp_path / "soup").exists()
    assert not (tmp_path / "soup.part").exists()


def test_an_unfinished_cook_is_not_swept_away(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "a.safetensors")
    with claimed(tmp_path / "soup") as work:
        (work / "ladle.sqlite").write_bytes(b"hours of work")
    with pytest.raises(OutputExists, match="unfinished `ladle cook`"):
        ladle.uniform(ladle.open(tmp_path / "a.safetensors")).save(tmp_path / "soup")
    assert (tmp_path / "soup.part" / "ladle.sqlite").read_bytes() == b"hours of work"


@pytest.mark.parametrize("name", ["soup.bin", "soup.onnx"])
def test_a_file_of_another_kind_is_not_made_a_folder(tmp_path: Path, name: str) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match=r"ladle writes no \.\w+ files"):
        ladle.uniform(ladle.open(tmp_path / "a.safetensors")).save(tmp_path / name)


def test_what_is_in_the_way_and_not_ours_stays(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "soup.part").mkdir()
    (tmp_path / "soup.part" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="is in the way, and not unfinished work of ladle"):
        uniform_soup(pool).save(tmp_path / "soup")
    assert (tmp_path / "soup.part" / "notes.txt").read_text() == "mine"


def test_two_commands_do_not_work_on_one_output(pool: Pool, tmp_path: Path) -> None:
    with claimed(tmp_path / "soup"), pytest.raises(OutputExists, match="another ladle is at work"):
        uniform_soup(pool).save(tmp_path / "soup")


def test_a_file_that_ladle_did_not_write_is_not_replaced(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "soup.safetensors").write_text("mine")
    with pytest.raises(OutputExists, match="no soup that ladle wrote"):
        uniform_soup(pool).save(tmp_path / "soup.safetensors", overwrite=True)
    assert (tmp_path / "soup.safetensors").read_text() == "mine"


def test_a_project_around_a_lone_file_is_not_published(tmp_path: Path) -> None:
    """A config.json in a working directory does not make all of it a model."""
    for name in ("a", "b"):
        save_file({"w": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "patients.csv").write_text("secret")
    out = uniform_soup(open_pool([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])).save(
        tmp_path / "soup"
    )
    assert entries(out) == {"model.safetensors", "soup.json", "README.md"}
