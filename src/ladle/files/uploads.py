"""Output behind URLs, of any store that fsspec knows.

Such stores have no locks, and many of them no folders and no renaming at once. A file goes up under
another name and gets its own when it is whole. A folder has a claim in it until all of it is there,
and its mark last; one without a mark that has a claim counts as not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ladle.errors import BadInput, UploadFailed
from ladle.files.places import CLAIM, MARKS, shared_part_of

_AT_ONCE = 8
"""Files that are sent to a store, or moved within it, at the same time."""


@contextmanager
def _asking(url: Path) -> Iterator[None]:
    """Before any work: say it in our words where a store does not do what it is asked for.

    Raises:
        BadInput: it does not.
    """
    try:
        yield
    except Exception as error:
        # Each store has errors of its own.
        raise BadInput(
            f"{url} cannot be written or looked at ({_reason(error)}); see whether it may be, or "
            "name another --output"
        ) from error


@contextmanager
def _sending(url: Path) -> Iterator[None]:
    """The same after the work.

    Raises:
        UploadFailed: it does not.
    """
    try:
        yield
    except Exception as error:
        raise UploadFailed(
            f"{url} could not be written ({_reason(error)}); run the same command again when it can"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_writable(url: Path) -> None:
    """Check that something can be written beside `url`, as `shared_part_of` it.

    Raises:
        BadInput: it cannot.
    """
    with _asking(url):
        _write_empty(shared_part_of(url) / CLAIM)


def is_whole(url: Path) -> bool:
    """Whether a file or folder is there, and nobody is, or was, at work on it."""
    with _asking(url):
        return _is_anything(url) and not (url / CLAIM).exists()


def finish_upload(url: Path) -> bool:
    """Whether there is anything, but for what an upload left that was cut off.

    One that was cut off after its mark lacks nothing, and is finished.
    """
    with _asking(url):
        if not _is_anything(url):
            return False
        claim = url / CLAIM
        if not claim.exists():
            return True
        is_marked = any((url / mark).exists() for mark in MARKS)
        if is_marked:
            claim.unlink()
        return is_marked


def upload_file(source: Path, url: Path) -> None:
    """A file; it appears whole or not at all."""
    new = url.with_name(f"{url.name}.new")
    with _sending(url):
        _put(source, new)
        _move({url: new})


def publish_uploaded(part: Path, url: Path, made_elsewhere: Mapping[str, Path]) -> None:
    """Make the folder `part` of this machine become `url`, replacing what is there.

    All of it is in the store before anything that is there is touched. `made_elsewhere` are files
    that the store has already: what they will be called within the folder, and where they lie now.
    """
    staged = shared_part_of(url) / "whole"
    names = [file.relative_to(part).as_posix() for file in _files(part)]
    places = {**made_elsewhere, **{name: staged / name for name in names}}
    with _sending(url):
        _store(url).invalidate_cache()
        _remove(staged)
        _put_all(part, staged)
        _write_empty(url / CLAIM)
        # With a claim and no mark, what is there counts as not there.
        for mark in MARKS:
            _remove(url / mark)
        for entry in url.iterdir():
            if entry.name != CLAIM:
                _remove(entry)
        _move({url / name: place for name, place in places.items() if name not in MARKS})
        _move({url / name: place for name, place in places.items() if name in MARKS})
        _remove(url / CLAIM)
        _remove(shared_part_of(url))


def remove_uploaded(url: Path) -> None:
    """Remove a file or folder, if it is there."""
    with _sending(url):
        _remove(url)


def upload_folder(folder: Path, url: Path) -> None:
    """Files of a folder; those that are there are replaced.

    Raises:
        UploadFailed: the store does not take them, as in all that changes it.
    """
    with _sending(url):
        _put_all(folder, url)


def fetch_folder(url: Path, folder: Path) -> None:
    """All files of a folder, if it is there; those that this machine has are replaced."""
    with _sending(url):
        store = _store(url)
        store.invalidate_cache()
        root = _name(url)
        for found in store.find(root):
            name = found[found.index(root) + len(root) :].lstrip("/")
            if name == CLAIM:
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(found, str(target))


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != CLAIM]


def _put_all(folder: Path, url: Path) -> None:
    files = {url / file.relative_to(folder).as_posix(): file for file in _files(folder)}
    _each(lambda one: _put(files[one], one), list(files))


def _move(places: Mapping[Path, Path]) -> None:
    """Files within a store: what they become, and where they lie."""

    def move(url: Path) -> None:
        _make_parents(url)
        _store(url).mv(_name(places[url]), _name(url))

    _each(move, list(places))


def _each(change: Callable[[Path], None], urls: Sequence[Path]) -> None:
    """Do something to several files of one store, side by side where that may be."""
    # Libraries that are asynchronous inside can be asked from many threads; what others can bear
    # is not known.
    at_once = _AT_ONCE if urls and _store(urls[0]).async_impl else 1
    with ThreadPoolExecutor(at_once) as threads:
        for _ in threads.map(change, urls):
            pass


def _is_anything(url: Path) -> bool:
    """Whether there is a file, or a folder that is not empty: where there are folders, an upload
    that was cut off at once leaves one."""
    _store(url).invalidate_cache()
    return url.is_file() or (url.is_dir() and any(url.iterdir()))


def _put(source: Path, url: Path) -> None:
    _make_parents(url)
    _store(url).put_file(str(source), _name(url))


def _write_empty(url: Path) -> None:
    _make_parents(url)
    _store(url).pipe_file(_name(url), b"")


def _make_parents(url: Path) -> None:
    from upath.implementations.cloud import CloudPath

    if isinstance(url, CloudPath):
        return  # A store of buckets, which has no folders; asked for one, it may make a bucket.
    _store(url).makedirs(_name(url.parent), exist_ok=True)


def _remove(url: Path) -> None:
    with suppress(FileNotFoundError):
        _store(url).rm(_name(url), recursive=True)


def _store(url: Any) -> Any:
    return url.fs


def _name(url: Any) -> str:
    """What the store calls it."""
    return str(url.path)
