"""Which checkpoints a pool is made of, in which order, and what they have to share."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ladle
from ladle.errors import BadInput, LayoutMismatch, UnreadableCheckpoint
from ladle.soup import gather, open_pool, uniform_soup
from states import State, generator, pool_of, save_shards, small_state


def checkpoint(path: Path) -> Path:
    """Other weights for every path: the same would count once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(small_state(zlib.crc32(str(path).encode())), path)
    return path


def run(folder: Path) -> Path:
    """A model folder, as a trainer leaves it."""
    checkpoint(folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def found_in(inputs: str | Path | list[str] | list[Path]) -> list[Path]:
    return [one.checkpoint.path for one in gather(inputs).ingredients]


# --- names --------------------------------------------------------------------------------


def test_names_are_the_shortest_ends_that_tell_apart(tmp_path: Path) -> None:
    files = [checkpoint(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    assert [one.name for one in open_pool(files)] == ["a.safetensors", "b.safetensors"]
    deeper = [checkpoint(tmp_path / run / "last.safetensors") for run in ("lr1", "lr2")]
    assert [one.name for one in open_pool(deeper)] == [
        "lr1/last.safetensors",
        "lr2/last.safetensors",
    ]


def test_a_run_is_named_for_its_folder(tmp_path: Path) -> None:
    runs = [run(tmp_path / name) for name in ("lr1", "lr2")]
    assert [one.name for one in open_pool(runs)] == ["lr1", "lr2"]
    assert [one.name for one in open_pool([r / "model.safetensors" for r in runs])] == [
        "lr1",
        "lr2",
    ]


def test_files_and_folders_in_one_pool_have_names_of_their_own(tmp_path: Path) -> None:
    paths = [
        run(tmp_path / "a" / "last"),
        run(tmp_path / "b" / "last"),
        checkpoint(tmp_path / "b" / "last.safetensors"),
    ]
    names = [one.name for one in open_pool(paths)]
    assert len(set(names)) == 3


def test_a_name_is_that_of_the_link_the_user_gave(tmp_path: Path) -> None:
    """In the cache of the hub every file is a link to one that is called by its digest."""
    blob = checkpoint(tmp_path / "blobs" / "0123abcd")
    other = checkpoint(tmp_path / "blobs" / "4567cdef")
    links = [tmp_path / "snapshot" / f"{name}.safetensors" for name in "ab"]
    links[0].parent.mkdir()
    links[0].symlink_to(blob)
    links[1].symlink_to(other)
    assert [one.name for one in open_pool(links)] == ["a.safetensors", "b.safetensors"]


# --- order --------------------------------------------------------------------------------


def test_the_order_is_the_users(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / f"{name}.safetensors") for name in "cab"]
    assert [one.checkpoint.path for one in open_pool(paths)] == paths


def test_a_globs_matches_are_in_natural_order(tmp_path: Path) -> None:
    for step in (1000, 9, 10, 200):
        run(tmp_path / f"checkpoint-{step}")
    found = found_in(str(tmp_path / "checkpoint-*"))
    assert [path.name for path in found] == [
        "checkpoint-9",
        "checkpoint-10",
        "checkpoint-200",
        "checkpoint-1000",
    ]


def test_several_globs_keep_their_order(tmp_path: Path) -> None:
    for name in ("b2", "b1", "a"):
        checkpoint(tmp_path / f"{name}.safetensors")
    found = found_in([str(tmp_path / "b*"), str(tmp_path / "a*")])
    assert [path.stem for path in found] == ["b1", "b2", "a"]


def test_a_glob_takes_weights_and_leaves_what_lies_beside_them(tmp_path: Path) -> None:
    """`runs/*` in a folder with logs, notes, a sweep's record and the record of a soup."""
    run(tmp_path / "run-1")
    checkpoint(tmp_path / "soup.safetensors")
    for name in ("sweep.json", "log.txt", "soup.safetensors.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "plots").mkdir()
    found = found_in(str(tmp_path / "*"))
    assert [path.name for path in found] == ["run-1", "soup.safetensors"]


def test_brackets_in_a_real_path_are_no_pattern(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "lr[1e-5]" / "a.safetensors")
    assert found_in([path]) == [path]


def test_a_pattern_through_folders_is_followed(tmp_path: Path) -> None:
    for name in ("x/1/a", "y/2/a"):
        checkpoint(tmp_path / f"{name}.safetensors")
    assert len(found_in(str(tmp_path / "**" / "*.safetensors"))) == 2


def test_a_sweeps_folder_is_its_finished_runs(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for number in (2, 10, 1):
        folder = run(sweep / f"run-{number}")
        (folder / "run.json").write_text("{}")
    run(sweep / "run-3")  # has no record: it is not finished
    (run(sweep / "run-4.part") / "run.json").write_text("{}")
    run(sweep / "base")
    (sweep / "sweep.json").write_text("{}")
    assert [path.name for path in found_in(sweep)] == ["run-1", "run-2", "run-10"]


# --- what is no pool ----------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [[], ()])
def test_a_pool_of_nothing_is_refused(inputs: list[str]) -> None:
    with pytest.raises(BadInput, match="at least one checkpoint"):
        open_pool(inputs)


def test_paths_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"gone.pt does not exist"):
        open_pool(tmp_path / "gone.pt")
    with pytest.raises(BadInput, match="no checkpoint matches"):
        open_pool(str(tmp_path / "*.pt"))
    with pytest.raises(BadInput, match="holds no checkpoint"):
        open_pool(tmp_path / "empty")


def test_a_checkpoint_given_twice_counts_once(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").symlink_to(path)
    os.link(path, tmp_path / "c.safetensors")
    indirect = tmp_path / "x" / ".." / "a.safetensors"
    (tmp_path / "x").mkdir()
    links = [tmp_path / "b.safetensors", tmp_path / "c.safetensors"]
    for again in (path, str(path), os.path.relpath(path), indirect, *links):
        pool = open_pool([path, again])
        assert len(pool) == 1
        assert pool.remarks == (f"{again} is {path} again, and counts once",)


def test_copies_count_once_and_near_copies_do_not(tmp_path: Path) -> None:
    state = {f"w{i}": torch.randn(300_000, generator=generator(i)) for i in range(3)}
    for name in "abc":
        save_file(state, tmp_path / f"{name}.safetensors")
    torch.save(state, tmp_path / "d.pt")
    state["w1"][150_000] += 1  # Where no sample looks.
    save_file(state, tmp_path / "c.safetensors")
    pool = open_pool(str(tmp_path / "*"))
    assert [one.name for one in pool] == ["a.safetensors", "c.safetensors"]
    assert pool.remarks == tuple(
        f"{tmp_path / name} holds the same tensors as {tmp_path / 'a.safetensors'}; they count once"
        for name in ("b.safetensors", "d.pt")
    )


def test_a_folder_and_its_own_weights_are_one_checkpoint(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    assert len(open_pool([folder, folder / "model.safetensors"])) == 1
    index = save_shards(tmp_path / "shards", small_state())
    assert len(open_pool([index.parent, index])) == 1


def test_copies_of_a_checkpoint_are_no_mistake_of_the_pool(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, small_state(), small_state())
    assert pool.digests[0] == pool.digests[1]


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    good, bad = (checkpoint(tmp_path / f"{name}.safetensors") for name in ("good", "bad"))
    bad.write_bytes(bad.read_bytes()[:-3])
    with pytest.raises(UnreadableCheckpoint, match=r"bad.safetensors"):
        open_pool([good, bad])


# --- one layout ---------------------------------------------------------------------------


def test_all_differences_of_all_checkpoints_are_named_at_once(tmp_path: Path) -> None:
    base = {"body": torch.ones(3, 2), "head": torch.ones(4), "steps": torch.tensor(1)}
    wide = base | {"head": torch.ones(10), "body": torch.ones(2, 3)}
    other: State = {name: t for name, t in base.items() if name != "head"} | {
        "classifier": torch.ones(4),
        "steps": torch.tensor(1.0),
    }
    with pytest.raises(LayoutMismatch) as caught:
        pool_of(tmp_path, base, wide, base, other)
    message = str(caught.value)
    for line in (
        "cannot be averaged with a.safetensors",
        "  b.safetensors",
        "head has shape [10], expected [4]",
        "body has shape [2, 3], expected [3, 2]",
        "  d.safetensors",
        "missing     head",
        "unexpected  classifier",
        "steps is float32, expected int64",
    ):
        assert line in message
    assert "  c.safetensors" not in message


def test_a_long_list_of_differences_is_cut(tmp_path: Path) -> None:
    many = {f"layer{i:03d}": torch.ones(1) for i in range(100)}
    with pytest.raises(LayoutMismatch, match=r"\.\.\. and \d+ more") as caught:
        pool_of(tmp_path, many, {"w": torch.ones(1)})
    assert str(caught.value).count("\n") < 20


@pytest.mark.parametrize("suffix", ["pt"])
def test_tied_here_and_not_there_is_a_difference(tmp_path: Path, suffix: str) -> None:
    shared = torch.ones(3)
    tied = {"embed": shared, "head": shared}
    free = {"embed": torch.ones(3), "head": torch.ones(3)}
    for states in ((tied, free), (free, tied)):
        with pytest.raises(LayoutMismatch, match="head"):
            pool_of(tmp_path, *states, suffix=suffix)


def test_tied_to_another_tensor_is_a_difference(tmp_path: Path) -> None:
    a, b = torch.ones(3), torch.zeros(3)
    with pytest.raises(LayoutMismatch, match="c is tied to b, expected a"):
        pool_of(tmp_path, {"a": a, "b": b, "c": a}, {"a": a, "b": b, "c": b}, suffix="pt")


def test_layouts_agree_whatever_the_order_of_tensors_and_the_format(tmp_path: Path) -> None:
    state = small_state()
    torch.save(dict(reversed(state.items())), tmp_path / "a.pt")
    save_file(small_state(1), tmp_path / "b.safetensors")
    index = save_shards(tmp_path / "c", small_state(2), 3)
    pool = open_pool([tmp_path / "a.pt", tmp_path / "b.safetensors", index])
    assert len(pool) == 3
    states = [state, small_state(1), small_state(2)]
    for name, tensor in uniform_soup(pool).state_dict().items():
        wanted = sum(one[name].double() for one in states) / 3
        assert torch.equal(tensor, wanted.to(tensor.dtype))


def test_reading_headers_is_all_that_opening_does(tmp_path: Path) -> None:
    """A petabyte of zeros, which no disk holds, opens at once."""
    path = tmp_path / "huge.safetensors"
    from states import with_header

    header = with_header({"w": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2**40)
    assert ladle.open(path).layout.parameters == 2**38
