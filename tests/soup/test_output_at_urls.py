"""Output behind URLs is that of a disk; it appears complete or not at all, and leaves nothing."""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from safetensors.torch import save_file

import ladle
from buckets import BUCKET, contents, s3_server
from counted_digits import complaint, passes, run_here, write_counted
from digits import TASK, make_runs
from ladle.errors import BadInput, OutputExists
from ladle.files import cache_folder
from ladle.location import located
from ladle.soup import Soup
from ladle.soup.output import WriteOptions, save
from states import same_bits, small_state

OPTIONS = WriteOptions(max_shard_bytes=500)


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the work on output behind URLs is kept."""
    monkeypatch.setenv("LADLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty place in a store of this kind."""
    if request.param == "file":
        yield f"file://{tmp_path}/store"
        return
    if request.param == "memory":
        yield "memory://soups/here"
        fsspec.filesystem("memory").rm("/soups", recursive=True)
        return
    request.getfixturevalue("server")
    yield f"{BUCKET}/here"
    found = fsspec.filesystem("s3")
    if found.exists(f"{BUCKET}/here"):
        found.rm(f"{BUCKET}/here", recursive=True)


@pytest.fixture
def soup(tmp_path: Path) -> Soup:
    return soup_of(tmp_path, 2)


def soup_of(folder: Path, n: int) -> Soup:
    (runs := folder / str(n)).mkdir()
    for i in range(n):
        save_file(small_state(i), runs / f"{i}.safetensors")
    return ladle.uniform(ladle.open(runs))


def of_disk(soup: Soup, folder: Path) -> dict[str, bytes]:
    """What a folder of this soup has, but for the record's date."""
    return timeless(contents(save(soup, folder / "disk" / "soup", options=OPTIONS)))


def timeless(found: dict[str, bytes]) -> dict[str, bytes]:
    record = json.loads(found.pop("soup.json"))
    return {**found, "soup.json": json.dumps({**record, "created": ""}).encode()}


def nothing_is_left(store: str, *names: str) -> bool:
    """Whether there is no work any more, here or there, but only what has these names."""
    outputs = cache_folder() / "outputs"
    here = list(outputs.iterdir()) if outputs.is_dir() else []
    return not here and {name.split("/")[0] for name in contents(located(store))} == set(names)


def test_a_folder_has_what_that_of_a_disk_has(store: str, soup: Soup, tmp_path: Path) -> None:
    url = save(soup, located(f"{store}/soup"), options=OPTIONS)
    assert timeless(contents(url)) == of_disk(soup, tmp_path)
    assert nothing_is_left(store, "soup")
    written = ladle.uniform(ladle.open(f"{store}/soup")).state_dict()
    assert same_bits(written, soup.state_dict())


@pytest.mark.parametrize("name", ["soup.safetensors", "soup.pt"])
def test_a_file_has_what_that_of_a_disk_has(
    store: str, soup: Soup, tmp_path: Path, name: str
) -> None:
    soup.save(f"{store}/{name}")
    soup.save(tmp_path / name)
    found = contents(located(store))
    assert found[name] == (tmp_path / name).read_bytes()
    assert nothing_is_left(store, name, f"{name}.json")
    with pytest.raises(OutputExists, match=rf"{name} exists; name another"):
        soup.save(f"{store}/{name}")
    other = soup_of(tmp_path, 3)
    other.save(f"{store}/{name}", overwrite=True)
    other.save(tmp_path / name, overwrite=True)
    assert contents(located(store))[name] == (tmp_path / name).read_bytes()
    assert nothing_is_left(store, name, f"{name}.json")


def test_only_a_soup_is_replaced_and_only_when_asked(
    store: str, soup: Soup, tmp_path: Path
) -> None:
    url = save(soup, located(f"{store}/soup"), options=OPTIONS)
    (url / "more.txt").write_text("of the old one")
    before = contents(url)
    other = soup_of(tmp_path, 3)
    with pytest.raises(OutputExists, match="soup exists; name another --output or add --overwrite"):
        other.save(str(url))
    assert contents(url) == before
    save(other, url, options=OPTIONS, overwrite=True)
    assert timeless(contents(url)) == of_disk(other, tmp_path)
    theirs = located(f"{store}/theirs")
    theirs.mkdir(parents=True, exist_ok=True)
    (theirs / "thesis.txt").write_text("three years of work")
    with pytest.raises(OutputExists, match="theirs is no soup that ladle wrote"):
        other.save(str(theirs), overwrite=True)
    assert contents(theirs) == {"thesis.txt": b"three years of work"}


class Killed(BaseException):
    """As far as a store can tell, the process ends here."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the `step`-th change of a memory store, and all after it, fail."""
    store = fsspec.filesystem("memory")
    done = 0

    def limited(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done > step:
                raise Killed
            return change(*arguments, **options)

        return changed

    for name in ("put_file", "pipe_file", "mv", "rm"):
        monkeypatch.setattr(store, name, limited(getattr(store, name)))


@pytest.mark.parametrize("before", ["nothing", "another"])
def test_a_kill_at_any_change_of_the_store_loses_nothing(
    soup: Soup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    url, old = located("memory://soups/soup"), {}
    new = of_disk(soup, tmp_path)
    other = soup_of(tmp_path, 3)
    for step in itertools.count():
        if before == "another":
            old = timeless(contents(save(other, url, options=OPTIONS)))
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            killed = False
            try:
                save(soup, url, options=OPTIONS, overwrite=True)
            except Killed:
                killed = True
        left = contents(url)
        if (url / "soup.json").exists():
            left.pop(".ladle-at-work", None)  # After the mark there was nothing left to do.
            assert timeless(left) in ([old, new] if killed and old else [new])
        elif ".ladle-at-work" in left:
            with pytest.raises(BadInput, match="soup is unfinished work"):
                ladle.open([str(url), tmp_path / "2" / "0.safetensors"])
        else:
            assert killed
            assert not old or left.keys() < old.keys()
        save(soup, url, options=OPTIONS, overwrite=True)
        assert timeless(contents(url)) == new
        assert nothing_is_left("memory://soups", "soup")
        fsspec.filesystem("memory").rm("/soups", recursive=True)
        if not killed:
            break
    assert step > 3 * len(new)


def test_what_cannot_be_written_is_told_before_any_work(
    server: None, soup: Soup, tmp_path: Path
) -> None:
    task = write_counted(tmp_path / "task.py")
    (runs := tmp_path / "digits").mkdir()
    make_runs(runs, 2)
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as file:
        file.writestr("readme", "")
    for url in ("s3://nobodys-bucket/soup", f"zip://soup::{tmp_path}/runs.zip"):
        told = complaint(run_here("cook", runs / "run-*.pt", "--task", task, "-o", url))
        assert f"{url.partition('::')[0]}" in told
        assert "cannot be" in told
    assert passes(task) == []
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.slow
def test_cook_writes_to_a_url_and_takes_its_evaluations_from_there(
    store: str, tmp_path: Path
) -> None:
    task = write_counted(tmp_path / "task.py")
    (runs := tmp_path / "digits").mkdir()
    make_runs(runs, 3)
    told = run_here("cook", runs / "run-*.pt", "--task", task, "-o", f"{store}/soup")
    assert told.returncode == 0, told.stderr
    assert f"-> {store}/soup" in told.stdout
    here = run_here("cook", runs / "run-*.pt", "--task", task, "-o", tmp_path / "soup")
    found, own = contents(located(f"{store}/soup")), contents(tmp_path / "soup")
    assert found.keys() == own.keys()
    weights = "model.safetensors"
    assert found[weights] == own[weights]
    assert found["evaluations.jsonl"] == own["evaluations.jsonl"]
    assert told.stdout.replace(f"{store}/soup", "X") == here.stdout.replace(
        str(tmp_path / "soup"), "X"
    )
    assert nothing_is_left(store, "soup")
    assert passes(task) != []
    again = run_here(
        "cook", runs / "run-*.pt", "--task", task, "-o", f"{store}/soup", "--overwrite"
    )
    assert again.returncode == 0, again.stderr
    assert passes(task) == []
    # What lies there is a model like any other, and has a page.
    assert run_here("evaluate", f"{store}/soup", "--task", task).returncode == 0
    page = run_here("report", f"{store}/soup")
    assert page.returncode == 0, page.stderr
    assert b"<html" in contents(located(store))["soup/report.html"]


def test_a_store_that_is_gone_costs_no_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = write_counted(tmp_path / "task.py")
    (runs := tmp_path / "digits").mkdir()
    make_runs(runs, 2)
    asked = ["cook", runs / "run-*.pt", "--task", task, "-o", "memory://soups/soup"]

    def gone(*arguments: object, **options: object) -> None:
        raise ConnectionError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(fsspec.filesystem("memory"), "put_file", gone)
        failed = run_here(*asked)
    assert failed.returncode == 1
    assert "memory://soups/soup could not be written (the line is dead)" in failed.stderr
    assert passes(task) != []
    try:
        assert run_here(*asked).returncode == 0
        assert passes(task) == []
        assert nothing_is_left("memory://soups", "soup")
    finally:
        fsspec.filesystem("memory").rm("/soups", recursive=True)


def test_a_landscape_lies_at_a_url(tmp_path: Path) -> None:
    (runs := tmp_path / "digits").mkdir()
    make_runs(runs, 2)
    asked = ["landscape", *sorted(runs.glob("run-*.pt")), "--task", TASK, "--grid", 3]
    try:
        made = run_here(*asked, "-o", "memory://soups/path")
        assert made.returncode == 0, made.stderr
        assert run_here(*asked, "-o", tmp_path / "path").returncode == 0
        found = contents(located("memory://soups/path"))
        assert found.keys() == contents(tmp_path / "path").keys()
        assert "path exists; name another" in complaint(
            run_here(*asked, "-o", "memory://soups/path")
        )
        assert nothing_is_left("memory://soups", "path")
    finally:
        fsspec.filesystem("memory").rm("/soups", recursive=True)
