"""Which file of a folder is the checkpoint, and what else belongs to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ladle.checkpoint import holds_weights, open_checkpoint, side_files
from ladle.errors import UnreadableCheckpoint
from states import save_shards, small_state


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert not holds_weights(tmp_path)
    with pytest.raises(UnreadableCheckpoint, match=r"holds no weights.*\*.safetensors"):
        open_checkpoint(tmp_path)


def test_a_folder_with_several_weights_names_them(tmp_path: Path) -> None:
    for name in "ab":
        save_file(small_state(), tmp_path / f"{name}.safetensors")
    with pytest.raises(UnreadableCheckpoint, match=r"several.*a.safetensors, b.safetensors"):
        open_checkpoint(tmp_path)


def test_safetensors_are_preferred_to_pickles(tmp_path: Path) -> None:
    save_file(small_state(1), tmp_path / "model.safetensors")
    torch.save(small_state(2), tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path).format == "safetensors"


def test_training_state_beside_the_weights_is_no_second_checkpoint(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"x": 1}, tmp_path / name)
    assert open_checkpoint(tmp_path).files == (tmp_path / "model.safetensors",)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"gone.pt does not exist"):
        open_checkpoint(tmp_path / "gone.pt")


def test_a_dangling_link_is_an_absent_file(tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(tmp_path / "gone.pt")
    with pytest.raises(UnreadableCheckpoint, match=r"link.pt"):
        open_checkpoint(tmp_path / "link.pt")


def test_links_are_followed(tmp_path: Path) -> None:
    """As in the cache of the hub."""
    (tmp_path / "blobs").mkdir()
    save_file(small_state(), tmp_path / "blobs" / "0123")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").symlink_to(tmp_path / "blobs" / "0123")
    assert set(open_checkpoint(tmp_path / "run").layout.tensors) == set(small_state())


@pytest.mark.parametrize("name", ["weights.h5", "notes.txt", "weights"])
def test_a_file_of_another_kind_says_which_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello")
    with pytest.raises(UnreadableCheckpoint, match=r"give a .safetensors file"):
        open_checkpoint(tmp_path / name)


def test_a_folder_that_is_called_like_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(UnreadableCheckpoint):
        open_checkpoint(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="permissions are another matter there")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, suffix: str) -> None:
    """Root may read everything, so there the work is done by somebody else."""
    path = tmp_path / f"secret.{suffix}"
    save_file(small_state(), path) if suffix == "safetensors" else torch.save(small_state(), path)
    path.chmod(0)
    for folder in [tmp_path, tmp_path.parent, tmp_path.parent.parent]:
        folder.chmod(0o755)
    program = (
        "import os, sys; from pathlib import Path\n"
        "from ladle.checkpoint import open_checkpoint\n"
        "from ladle.errors import UnreadableCheckpoint\n"
        "if os.geteuid() == 0: os.setegid(65534); os.seteuid(65534)\n"
        "try: open_checkpoint(sys.argv[1])\n"
        "except UnreadableCheckpoint as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert f"{path} may not be read; change its permissions" in done.stdout


# --- side files --------------------------------------------------------------------------


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    save_file(small_state(), folder / "model.safetensors")
    kept = ["config.json", "tokenizer.json", "vocab.txt", "modules.json", "1_Pooling/config.json"]
    dropped = [
        "optimizer.pt",
        "rng_state.pth",
        "training_args.bin",
        "trainer_state.json",
        "README.md",
        "soup.json",
        ".hidden",
        ".git/config",
        "checkpoint-10/model.safetensors",
        "checkpoint-10/config.json",
        "onnx/model.onnx",
        "onnx/config.json",
    ]
    for name in [*kept, *dropped]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    return folder


KEPT = {"config.json", "tokenizer.json", "vocab.txt", "modules.json", "1_Pooling/config.json"}


def test_side_files_are_the_model_and_not_its_training(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "run")
    found = side_files(open_checkpoint(folder))
    assert set(found) == KEPT
    assert all(file == folder / name for name, file in found.items())


def test_a_weights_file_in_a_model_folder_has_the_folders_side_files(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "run")
    assert set(side_files(open_checkpoint(folder / "model.safetensors"))) == KEPT


def test_an_index_has_the_folders_side_files_and_is_none_itself(tmp_path: Path) -> None:
    index = save_shards(tmp_path / "run", small_state())
    (index.parent / "config.json").write_text("{}")
    assert set(side_files(open_checkpoint(index))) == {"config.json"}


def test_a_lone_weights_file_has_no_side_files(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").write_text("mine")
    assert side_files(open_checkpoint(tmp_path / "a.safetensors")) == {}


def test_a_folder_with_two_saves_is_not_guessed_at(tmp_path: Path) -> None:
    """transformers would take the single file, others the index: a stale one must not win."""
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UnreadableCheckpoint, match="of two different saves"):
        open_checkpoint(tmp_path)
