"""The streamed merge: the same bytes however it is cut, and every byte of the files read once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import ladle
from ladle.checkpoint import open_checkpoint, reading, stored, write
from ladle.checkpoint.numbers import Float64
from ladle.errors import BadInput, NonFiniteTensor
from ladle.merge import Ingredients, Linear, Merge, Readings, mean, stream
from ladle.soup import Ingredient, Pool, Soup, uniform_soup
from ladle.soup.live import StateDictSink
from ladle.soup.output import WriteOptions, save
from states import State, generator, pool_of, same_bits, save_shards

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(), (0,), (1,), (3, 0, 2), (7, 5), (64,), (3, 4, 5), (1000,)]


def saved(path: Path, state: Mapping[str, Tensor], form: str) -> Path:
    """A state as one file, in shards, or as torch.save writes it."""
    if form == "shards":
        return save_shards(path, state, shards=3).parent
    path.mkdir(parents=True)
    if form == "safetensors":
        save_file(dict(state), path / "model.safetensors")
        return path / "model.safetensors"
    torch.save(dict(state), path / "model.pt")
    return path / "model.pt"


def pool_in(folder: Path, states: Sequence[Mapping[str, Tensor]], forms: Sequence[str]) -> Pool:
    paths = [
        saved(folder / str(i), state, form)
        for i, (state, form) in enumerate(zip(states, forms, strict=True))
    ]
    return Pool.of(Ingredient(f"run{i}", open_checkpoint(path)) for i, path in enumerate(paths))


def merged(pool: Pool, merge: Merge, **how: Any) -> dict[str, Tensor]:
    sink = StateDictSink(pool.layout)
    ingredients = Ingredients([one.checkpoint for one in pool], [one.name for one in pool])
    stream(ingredients, merge, pool.layout, sink, **how)
    return sink.state


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[list[State], Linear]:
    """Models of one shape in any dtypes, and weights for all, or for single tensors."""
    n = draw(st.integers(1, 4))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    dtypes = draw(st.lists(st.sampled_from(FLOATS), min_size=n, max_size=n))
    noise = generator(draw(st.integers(0, 1000)))
    states = [
        {f"w{i}": torch.randn(shape, generator=noise).to(dtype) for i, shape in enumerate(shapes)}
        for dtype in dtypes
    ]
    weight = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-3, 3))
    row = st.lists(weight, min_size=n, max_size=n).map(tuple)
    by_tensor = draw(st.dictionaries(st.sampled_from(sorted(states[0])), row))
    divisor = draw(st.sampled_from([1.0, float(n), 0.3, -2.5]))
    return states, Linear(draw(row), divisor, by_tensor)


def reference(states: Sequence[State], merge: Linear, dtype: torch.dtype, name: str) -> Tensor:
    """The same in float64, and rounded once."""
    total = torch.zeros(states[0][name].shape, dtype=torch.float64)
    weights = merge.by_tensor.get(name, merge.weights)
    for state, weight in zip(states, weights, strict=True):
        total += weight * state[name].double()
    total /= merge.divisor
    if dtype != torch.bfloat16:
        return total.to(dtype)
    # torch rounds twice on its way to bfloat16.
    steps = torch.exp2(torch.frexp(total)[1].double().clamp(min=-125) - 8)
    return (torch.round(total / steps) * steps).to(dtype)


@given(sweep=sweeps(), forms=st.lists(st.sampled_from(["safetensors", "shards", "pt"]), min_size=4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_neither_threads_nor_slices_nor_files_change_a_byte(
    sweep: tuple[list[State], Linear], forms: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    states, merge = sweep
    pool = pool_in(tmp_path_factory.mktemp("sweep"), states, forms[: len(states)])
    found = merged(pool, merge, threads=1)
    for threads, elements, hashing in [(1, 7, True), (2, 64, False), (2, 100, True), (4, 13, True)]:
        again = merged(pool, merge, threads=threads, slice_elements=elements, hashing=hashing)
        assert same_bits(found, again)
    for name, tensor in found.items():
        wanted = reference(states, merge, tensor.dtype, name)
        assert tensor.dtype == wanted.dtype
        assert torch.equal(tensor, wanted)


@pytest.mark.parametrize("dtype", FLOATS[:3], ids=str)
@pytest.mark.parametrize("n", [2, 3, 7, 8, 72])
def test_a_uniform_soup_is_the_exact_mean_rounded_once(dtype: torch.dtype, n: int) -> None:
    """Weights as networks have them; the mean in rational numbers."""
    noise = generator(n)
    states = [{"w": (0.02 * torch.randn(300, generator=noise)).to(dtype)} for _ in range(n)]
    pool = Pool.of(
        Ingredient(str(i), ladle.checkpoint.MemoryCheckpoint(Path(str(i)), state))
        for i, state in enumerate(states)
    )
    found = uniform_soup(pool).state_dict()["w"].double().tolist()
    columns = zip(*(state["w"].double().tolist() for state in states), strict=True)
    digits = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24}[dtype]
    least = {torch.float16: -14, torch.bfloat16: -126, torch.float32: -126}[dtype]
    for value, column in zip(found, columns, strict=True):
        exact = sum(map(Fraction, column)) / n
        exponent = max(least, int(np.frexp(float(exact))[1]) - 1)
        step = Fraction(2) ** (exponent + 1 - digits)
        assert Fraction(value) == round(exact / step) * step  # round() is to even too


# --- hashing while reading ----------------------------------------------------------------


def sha256_of(checkpoint_files: Sequence[Path]) -> str:
    sums = [(hashlib.sha256(file.read_bytes()).hexdigest(), file.name) for file in checkpoint_files]
    if len(sums) == 1:
        return sums[0][0]
    lines = "".join(f"{digest}  {name}\n" for digest, name in sums)
    return hashlib.sha256(lines.encode()).hexdigest()


def big_states(n: int) -> list[State]:
    return [
        {
            "a": torch.randn(300, 1000, generator=generator(i)),
            "b": torch.randn(17, generator=generator(i)),
            "c": torch.randn(50, 100, generator=generator(i)),
            "steps": torch.tensor([1, 2, 3]),
        }
        for i in range(n)
    ]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("form", ["safetensors", "shards", "pt"])
def test_every_byte_is_read_once(
    form: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_in(tmp_path, big_states(3), [form] * 3)
    nbytes = 0

    def counted(descriptor: int, offset: int, out: Any) -> int:
        nonlocal nbytes
        nbytes += out.nbytes
        return reading.fill(descriptor, offset, out)

    monkeypatch.setattr(stored, "fill", counted)
    monkeypatch.setattr("ladle.checkpoint.hashing.fill", counted)
    merged(pool, mean(3), threads=threads, slice_elements=5000, hashing=True)
    assert pool.digests == tuple(sha256_of(one.checkpoint.files) for one in pool)
    assert nbytes == sum(file.stat().st_size for one in pool for file in one.checkpoint.files)


def test_files_that_lie_in_another_order_are_hashed_all_the_same(tmp_path: Path) -> None:
    states = big_states(2)
    pool = pool_in(tmp_path, [states[0], dict(reversed(states[1].items()))], ["pt", "pt"])
    merged(pool, mean(2), threads=4, slice_elements=1000, hashing=True)
    assert pool.digests == tuple(sha256_of(one.checkpoint.files) for one in pool)


def test_a_checkpoint_that_is_not_taken_is_hashed_all_the_same(tmp_path: Path) -> None:
    pool = pool_in(tmp_path, big_states(3), ["safetensors"] * 3)
    merge = Linear((1.0, 0.0, 0.0), by_tensor={"b": (0.0, 1.0, 0.0)})
    found = merged(pool, merge, threads=2, slice_elements=1000, hashing=True)
    assert torch.equal(found["b"], big_states(3)[1]["b"])
    assert pool.digests == tuple(sha256_of(one.checkpoint.files) for one in pool)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("threads", [1, 4])
def test_what_fails_halfway_leaves_nobody_waiting(threads: int, tmp_path: Path) -> None:
    states = big_states(3)
    states[1]["a"][150, 3] = float("nan")
    pool = pool_in(tmp_path, states, ["safetensors"] * 3)
    with pytest.raises(NonFiniteTensor, match="run1 has NaN or infinity in tensor 'a'"):
        merged(pool, mean(3), threads=threads, slice_elements=1000, hashing=True)


def test_a_saved_soup_knows_what_it_was_made_of_unless_told_not_to(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, *big_states(2))
    wanted = {sha256_of(one.checkpoint.files) for one in pool}
    for hashed, digests in ((True, wanted), (False, {None})):
        folder = tmp_path / f"soup-{hashed}"
        save(uniform_soup(pool_of(tmp_path, *big_states(2))), folder, options=options(hashed))
        record = json.loads((folder / "soup.json").read_text("utf-8"))
        assert {one["sha256"] for one in record["ingredients"] + record["pool"]} == digests
        with safe_open(folder / "model.safetensors", "pt") as file:
            tree = json.loads(file.metadata()["ladle"])
        assert {one["sha256"] for one in tree["ingredients"]} == digests
    one, other = (open_checkpoint(tmp_path / f"soup-{hashed}") for hashed in (True, False))
    assert [one.layout.tensors[n] for n in one.layout.names] == [
        other.layout.tensors[n] for n in one.layout.names
    ]


def options(hashed: bool) -> WriteOptions:
    return WriteOptions(hashed=hashed)


# --- files and disks ----------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists descriptors there")
@pytest.mark.parametrize("spoilt", [False, True])
def test_more_files_than_are_kept_open_are_read_and_none_stays_open(
    spoilt: bool, tmp_path: Path
) -> None:
    n = reading.MOST_KEPT + 5
    states: list[State] = [{"w": torch.full((100,), float(i))} for i in range(n)]
    states[n - 1]["w"][60] = float("nan") if spoilt else n - 1
    pool = pool_of(tmp_path, *states)
    before = len(list(Path("/proc/self/fd").iterdir()))
    if spoilt:
        with pytest.raises(NonFiniteTensor):
            merged(pool, mean(n), threads=3, slice_elements=30)
    else:
        found = merged(pool, mean(n), threads=3, slice_elements=30)
        assert found["w"].tolist() == [(n - 1) / 2] * 100
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_disk_that_fails_behind_the_work_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells the first who asks, and nobody after that."""

    def failing(descriptor: int) -> None:
        monkeypatch.undo()
        raise OSError(errno.EIO, "the disk is broken")

    pool = pool_of(tmp_path, *big_states(2))
    monkeypatch.setattr(write, "_BEHIND", 1000)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="the disk is broken"):
        save(uniform_soup(pool), tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


# --- other merges -------------------------------------------------------------------------


class UnitLength(Merge):
    """The mean, scaled to length 1: a merge that has to see the whole tensor."""

    elementwise = False

    def __call__(self, name: str, readings: Readings, out: Float64) -> None:
        out.fill(0.0)
        for i in range(len(readings)):
            out += readings[i]
        out /= np.linalg.norm(out)

    def for_order(self, order: Sequence[int]) -> UnitLength:
        return self

    def weights_of(self) -> tuple[float, ...]:
        return (0.5, 0.5)

    def record(self) -> dict[str, Any]:
        return {"kind": "unit length"}


@pytest.mark.parametrize("hashing", [False, True])
def test_a_merge_may_ask_for_whole_tensors(hashing: bool, tmp_path: Path) -> None:
    states = [{"w": torch.randn(40, 50, generator=generator(i))} for i in range(2)]
    pool = pool_of(tmp_path, *states)
    found = merged(pool, UnitLength(), threads=2, slice_elements=10, hashing=hashing)["w"]
    total = states[0]["w"].double() + states[1]["w"].double()
    assert torch.allclose(found.double(), total / total.norm(), rtol=1e-6, atol=0)
    assert same_bits({"w": found}, {"w": Soup(pool, UnitLength()).state_dict()["w"]})


def test_weights_by_tensor_follow_their_tensors(tmp_path: Path) -> None:
    """Whatever the order of the ingredients, and whatever a wrapper calls the tensors."""
    states = [{"a": torch.full((3,), v), "b": torch.full((2,), v)} for v in (1.0, 2.0, 4.0)]
    merge = Linear((0.5, 0.5, 0.0), by_tensor={"b": (0.0, -1.0, 2.0)})
    pool = pool_of(tmp_path, *states)
    soup = Soup(pool, merge)
    assert soup.state_dict()["a"].tolist() == [1.5] * 3
    assert soup.state_dict()["b"].tolist() == [6.0] * 2
    order = [2, 0, 1]
    turned = Soup(pool.subset(order), merge.for_order(order))
    assert turned.digest == soup.digest
    assert turned.digest != Soup(pool, Linear(merge.weights)).digest
    renamed = soup.renamed_as(["module.a", "module.b"])
    assert renamed.state_dict()["module.b"].tolist() == [6.0] * 2
    assert soup.merge.record()["by_tensor"] == {"b": [0.0, -1.0, 2.0]}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"by_tensor": {"b": (1.0,)}}, "1 weights for b do not go with the 2"),
        ({"by_tensor": {"b": (1.0, float("inf"))}}, "finite numbers.* for b"),
        ({"divisor": 0.0}, "divisor"),
    ],
)
def test_weights_that_mean_nothing_are_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        Linear((0.5, 0.5), **given)
