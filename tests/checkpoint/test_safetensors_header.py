"""A header is believed only if it agrees with itself and with the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model

from ladle.checkpoint import open_checkpoint
from ladle.errors import UnreadableCheckpoint
from states import data_of, read, small_state, with_header

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def refused(path: Path, content: bytes, match: str | None = None) -> None:
    path.write_bytes(content)
    with pytest.raises(UnreadableCheckpoint, match=match) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)


def changed(**changes: Any) -> bytes:
    return with_header({"w": ENTRY | changes}, bytes(8))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.safetensors"


def test_the_untouched_header_is_accepted(path: Path) -> None:
    path.write_bytes(changed())
    assert str(open_checkpoint(path).layout.tensors["w"]) == "float32 [2]"


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    save_file(small_state(), path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in [0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 1]:
        refused(path, whole[:length])


def test_a_file_with_more_than_it_announces_is_refused(path: Path) -> None:
    save_file(small_state(), path)
    refused(path, path.read_bytes() + b"\0", "bytes where its header asks for")


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 100_000_001, 1000])
def test_a_header_longer_than_the_file_is_refused_unread(path: Path, length: int) -> None:
    refused(path, length.to_bytes(8, "little") + b"{}", "cannot hold the header")


def test_a_header_beyond_the_libraries_limit_is_refused_unread(path: Path) -> None:
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little") + b"{")
        file.truncate(100_000_100)  # sparse
    with pytest.raises(UnreadableCheckpoint):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"w"',
        b"3",
        b"{}{}",
        b"\xff\xfe{}",
        b'{"\xff": 1}',
        b'\xef\xbb\xbf{"a": 1}',
        "{}".encode("utf-16"),
        b'{"w": ' * 5000,
        b"[" * 200_000,
        b'{"__metadata__": {"a": "1", "a": "2"}}',
        b'{"w": NaN}',
        b'{"w": 1e999}',
        b'{"w": ' + b"9" * 10_000 + b"}",
    ],
    ids=range(17),
)
def test_a_header_that_is_no_json_object_in_utf8_is_refused(path: Path, text: bytes) -> None:
    refused(path, with_header(text))


def test_a_tensor_named_twice_is_refused(path: Path) -> None:
    entry = json.dumps(ENTRY)
    refused(path, with_header(f'{{"w": {entry}, "w": {entry}}}'.encode(), bytes(8)), "'w'.*twice")


def test_a_key_named_twice_inside_an_entry_is_refused(path: Path) -> None:
    text = b'{"w": {"dtype": "F32", "dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}'
    refused(path, with_header(text, bytes(8)), "'dtype'.*twice")


@pytest.mark.parametrize(
    "offsets",
    [
        ([0, 8], [4, 12]),  # overlapping
        ([0, 8], [12, 20]),  # a gap
        ([4, 12], [12, 20]),  # a gap at the start
        ([0, 8], [0, 8]),  # the same
        ([8, 0], [8, 16]),  # backwards
        ([-8, 0], [0, 8]),
    ],
)
def test_tensors_that_overlap_or_leave_gaps_are_refused(path: Path, offsets: Any) -> None:
    header = {n: ENTRY | {"data_offsets": o} for n, o in zip("vw", offsets, strict=True)}
    refused(path, with_header(header, bytes(20)))


@pytest.mark.parametrize(
    "shape",
    [
        [3],
        [1],
        [],
        [-2],
        [-1, -2],
        [2.0],
        [True, 2],
        ["2"],
        [[2]],
        [2**63, 2],
        [2**32, 2**32, 2],
        [None],
        None,
        2,
        "2",
        {},
        {"2": 2},
    ],
    ids=repr,
)
def test_a_shape_that_does_not_fit_its_bytes_is_refused(path: Path, shape: object) -> None:
    refused(path, changed(shape=shape), "'w'")


@pytest.mark.parametrize("shape", ["", {}, None, 0], ids=repr)
def test_a_scalars_shape_is_a_list_too(path: Path, shape: object) -> None:
    refused(
        path, with_header({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}, b"1234")
    )


@pytest.mark.parametrize(
    "offsets",
    [[0], [0, 8, 8], [], None, "08", [0.0, 8.0], [False, 8], [0, None], {"0": 0, "8": 8}, 8],
    ids=repr,
)
def test_a_place_that_is_no_pair_of_numbers_is_refused(path: Path, offsets: object) -> None:
    refused(path, changed(data_offsets=offsets), "'w'")


@pytest.mark.parametrize(
    "dtype", ["F33", "f32", "", None, 32, [], ["F32"], {}, "float32"], ids=repr
)
def test_an_unknown_dtype_is_refused(path: Path, dtype: object) -> None:
    refused(path, changed(dtype=dtype), "dtype")


@pytest.mark.parametrize("entry", [None, 1, "F32", [], {}, {"dtype": "F32"}, [1, 2, 3]], ids=repr)
def test_an_entry_without_its_facts_is_refused(path: Path, entry: object) -> None:
    refused(path, with_header({"w": entry}), "'w'")


@pytest.mark.parametrize(
    "metadata", [None, [], "pt", {"format": 1}, {"a": None}, {"a": {}}], ids=repr
)
def test_metadata_other_than_text_is_refused(path: Path, metadata: object) -> None:
    refused(path, with_header({"__metadata__": metadata}), "metadata")


def test_a_name_that_no_file_can_hold_is_refused(path: Path) -> None:
    """JSON can write half a surrogate pair, which is no text."""
    refused(
        path,
        with_header(rb'{"\ud800": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}', b"1234"),
    )


def test_a_file_of_no_tensors_is_a_checkpoint(path: Path) -> None:
    path.write_bytes(with_header({}))
    assert open_checkpoint(path).layout.tensors == {}


def test_metadata_is_kept_as_it_is(path: Path) -> None:
    save_file({"w": torch.ones(2)}, path, {"format": "pt", "note": "ünïcode ✓"})
    assert open_checkpoint(path).metadata == {"format": "pt", "note": "ünïcode ✓"}


def test_save_models_ties_are_seen(path: Path) -> None:
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5)})
    model["head"].weight = model["embed"].weight
    save_model(model, str(path))
    layout = open_checkpoint(path).layout
    assert set(layout.tensors) == {"embed.weight", "head.bias"}
    assert layout.ties == {"head.weight": "embed.weight"}


def test_the_word_format_is_no_tie_even_if_a_tensor_is_called_pt(path: Path) -> None:
    save_file({"pt": torch.ones(2)}, path, {"format": "pt"})
    assert open_checkpoint(path).layout.ties == {}


@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8]),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        max_size=6,
    )
)
@example(tensors={"": (torch.bool, []), "model.layers.0.ünï✓": (torch.float32, [3])})
def test_whatever_the_library_writes_is_read(
    tensors: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = {
        name: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        for name, (dtype, shape) in tensors.items()
    }
    path = tmp_path_factory.mktemp("library") / "one.safetensors"
    save_file(state, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.layout.tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert read(checkpoint, name) == data_of(tensor)
