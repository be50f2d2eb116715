"""Files of torch.save: no code runs, and nothing but a flat state dict is accepted."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ladle.checkpoint import open_checkpoint
from ladle.errors import UnreadableCheckpoint
from states import data_of, generator, read, small_state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.pt"


def refused(path: Path, match: str | None = None) -> None:
    with pytest.raises(UnreadableCheckpoint, match=match) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def rezip(
    path: Path,
    change: Callable[[str, bytes], bytes | None] = lambda name, data: data,
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write the zip anew, each member as `change` returns it; None leaves it out."""
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in members:
            changed = change(name, data)
            if changed is not None:
                new.writestr(name, changed)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_code_in_a_file_does_not_run(path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    torch.save({"w": torch.ones(2), "x": Harmful(trace)}, path)
    refused(path, "x is no named tensor; save the model's state_dict")
    torch.save({"model": {"w": torch.ones(2)}, "x": Harmful(trace)}, path)
    assert read(open_checkpoint(path), "w") == data_of(torch.ones(2))
    assert not trace.exists()


def test_code_in_a_file_of_the_old_format_does_not_run(path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    torch.save({"x": Harmful(trace)}, path, _use_new_zipfile_serialization=False)
    refused(path)
    path.write_bytes(pickle.dumps(Harmful(trace)))
    refused(path)
    assert not trace.exists()


def test_a_pickled_model_is_not_unpickled(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)
    refused(path, "holds Linear, not a state dict")


def test_a_file_of_the_old_format_says_what_to_do(path: Path) -> None:
    torch.save(small_state(), path, _use_new_zipfile_serialization=False)
    refused(path, "before PyTorch 1.6")


def test_a_torchscript_file_is_refused(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))
    refused(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"one": {"w": torch.ones(2)}, "other": {"w": torch.ones(2)}}, "several state dicts"),
        ({"model": {"w": "text"}, "epoch": 3}, "epoch, model are no named tensor"),
        ({"w": torch.ones(2), "epoch": 3}, "epoch is no named tensor"),
        ({}, "not a state dict"),
        ([torch.ones(2)], "list, not a state dict"),
        (torch.ones(2), "Tensor, not a state dict"),
        (None, "NoneType, not a state dict"),
        ("text", "str, not a state dict"),
        ({0: torch.ones(2)}, "0"),
        ({0: torch.ones(2), "0": torch.zeros(2)}, "0"),
        ({None: 3, "w": torch.ones(2), 2: 2}, None),
    ],
    ids=range(11),
)
def test_what_is_no_flat_state_dict_is_refused(path: Path, content: Any, match: str) -> None:
    torch.save(content, path)
    refused(path, match)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.ones(2, dtype=torch.complex128),
        torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64).conj(),
        torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64).conj().imag,
    ],
    ids=["sparse", "complex128", "conjugated", "negated"],
)
def test_a_tensor_that_is_not_plain_bytes_is_refused(path: Path, tensor: torch.Tensor) -> None:
    torch.save({"fine": torch.ones(2), "odd": tensor}, path)
    refused(path, "'odd'.*does not read|sparse")


def test_parameters_and_ordered_dicts_are_tensors_and_dicts(path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    torch.save(OrderedDict(model.state_dict(keep_vars=True)), path)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.layout.tensors) == list(model.state_dict())
    assert read(checkpoint, "0.weight") == data_of(model[0].weight)


@pytest.mark.parametrize("name", ["one.pt", "one.pth", "one.bin", "one.ckpt", "one", "one.model"])
def test_a_torch_file_is_known_by_its_contents_or_name(tmp_path: Path, name: str) -> None:
    torch.save(small_state(), tmp_path / name)
    assert set(open_checkpoint(tmp_path / name).layout.tensors) == set(small_state())


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    torch.save(small_state(), path)
    whole = path.read_bytes()
    for length in [0, 1, 4, 30, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("content", [b"text", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), bytes(500)])
def test_a_file_of_something_else_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    refused(tmp_path / "one.zip")


def test_a_missing_storage_is_refused(path: Path) -> None:
    torch.save({"v": torch.ones(99), "w": torch.ones(100)}, path)
    rezip(path, lambda name, data: None if name.endswith("data/1") else data)
    refused(path)


def test_a_storage_shorter_than_its_tensor_says_is_refused(path: Path) -> None:
    """Not even if what lies behind it in the file is long enough."""
    torch.save({"v": torch.ones(100), "w": torch.ones(100)}, path)
    rezip(path, lambda name, data: data[:40] if name.endswith("data/0") else data)
    refused(path, "'v' reaches beyond its data")


def test_a_compressed_file_is_refused_and_not_misread(path: Path) -> None:
    """Its bytes are not those of the tensors, however plausible they look."""
    torch.save({"w": torch.randint(0, 256, (4000,), generator=generator(0)).to(torch.uint8)}, path)
    rezip(path, compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed")


@pytest.mark.parametrize("backwards", [False, True])
def test_a_file_zipped_anew_is_not_misread(path: Path, backwards: bool) -> None:
    """`zip` puts things elsewhere than torch does, and in any order."""
    state = small_state()
    torch.save(state, path)
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members[::-1] if backwards else members:
            new.writestr(name, data)
    checkpoint = open_checkpoint(path)
    for name, tensor in state.items():
        assert read(checkpoint, name) == data_of(tensor)


def test_a_file_whose_names_were_changed_reads_as_torch_reads_it(path: Path) -> None:
    """Equal sizes and alignments: every place holds a tensor, but another one."""
    torch.save({f"w{i}": torch.full((256,), float(i)) for i in range(3)}, path)
    whole = path.read_bytes()
    # The names in the local headers and in the directory trade places.
    assert whole.count(b"data/1") == whole.count(b"data/2") == 2
    whole = whole.replace(b"data/1", b"data/x").replace(b"data/2", b"data/1")
    path.write_bytes(whole.replace(b"data/x", b"data/2"))
    assert float(torch.load(path, weights_only=True)["w1"][0]) == 2
    assert read(open_checkpoint(path), "w1") == data_of(torch.full((256,), 2.0))


def test_a_file_with_two_names_for_one_thing_is_refused(path: Path) -> None:
    """The directory at its end says one thing, the data's own header another."""
    torch.save({f"w{i}": torch.full((256,), float(i)) for i in range(3)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"data/1", b"data/2", 1))
    refused(path, "'one/data/1' has two names")


def test_a_file_of_a_pytorch_that_looked_places_up_reads_the_same(path: Path) -> None:
    """Older files have no `.format_version`."""
    state = small_state()
    torch.save(state, path)
    rezip(path, lambda name, data: None if name.endswith(".format_version") else data)
    checkpoint = open_checkpoint(path)
    for name, tensor in state.items():
        assert read(checkpoint, name) == data_of(tensor)


def a_file_whose_pickle_is(path: Path, raw: bytes) -> Path:
    torch.save({"w": torch.ones(2)}, path)
    rezip(path, lambda name, data: raw if name.endswith("data.pkl") else data)
    return path


BUSHY = b"(lp0\n" + b"".join(b"0(lp%d\ng%d\nag%d\na" % (i, i - 1, i - 1) for i in range(1, 40))
"""Forty lists, each of which holds the one before twice: a terabyte of text."""


@pytest.mark.parametrize(
    "raw",
    [
        b"(Vstorage\nctorch\nFloatStorage\n" + BUSHY + b"Vcpu\nI2\ntQ.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(N" + BUSHY + BUSHY + BUSHY + b"I00\nNtR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(cx\ny\n)R}(Vdtype\n]Vname\nVx\nubI0\n))NNtR.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(NNNNtR.",
        b"ctorch._utils\n_rebuild_parameter\n}Vx\nI1\nsb.",
        b"cos\nsystem\n(Vtouch it-ran\ntR.",
        b"cos\nsystem\n}V__init__\nI1\nsb.",
    ],
    ids=[
        "name",
        "sizes",
        "no storage",
        "its own storage",
        "no function",
        "a class changed",
        "system",
        "its name",
    ],
)
@pytest.mark.timeout(20)
def test_a_pickle_made_to_harm_does_nothing(
    path: Path, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    a_file_whose_pickle_is(path, raw)
    refused(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


NONSENSE = [
    b"cargparse\nNamespace\n)R}(Vkind\n]Vmade_from\nI3\nub",
    b"cpathlib\nPosixPath\n(I1\ntR",
    b"cnumpy._core.multiarray\nscalar\n)R",
    b"cnumpy._core.multiarray\nscalar\n(NNtR",
    b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(Vf1\ntRVx\ntR",
    b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(Vf8\ntRc_codecs\nencode\n(V\\u20ac\ntRtR",
]
"""Values beside the weights that are not what they say."""


@pytest.mark.parametrize("value", NONSENSE, ids=range(len(NONSENSE)))
def test_values_that_are_not_what_they_say_do_no_harm(path: Path, value: bytes) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "epoch": 3}, path)

    def beside(name: str, data: bytes) -> bytes:
        # Before the end of the outermost dictionary: MARK... SETITEMS STOP.
        assert data.endswith(b"u.") or not name.endswith("data.pkl")
        return data[:-2] + b"Vx\n" + value + b"u." if name.endswith("data.pkl") else data

    rezip(path, beside)
    checkpoint = open_checkpoint(path)
    assert read(checkpoint, "w") == data_of(torch.ones(2))
    assert checkpoint.envelope.values["epoch"] == 3


def test_a_zip_with_two_members_of_one_name_is_refused(path: Path) -> None:
    torch.save({"w": torch.ones(4)}, path)
    with zipfile.ZipFile(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr(f"{path.stem}/data/0", bytes(16))
    refused(path, "two members of one name")


def test_a_file_of_a_big_endian_machine_is_refused(path: Path) -> None:
    torch.save({"w": torch.ones(4)}, path)
    rezip(path, lambda name, data: b"big" if name.endswith("byteorder") else data)
    refused(path, "big-endian")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(path: Path) -> None:
    torch.save({"w": torch.arange(6).to(torch.float32).view(2, 3)}, path)

    def stretch(name: str, data: bytes) -> bytes:
        # The shape (2, 3) as BININT1s in the pickle becomes (2, 200).
        assert data.count(b"K\x02K\x03\x86") == 1 or not name.endswith("data.pkl")
        return data.replace(b"K\x02K\x03\x86", b"K\x02K\xc8\x86")

    rezip(path, stretch)
    refused(path)


def test_opening_runs_on_the_meta_device_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default device, or a GPU that is not here, is none of a file's business."""
    with torch.device("meta"):
        state = {"w": torch.ones(3, device="cpu")}
        torch.save(state, path)
        checkpoint = open_checkpoint(path)
    assert read(checkpoint, "w") == data_of(state["w"])


def test_a_long_list_of_strangers_is_cut_short(path: Path) -> None:
    torch.save({f"option{i:02d}": i for i in range(50)}, path)
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 400
