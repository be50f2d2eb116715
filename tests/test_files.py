"""Output appears complete or not at all, and nothing of the user's is replaced by accident."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ladle.errors import NoSpace, OutputExists
from ladle.files import check_room, new_file, part_of, publish_folder, refuse_existing


def written_by_ladle(folder: Path, content: str) -> Path:
    """A folder of ours: two files of one age, in one of which its age stands."""
    (folder / "sub").mkdir(parents=True)
    (folder / "soup.json").write_text(content)
    (folder / "sub" / "weights").write_text(content)
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


OLD = {"soup.json": "old", "sub/weights": "old"}
NEW = {"soup.json": "new", "sub/weights": "new"}


# --- one file -----------------------------------------------------------------------------


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on" / "the way" / "soup.pt"
    with new_file(path) as part:
        part.write_text("weights")
        assert not path.exists()
        assert part.parent == path.parent
    assert path.read_text() == "weights"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_of_a_file_that_failed(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "soup.pt"
    path.write_text("old")

    def fail_half_way() -> None:
        with new_file(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert tree(tmp_path) == {"soup.pt": "old"}


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "soup.pt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_rest_of_a_killed_write_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "soup.pt"
    part_of(path).write_text("a longer rest than what comes now")
    with new_file(path) as part:
        part.write_text("new")
    assert tree(tmp_path) == {"soup.pt": "new"}


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=999))
    check_room(tmp_path, 999)
    with pytest.raises(NoSpace, match=r"0.0 GB free where 5.0 GB are needed"):
        check_room(tmp_path, 5_000_000_000)
    with pytest.raises(NoSpace), new_file(tmp_path / "soup.pt", nbytes=1000):
        pytest.fail("the block was entered")
    assert list(tmp_path.iterdir()) == []


# --- a folder -----------------------------------------------------------------------------


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "soup"
    written_by_ladle(part_of(out), "new")
    publish_folder(out)
    assert tree(out) == NEW
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_replaces_an_older_one_with_all_that_was_in_it(tmp_path: Path) -> None:
    out = written_by_ladle(tmp_path / "soup", "old")
    (out / "report.html").write_text("old")
    written_by_ladle(part_of(out), "new")
    publish_folder(out)
    assert tree(out) == NEW
    assert list(tmp_path.iterdir()) == [out]


class Killed(BaseException):
    """Stands for SIGKILL: nothing that runs after it may do anything."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first `step` changes to the file system happen, and none after them."""
    left = [step]

    def limited(act: Callable[..., Any]) -> Callable[..., Any]:
        def limited_act(*args: Any, **options: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return act(*args, **options)

        return limited_act

    monkeypatch.setattr(Path, "rename", limited(Path.rename))
    monkeypatch.setattr(Path, "unlink", limited(Path.unlink))
    monkeypatch.setattr(os, "unlink", limited(os.unlink))
    monkeypatch.setattr(os, "rmdir", limited(os.rmdir))


@pytest.mark.parametrize("step", range(8))
def test_a_kill_at_any_step_leaves_the_old_or_the_new_folder(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = written_by_ladle(tmp_path / "soup", "old")
    written_by_ladle(part_of(out), "new")
    with monkeypatch.context() as patch:
        kill_at(step, patch)
        try:
            publish_folder(out)
        except Killed:
            pass
        else:
            assert step >= 7, "every step was reached"
    # What the next command sees.
    refuse_existing(out, overwrite=True)
    assert tree(out) == (OLD if step < 2 else NEW)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"soup", "soup.part"}
    # And it can do its work.
    shutil.rmtree(part_of(out), ignore_errors=True)
    written_by_ladle(part_of(out), "newer")
    publish_folder(out)
    assert set(tree(out).values()) == {"newer"}


def test_a_claim_that_a_kill_left_in_a_finished_folder_goes(tmp_path: Path) -> None:
    out = written_by_ladle(tmp_path / "out", "new")
    (out / ".ladle-at-work").touch()
    refuse_existing(out, overwrite=True)
    assert tree(out) == {"soup.json": "new", "sub/weights": "new"}


def test_what_was_half_removed_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the old folder was removed; then the user removes the new one."""
    out = written_by_ladle(tmp_path / "soup", "old")
    written_by_ladle(part_of(out), "new")
    with monkeypatch.context() as patch:
        kill_at(6, patch)
        with pytest.raises(Killed):
            publish_folder(out)
    shutil.rmtree(out)
    refuse_existing(out, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path: Path) -> None:
    out = written_by_ladle(tmp_path / "soup", "old")
    with pytest.raises(FileNotFoundError):
        publish_folder(out)  # there is no part
    assert tree(out) == OLD


# --- what may be replaced -----------------------------------------------------------------


@pytest.mark.parametrize("is_file", [True, False])
def test_a_new_name_is_free(tmp_path: Path, is_file: bool) -> None:
    refuse_existing(tmp_path / "soup", overwrite=False, is_file=is_file)
    refuse_existing(tmp_path / "soup", overwrite=True, is_file=is_file)


def test_what_exists_is_refused_without_overwrite(tmp_path: Path) -> None:
    folder = written_by_ladle(tmp_path / "soup", "old")
    file = tmp_path / "soup.pt"
    file.write_text("old")
    with pytest.raises(OutputExists, match="add --overwrite"):
        refuse_existing(folder, overwrite=False)
    with pytest.raises(OutputExists, match="add --overwrite"):
        refuse_existing(file, overwrite=False, is_file=True)
    refuse_existing(folder, overwrite=True)
    refuse_existing(file, overwrite=True, is_file=True, is_ours=True)
    with pytest.raises(OutputExists, match="no soup that ladle wrote"):
        refuse_existing(file, overwrite=True, is_file=True)


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("mine")
    with pytest.raises(OutputExists, match="no soup that ladle wrote"):
        refuse_existing(tmp_path / "thesis", overwrite=True)
    assert tree(tmp_path / "thesis") == {"chapter1.tex": "mine"}


def test_a_file_is_not_replaced_by_a_folder_nor_the_other_way(tmp_path: Path) -> None:
    (tmp_path / "soup").write_text("mine")
    with pytest.raises(OutputExists, match="is a file"):
        refuse_existing(tmp_path / "soup", overwrite=True)
    written_by_ladle(tmp_path / "soup.pt", "old")
    with pytest.raises(OutputExists, match="is a folder"):
        refuse_existing(tmp_path / "soup.pt", overwrite=True, is_file=True)


@pytest.mark.parametrize("name", ["soup.old", "soup.bak", ".soup.old"])
@pytest.mark.parametrize("out_exists", [True, False])
def test_a_copy_that_the_user_keeps_is_left_alone(
    tmp_path: Path, name: str, out_exists: bool
) -> None:
    """`mv soup soup.old; ladle cook -o soup` has to find `soup` free, and `soup.old` as it was."""
    kept = written_by_ladle(tmp_path / name, "old")
    out = tmp_path / "soup"
    if out_exists:
        written_by_ladle(out, "mine")
    refuse_existing(out, overwrite=out_exists)
    assert out.exists() == out_exists
    written_by_ladle(part_of(out), "new")
    publish_folder(out)
    assert tree(kept) == OLD
    assert tree(out) == NEW


def test_a_link_to_a_folder_of_ours_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    target = written_by_ladle(tmp_path / "big disk", "old")
    out = tmp_path / "soup"
    out.symlink_to(target)
    for _ in range(2):
        refuse_existing(out, overwrite=True)
        written_by_ladle(part_of(out), "new")
        publish_folder(out)
    assert tree(out) == NEW
    assert tree(target) == OLD
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["big disk", "soup"]


def test_a_dangling_link_exists(tmp_path: Path) -> None:
    (tmp_path / "soup").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputExists):
        refuse_existing(tmp_path / "soup", overwrite=False)


@pytest.mark.parametrize("name", [".", "..", "/", "runs/.."])
def test_a_folder_without_a_name_of_its_own_is_refused(name: str) -> None:
    for overwrite in (False, True):
        with pytest.raises(OutputExists, match="--output"):
            refuse_existing(Path(name), overwrite=overwrite)
