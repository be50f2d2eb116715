"""The store: scores and predictions by content, so that nothing is evaluated twice."""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ladle.errors import BadInput, NoSpace
from ladle.evaluate.arrays import ArrayFolder, ArrayMemory, Kept
from ladle.files import fetch_folder, part_of
from ladle.location import is_local
from ladle.predictions import Array

_VERSION = 2
_TABLES = {
    "predictions": "soup TEXT, task TEXT, split TEXT, array TEXT, nbytes INTEGER, crc32 INTEGER, "
    "made TEXT DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (soup, task, split)",
    "scores": "soup TEXT, scorer TEXT, score REAL, made TEXT DEFAULT CURRENT_TIMESTAMP, "
    "PRIMARY KEY (soup, scorer)",
    "decisions": "soup TEXT, recipe TEXT, position INTEGER, tasting TEXT, "
    "PRIMARY KEY (soup, recipe, position)",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def arrays_of(store: Path) -> Path:
    """The folder with a store's arrays: `ladle.predictions` beside `ladle.sqlite`."""
    return store.with_name(store.name.removesuffix(".sqlite") + ".predictions")


def check_place(store: Path) -> None:
    """Check that a store may be made at a path, or be there.

    Raises:
        BadInput: its folder does not exist, or it is a folder itself.
    """
    if not store.parent.is_dir():
        raise BadInput(f"{store.parent} does not exist, so no store can be kept there; make it")
    if store.is_dir():
        raise BadInput(f"the store {store} is a folder; name a file")


def check_store(store: Path | None, output: Path) -> None:
    """Check that a store can be shared by commands, and does not go where an output goes.

    Raises:
        BadInput: it is, or lies in, the output or its `.part`, or its folder does not exist.
    """
    if store is None:
        return
    place = store.resolve()
    for taken in (output.resolve(), part_of(output.resolve())):
        if taken == place or taken in place.parents:
            raise BadInput(
                f"--store {store} would be replaced with the output {output}; leave it out, for "
                "the output has a store of its own, or name another"
            )
    check_place(store)


class Store:
    """SQLite tables keyed by the content of soup, task and split, and a folder of arrays beside.

    An entry is on the disk, its array first, when the call that keeps it returns: a kill loses at
    most the evaluation under way. An array that is missing or damaged counts as not there. Any
    number of threads and processes may share a store. None keeps everything in memory.
    """

    def __init__(self, path: Path | None) -> None:
        """
        Raises:
            BadInput: the file is no store of this version, or cannot be made or written to.
            NoSpace: the disk is full.
        """
        if path:
            check_place(path)
        self._path = path
        self._lock = threading.Lock()
        with _telling(path):
            # Transactions are begun by hand, as writing ones: one that reads first and then writes
            # may find that another process wrote in between, and would fail without waiting.
            self._base = sqlite3.connect(
                path or ":memory:", timeout=60, check_same_thread=False, isolation_level=None
            )
        with self._writing():
            _check_version(self._base, "main", path)
            for name, columns in _TABLES.items():
                self._base.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
            self._base.execute(f"PRAGMA user_version = {_VERSION}")
        with _telling(path):
            self._arrays = ArrayFolder(arrays_of(path)) if path else ArrayMemory()

    def logits(self, soup: str, task: str, split: str) -> Array | None:
        """Stored logits (N, C) float32, not to be written to, or None."""
        row = self._one(
            "SELECT array, nbytes, crc32 FROM predictions WHERE soup=? AND task=? AND split=?",
            (soup, task, split),
        )
        return None if row is None else self._arrays.read(Kept(*row))

    def keep_logits(self, soup: str, task: str, split: str, logits: Array) -> None:
        key = hashlib.sha256("\n".join((soup, task, split)).encode()).hexdigest()[:32]
        with _telling(self._path):
            kept = self._arrays.keep(key, logits)
        with self._writing():
            self._base.execute(
                "INSERT OR REPLACE INTO predictions (soup, task, split, array, nbytes, crc32) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (soup, task, split, kept.name, kept.nbytes, kept.crc32),
            )

    def forget_logits(self, soup: str, task: str, split: str) -> None:
        """Have an entry no more; its array goes too, if no other has it."""
        key = (soup, task, split)
        with self._writing():
            found = self._base.execute(
                "SELECT array, nbytes, crc32 FROM predictions WHERE soup=? AND task=? AND split=?",
                key,
            ).fetchone()
            if found is None:
                return
            self._base.execute("DELETE FROM predictions WHERE soup=? AND task=? AND split=?", key)
            others = self._base.execute("SELECT 1 FROM predictions WHERE array=?", found[:1])
            if others.fetchone() is None:
                self._arrays.remove(Kept(*found))

    def keep_as(self, soup: str, other: str) -> None:
        """Have a soup's predictions for `other` too, whose weights are the same."""
        with self._writing():
            self._base.execute(
                "INSERT OR IGNORE INTO predictions (soup, task, split, array, nbytes, crc32) "
                "SELECT ?, task, split, array, nbytes, crc32 FROM predictions WHERE soup=?",
                (other, soup),
            )

    def tasks(self) -> set[str]:
        """What is known of the tasks that there are predictions for: see `Arithmetic.identity`."""
        with self._lock, _telling(self._path):
            rows = self._base.execute("SELECT DISTINCT task FROM predictions").fetchall()
        return {task for (task,) in rows}

    def score(self, soup: str, scorer: str) -> float | None:
        """A stored score, NaN where the scorer gave none that is finite, or None."""
        row = self._one("SELECT score FROM scores WHERE soup=? AND scorer=?", (soup, scorer))
        if row is None:
            return None
        # SQLite keeps NaN as NULL.
        return float("nan") if row[0] is None else float(row[0])

    def keep_score(self, soup: str, scorer: str, score: float) -> None:
        with self._writing():
            self._base.execute(
                "INSERT OR REPLACE INTO scores (soup, scorer, score) VALUES (?, ?, ?)",
                (soup, scorer, score),
            )

    def keep_decisions(self, soup: str, recipe: str, tastings: Sequence[Mapping[str, Any]]) -> None:
        """Replace what is recorded of how a recipe came to a soup."""
        with self._writing():
            self._base.execute("DELETE FROM decisions WHERE soup=? AND recipe=?", (soup, recipe))
            self._base.executemany(
                "INSERT INTO decisions VALUES (?, ?, ?, ?)",
                [(soup, recipe, i, json.dumps(tasting)) for i, tasting in enumerate(tastings)],
            )

    def take_over(self, other: Path) -> None:
        """Have all that another store has, too; it keeps it. Arrays are linked where possible.

        The other may lie behind a URL, where nobody writes to it.

        Raises:
            BadInput: the file is no store of this version.
            ValueError: this store is in memory.
        """
        if not isinstance(self._arrays, ArrayFolder):
            raise ValueError("a store in memory takes nothing over")  # noqa: TRY004
        if not is_local(other):
            with tempfile.TemporaryDirectory() as folder:
                here = Path(folder) / other.name
                here.write_bytes(other.read_bytes())
                fetch_folder(arrays_of(other), arrays_of(here))
                self.take_over(here)
            return
        with self._lock, _telling(other):
            self._base.execute("ATTACH ? AS other", (str(other),))
        try:
            with self._lock, _telling(other):
                _check_version(self._base, "other", other)
                rows = self._base.execute("SELECT array FROM other.predictions").fetchall()
            with _telling(self._path):
                self._arrays.take(arrays_of(other), [name for (name,) in rows])
            with self._writing():
                for name in _TABLES:
                    query = f"INSERT OR IGNORE INTO main.{name} SELECT * FROM other.{name}"  # noqa: S608
                    self._base.execute(query)
        finally:
            with self._lock:
                self._base.execute("DETACH other")

    def close(self) -> None:
        self._base.close()
        self._arrays.close()

    def _one(self, query: str, values: tuple[str, ...]) -> Any:
        with self._lock, _telling(self._path):
            return self._base.execute(query, values).fetchone()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that other processes wait for."""
        with self._lock, _telling(self._path), self._base:
            self._base.execute("BEGIN IMMEDIATE")
            yield


def _check_version(base: sqlite3.Connection, schema: str, path: Path | None) -> None:
    """Check that what is open under a name is a store of this version, or empty."""
    rows = base.execute(f"SELECT name FROM {schema}.sqlite_master WHERE type='table'")  # noqa: S608
    tables = {name for (name,) in rows}
    (version,) = base.execute(f"PRAGMA {schema}.user_version").fetchone()
    if tables and not _TABLES.keys() <= tables:
        raise BadInput(f"{path} is no ladle store but another database; name another file")
    if tables and version < _VERSION:
        raise BadInput(
            f"{path} is a store of an earlier ladle, which this one cannot use; remove it"
        )
    if version > _VERSION:
        raise BadInput(
            f"{path} is a store of version {version}, and this ladle knows {_VERSION}; upgrade "
            "ladle, or remove it"
        )


@contextmanager
def _telling(path: Path | None) -> Iterator[None]:
    """Say in one sentence what is wrong with a store."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error) or "I/O" in str(error):
            raise NoSpace(
                f"the store {path} cannot be written ({error}); make room and run the same command "
                "again"
            ) from error
        raise BadInput(
            f"the store {path} cannot be used ({error}); see that you may write there and that no "
            "other program holds it, and run the same command again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise BadInput(
            f"{path} is no ladle store, or a damaged one ({error}); remove it"
        ) from error
    except OSError as error:
        place = error.filename or path
        if error.errno in _FULL:
            raise NoSpace(
                f"{place} cannot be written ({error.strerror}); make room and run the same command "
                "again"
            ) from error
        raise BadInput(
            f"{place} cannot be written ({error.strerror}); see that you may write there, and run "
            "the same command again"
        ) from error
