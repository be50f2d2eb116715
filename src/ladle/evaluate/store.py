"""The store: scores and predictions by content, so that nothing is evaluated twice."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ladle.errors import BadInput, NoSpace
from ladle.predictions import Array

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    soup TEXT, task TEXT, split TEXT, examples INTEGER, classes INTEGER, logits BLOB,
    made TEXT DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (soup, task, split));
CREATE TABLE IF NOT EXISTS scores (
    soup TEXT, scorer TEXT, score REAL, made TEXT DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (soup, scorer));
CREATE TABLE IF NOT EXISTS decisions (
    position INTEGER PRIMARY KEY, recipe TEXT, tasting TEXT);
"""


class Store:
    """SQLite tables keyed by the content of soup, task and split; None keeps them in memory.

    Each entry is committed at once: a kill loses at most the evaluation under way. One process at
    a time writes; another waits.
    """

    def __init__(self, path: Path | None) -> None:
        """
        Raises:
            BadInput: the file is no store of this version, or its folder does not exist.
        """
        if path and not path.parent.is_dir():
            raise BadInput(f"{path.parent} does not exist, so no store can be kept there; make it")
        self._lock = threading.Lock()
        try:
            self._base = sqlite3.connect(path or ":memory:", timeout=60, check_same_thread=False)
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise BadInput(
                    f"{path} is a store of version {version}; this ladle knows {_VERSION}"
                )
            self._base.executescript(_SCHEMA)
            self._base.execute(f"PRAGMA user_version = {_VERSION}")
            self._base.commit()
        except sqlite3.OperationalError as error:
            raise NoSpace(f"{path} cannot be written ({error}); make room") from error
        except sqlite3.DatabaseError as error:
            raise BadInput(f"{path} is no ladle store ({error}); remove it") from error

    def logits(self, soup: str, task: str, split: str) -> Array | None:
        """Stored logits (N, C), or None."""
        row = self._one(
            "SELECT examples, classes, logits FROM predictions WHERE soup=? AND task=? AND split=?",
            (soup, task, split),
        )
        return None if row is None else np.frombuffer(row[2], "<f4").reshape(row[0], row[1])

    def keep_logits(self, soup: str, task: str, split: str, logits: Array) -> None:
        self._put(
            "INSERT OR REPLACE INTO predictions (soup, task, split, examples, classes, logits) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (soup, task, split, *logits.shape, logits.astype("<f4").tobytes()),
        )

    def score(self, soup: str, scorer: str) -> float | None:
        """A stored score, NaN where the scorer gave none that is finite, or None."""
        row = self._one("SELECT score FROM scores WHERE soup=? AND scorer=?", (soup, scorer))
        if row is None:
            return None
        # SQLite keeps NaN as NULL.
        return float("nan") if row[0] is None else float(row[0])

    def keep_score(self, soup: str, scorer: str, score: float) -> None:
        self._put(
            "INSERT OR REPLACE INTO scores (soup, scorer, score) VALUES (?, ?, ?)",
            (soup, scorer, score),
        )

    def keep_decisions(self, recipe: str, tastings: list[Mapping[str, Any]]) -> None:
        """Replace the recorded decisions by these."""
        with self._lock, _telling_full_disk(), self._base:
            self._base.execute("DELETE FROM decisions")
            self._base.executemany(
                "INSERT INTO decisions VALUES (?, ?, ?)",
                [(i, recipe, json.dumps(tasting)) for i, tasting in enumerate(tastings)],
            )

    def close(self) -> None:
        self._base.close()

    def _one(self, query: str, values: tuple[Any, ...]) -> Any:
        with self._lock:
            return self._base.execute(query, values).fetchone()

    def _put(self, query: str, values: tuple[Any, ...]) -> None:
        with self._lock, _telling_full_disk(), self._base:
            self._base.execute(query, values)


@contextmanager
def _telling_full_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise NoSpace(
            f"the store cannot be written ({error}); make room and run the same command again"
        ) from error
