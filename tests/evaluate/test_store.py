"""The store: what it has is whole and right, or it is not there."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import ladle
from digits import Digits, make_runs
from ladle.errors import BadInput, NoSpace
from ladle.evaluate import BlackBox, Evaluator, Store, arrays_of
from toys import toy_pool

KEY = ("soup", "task", "split")
NOBODY = 65534
ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)


@contextmanager
def opened(path: Path | None) -> Iterator[Store]:
    store = Store(path)
    try:
        yield store
    finally:
        store.close()


def logits(path: Path, *key: str) -> np.ndarray | None:
    """What a process that comes later finds."""
    with opened(path) as store:
        return store.logits(*(key or KEY))


def with_one(path: Path, array: np.ndarray = ARRAY) -> Path:
    """A new store with one entry; returns the file of its array."""
    with opened(path) as store:
        store.keep_logits(*KEY, array)
    (file,) = arrays_of(path).iterdir()
    return file


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


# --- what is kept -------------------------------------------------------------------------


@given(npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)))
def test_logits_come_back_bit_for_bit(array: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = with_one(Path(folder) / "s.sqlite", array)
        found = logits(Path(folder) / "s.sqlite")
        assert found is not None
        assert (found.shape, found.dtype) == (array.shape, np.float32)
        assert found.tobytes() == array.tobytes()
        # And for whoever has numpy and not ladle.
        assert np.load(file).tobytes() == array.tobytes()


def test_the_order_of_an_array_in_memory_does_not_matter(tmp_path: Path) -> None:
    with_one(tmp_path / "s.sqlite", np.asfortranarray(ARRAY))
    assert np.array_equal(logits(tmp_path / "s.sqlite"), ARRAY)
    with opened(tmp_path / "s.sqlite") as store:
        store.keep_logits("other", "task", "split", ARRAY[::2, ::-1])
        assert np.array_equal(store.logits("other", "task", "split"), ARRAY[::2, ::-1])


@pytest.mark.parametrize("name", ["s.sqlite", None])
def test_every_part_of_a_key_counts(tmp_path: Path, name: str | None) -> None:
    with opened(name and tmp_path / name) as store:
        keys = [(a, b, c) for a in "xy" for b in "xy" for c in "xy"]
        for i, key in enumerate(keys):
            assert store.logits(*key) is None
            store.keep_logits(*key, ARRAY + i)
        for i, key in enumerate(keys):
            assert np.array_equal(store.logits(*key), ARRAY + i)


@pytest.mark.parametrize("name", ["s.sqlite", None])
def test_what_was_kept_cannot_be_changed(tmp_path: Path, name: str | None) -> None:
    with opened(name and tmp_path / name) as store:
        array = ARRAY.copy()
        store.keep_logits(*KEY, array)
        array[:] = 0
        found = store.logits(*KEY)
        with pytest.raises(ValueError, match="read-only"):
            found[0, 0] = 7
        assert np.array_equal(found, ARRAY)
        store.keep_logits(*KEY, ARRAY + 1)
        assert np.array_equal(store.logits(*KEY), ARRAY + 1)


def test_large_arrays_are_mapped_and_small_ones_read(tmp_path: Path) -> None:
    large = np.random.default_rng(0).normal(size=(5000, 1000)).astype(np.float32)
    with opened(tmp_path / "s.sqlite") as store:
        store.keep_logits("large", "task", "split", large)
        store.keep_logits("small", "task", "split", ARRAY)
        found, small = (store.logits(name, "task", "split") for name in ("large", "small"))
        assert isinstance(found.base, np.memmap)
        assert not isinstance(small.base, np.memmap)
        assert np.array_equal(found, large)
        # What is mapped stays, whatever becomes of the entry.
        store.keep_logits("large", "task", "split", large + 1)
        assert np.array_equal(found, large)


def test_scores_and_decisions_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "s.sqlite") as store:
        store.keep_score("soup", "scorer", 0.5)
        store.keep_score("bad", "scorer", float("nan"))
        store.keep_decisions("soup", "greedy", [{"kept": True}, {"kept": False}])
        store.keep_decisions("soup", "greedy", [{"kept": False}])
        store.keep_decisions("other", "greedy", [{"kept": True}])
    with opened(tmp_path / "s.sqlite") as store:
        assert store.score("soup", "scorer") == 0.5
        assert np.isnan(store.score("bad", "scorer"))
        assert store.score("soup", "another") is None
    with sqlite3.connect(tmp_path / "s.sqlite") as base:
        rows = base.execute("SELECT soup, position, tasting FROM decisions ORDER BY soup")
        assert rows.fetchall() == [("other", 0, '{"kept": true}'), ("soup", 0, '{"kept": false}')]
    base.close()


def test_the_arrays_have_the_store_s_name_without_its_ending() -> None:
    assert arrays_of(Path("out/ladle.sqlite")) == Path("out/ladle.predictions")
    assert arrays_of(Path("out/a.db")) == Path("out/a.db.predictions")


# --- damage -------------------------------------------------------------------------------


@given(st.data())
def test_a_damaged_or_cut_array_is_not_there(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.sqlite"
        file = with_one(path)
        whole = file.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans(), label="cut"):
            file.write_bytes(whole[:place])
        else:
            flipped = whole[place] ^ data.draw(st.integers(1, 255))
            file.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        assert logits(path) is None
        with_one(path)
        assert np.array_equal(logits(path), ARRAY)


def test_an_array_that_grew_is_not_there(tmp_path: Path) -> None:
    with with_one(tmp_path / "s.sqlite").open("ab") as file:
        file.write(b"\0")
    assert logits(tmp_path / "s.sqlite") is None


def test_damage_is_seen_by_a_store_that_is_open(tmp_path: Path) -> None:
    file = with_one(tmp_path / "s.sqlite")
    with opened(tmp_path / "s.sqlite") as store:
        assert store.logits(*KEY) is not None
        file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
        assert store.logits(*KEY) is None
        file.unlink()
        assert store.logits(*KEY) is None
        file.mkdir()
        assert store.logits(*KEY) is None


def test_a_file_that_cannot_be_opened_for_now_is_no_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation is worth more than a second attempt."""
    with_one(tmp_path / "s.sqlite")

    def too_many(*args: object, **options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with opened(tmp_path / "s.sqlite") as store:
        monkeypatch.setattr(np, "load", too_many)
        with pytest.raises(OSError, match="Too many open files"):
            store.logits(*KEY)


def test_arrays_without_their_folder_are_made_again(tmp_path: Path) -> None:
    file = with_one(tmp_path / "s.sqlite")
    file.unlink()
    file.parent.rmdir()
    assert logits(tmp_path / "s.sqlite") is None
    with_one(tmp_path / "s.sqlite")
    assert np.array_equal(logits(tmp_path / "s.sqlite"), ARRAY)


# --- what is no store ---------------------------------------------------------------------


def database(path: Path, *statements: str) -> None:
    base = sqlite3.connect(path)
    for statement in statements:
        base.execute(statement)
    base.commit()
    base.close()


def refusal(path: Path) -> str:
    before = path.read_bytes()
    with pytest.raises(BadInput) as raised:
        Store(path)
    assert path.read_bytes() == before
    assert not arrays_of(path).exists()
    sentence = str(raised.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def test_a_store_of_the_earlier_version_is_refused(tmp_path: Path) -> None:
    database(
        tmp_path / "s.sqlite",
        "CREATE TABLE predictions (soup TEXT, task TEXT, split TEXT, examples INTEGER, "
        "classes INTEGER, logits BLOB, made TEXT, PRIMARY KEY (soup, task, split))",
        "CREATE TABLE scores (soup TEXT, scorer TEXT, score REAL, made TEXT)",
        "CREATE TABLE decisions (position INTEGER PRIMARY KEY, recipe TEXT, tasting TEXT)",
        "PRAGMA user_version = 1",
    )
    sentence = refusal(tmp_path / "s.sqlite")
    assert "is a store of an earlier ladle" in sentence
    assert sentence.endswith("remove it")


def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    with_one(tmp_path / "made.sqlite")
    database(tmp_path / "made.sqlite", "PRAGMA user_version = 3")
    (tmp_path / "made.sqlite").rename(tmp_path / "s.sqlite")
    assert "version 3, and this ladle knows 2" in refusal(tmp_path / "s.sqlite")


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    database(tmp_path / "s.sqlite", "CREATE TABLE bookmarks (url TEXT)")
    assert "another database; name another file" in refusal(tmp_path / "s.sqlite")


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    with_one(tmp_path / "made.sqlite")
    content = bytearray((tmp_path / "made.sqlite").read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    (tmp_path / "s.sqlite").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "s.sqlite")


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(BadInput, match="s is a folder; name a file"):
        Store(tmp_path / "s")


# --- places that cannot be written to -----------------------------------------------------


def test_what_is_in_the_way_of_the_arrays_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.predictions").write_text("mine")
    with pytest.raises(BadInput, match=r"s\.predictions cannot be written \(File exists\)"):
        Store(tmp_path / "s.sqlite")
    assert (tmp_path / "s.predictions").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="where /proc is")
def test_a_place_without_room_for_files_is_told() -> None:
    with pytest.raises(BadInput, match=r"the store /proc/s\.sqlite cannot be used \(unable to ope"):
        Store(Path("/proc/s.sqlite"))


@pytest.fixture
def of_a_person(tmp_path: Path) -> Iterator[Path]:
    """A folder, while nobody is root, who may write anywhere."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    with_one(tmp_path / "s.sqlite")  # Whatever is imported late is imported now.
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="permissions are another matter there")
@pytest.mark.parametrize("locked", [".", "s.predictions", "s.sqlite"])
def test_what_may_not_be_written_is_told_before_any_work(of_a_person: Path, locked: str) -> None:
    with_one(of_a_person / "s.sqlite")
    (of_a_person / locked).chmod(0o500)
    try:
        with pytest.raises(BadInput, match="you may write there"):
            Store(of_a_person / "s.sqlite")
    finally:
        (of_a_person / locked).chmod(0o700)


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from ladle.errors import NoSpace
from ladle.evaluate import Store
store = Store(Path(sys.argv[1]))
store.keep_logits("small", "task", "split", np.ones((3, 2), np.float32))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    store.keep_logits("large", "task", "split", np.ones((100_000, 2), np.float32))
except NoSpace as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 300_000))
try:
    for i in range(1000):
        store.keep_score(f"soup {i}", "scorer", 1.0)
except NoSpace as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="file sizes cannot be limited there")
def test_a_full_disk_is_told_and_takes_nothing_with_it(tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk that fills up while we write."""
    done = run(FULL, tmp_path / "s.sqlite")
    assert done.returncode == 0, done.stderr
    array, scores = done.stdout.splitlines()
    assert "s.predictions" in array or "s.sqlite" in array
    assert "make room and run the same command again" in array
    assert "s.sqlite cannot be written" in scores
    assert len(list((tmp_path / "s.predictions").iterdir())) == 1
    with opened(tmp_path / "s.sqlite") as store:
        assert store.logits("large", "task", "split") is None
        assert np.array_equal(store.logits("small", "task", "split"), np.ones((3, 2)))


def test_a_database_that_may_not_grow_is_told(tmp_path: Path) -> None:
    with opened(tmp_path / "s.sqlite") as store:
        store._base.execute("PRAGMA max_page_count = 8")
        with pytest.raises(NoSpace, match=r"s\.sqlite cannot be written \(.*full\); make room"):
            store.keep_decisions("soup", "greedy", [{"candidate": "x" * 99}] * 999)
        store.keep_score("soup", "scorer", 1.0)
        assert store.score("soup", "scorer") == 1.0


# --- kills --------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from ladle.evaluate import Store
store = Store(Path(sys.argv[1]))
def die(*event):
    if not event or event[0] == "os.rename":
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before the array is there":
    sys.addaudithook(die)
else:
    store._writing = die
store.keep_logits("soup", "task", "split", np.arange(12, dtype=np.float32).reshape(4, 3))
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("moment", ["before the array is there", "before its row is"])
def test_killed_half_way_an_entry_is_not_there(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "s.sqlite"
    done = run(KILLED, path, moment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = arrays_of(path).iterdir()
    assert left.suffix == (".part" if moment.startswith("before the array") else ".npy")
    assert logits(path) is None
    with_one(path)
    assert np.array_equal(logits(path), ARRAY)
    assert [file.suffix for file in arrays_of(path).iterdir()] == [".npy"]


ENDLESS = """
import sys
from itertools import count
from pathlib import Path
import numpy as np
from ladle.evaluate import Store
store = Store(Path(sys.argv[1]))
for i in count(int(sys.argv[2])):
    store.keep_logits(str(i), "task", "split", np.full((50, 40), i, np.float32))
    print(i, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_whenever_it_is_killed_every_row_has_its_array(tmp_path: Path) -> None:
    path, written = tmp_path / "s.sqlite", 0
    for attempt in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(path), str(written)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        said = [process.stdout.readline()]
        time.sleep(0.005 * attempt)
        process.kill()
        said += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        written += len([line for line in said if line.endswith("\n")])
        base = sqlite3.connect(path)
        rows = [key for (key,) in base.execute("SELECT soup FROM predictions")]
        base.close()
        # What was said to be kept is, and at most the one under way beside it.
        assert {str(i) for i in range(written)} <= set(rows)
        assert len(rows) <= written + 1
        with opened(path) as store:
            for key in rows:
                assert np.array_equal(
                    store.logits(key, "task", "split"), np.full((50, 40), int(key), np.float32)
                )
        written = len(rows)
    assert not list(arrays_of(path).glob(".*"))


# --- several at once ----------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
import numpy as np
from ladle.evaluate import Store
store, mine = Store(Path(sys.argv[1])), int(sys.argv[2])
for i in range(30):
    for key in (f"common {i}", f"own {mine} {i}"):
        store.keep_logits(key, "task", "split", np.full((20, 10), mine, np.float32))
        found = store.logits(key, "task", "split")
        assert found is not None, key
        assert (found == found[0, 0]).all(), key
        store.keep_score(key, "scorer", mine)
"""


def test_processes_that_write_the_same_at_once_lose_nothing(tmp_path: Path) -> None:
    """Their arrays differ, as those of two graphics cards may: an entry is one of them, whole."""
    path = tmp_path / "s.sqlite"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(mine)], stderr=subprocess.PIPE
        )
        for mine in (1, 2, 3)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    with opened(path) as store:
        for i in range(30):
            common = store.logits(f"common {i}", "task", "split")
            assert common.shape == (20, 10)
            assert (common == common[0, 0]).all()
            for mine in (1, 2, 3):
                assert (store.logits(f"own {mine} {i}", "task", "split") == mine).all()
                assert store.score(f"own {mine} {i}", "scorer") == mine


def test_what_another_process_writes_at_the_moment_is_waited_for(tmp_path: Path) -> None:
    with opened(tmp_path / "s.sqlite") as store:
        other = sqlite3.connect(
            tmp_path / "s.sqlite", isolation_level=None, check_same_thread=False
        )
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, other.execute, ["COMMIT"])
        timer.start()
        start = time.monotonic()
        store.keep_logits(*KEY, ARRAY)
        assert time.monotonic() - start > 0.2
        timer.join()
        other.close()
        assert np.array_equal(store.logits(*KEY), ARRAY)


def test_a_new_store_may_be_made_by_several_at_once(tmp_path: Path) -> None:
    def make(number: int) -> None:
        barrier.wait()
        with opened(path) as store:
            store.keep_score(str(number), "scorer", number)

    for attempt in range(15):
        path, barrier = tmp_path / f"{attempt}.sqlite", threading.Barrier(6)
        with ThreadPoolExecutor(6) as executor:
            list(executor.map(make, range(6)))
        with opened(path) as store:
            assert [store.score(str(number), "scorer") for number in range(6)] == list(range(6))


@pytest.mark.skipif(os.name == "nt", reason="folders are not locked there")
def test_only_who_is_alone_tidies_up(tmp_path: Path) -> None:
    part = with_one(tmp_path / "s.sqlite").with_name(".half.part")
    with opened(tmp_path / "s.sqlite"):
        part.write_bytes(b"another process is at it")
        with opened(tmp_path / "s.sqlite"):
            assert part.exists()
    with opened(tmp_path / "s.sqlite"):
        assert not part.exists()
    assert np.array_equal(logits(tmp_path / "s.sqlite"), ARRAY)


def test_threads_compute_nothing_twice(tmp_path: Path) -> None:
    asked: list[str] = []

    class Slow(Digits):
        def predict(self, model, split, **options):  # type: ignore[no-untyped-def]
            asked.append(split)
            time.sleep(0.05)
            return super().predict(model, split, **options)

    (run,) = make_runs(tmp_path, 1)
    soup, evaluator = ladle.uniform(ladle.open(run)), Evaluator(Slow())
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda split: evaluator.predict(soup, split), ["test"] * 8))
    assert asked == ["test"]
    assert all(np.array_equal(one.logits, found[0].logits) for one in found)


def test_threads_ask_a_scorer_nothing_twice() -> None:
    asked: list[object] = []

    def slow(soup: object) -> float:
        asked.append(soup)
        time.sleep(0.05)
        return 0.5

    soup, score = ladle.uniform(toy_pool(1.0)), BlackBox(slow, identity="slow")
    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(score, [soup] * 8)) == [0.5] * 8
    assert len(asked) == 1


# --- one store takes over another ---------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A store with two predictions, a score and a decision."""
    path = tmp_path / "other" / "s.sqlite"
    path.parent.mkdir()
    with opened(path) as store:
        store.keep_logits("a", "task", "split", ARRAY)
        store.keep_logits("b", "task", "split", ARRAY + 1)
        store.keep_score("a", "scorer", 0.5)
        store.keep_decisions("a", "greedy", [{"kept": True}])
    return path


@pytest.mark.parametrize("links", [True, False])
def test_what_was_taken_over_stays_when_the_other_goes(
    tmp_path: Path, other: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_another_disk(*args: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if not links:
        monkeypatch.setattr(os, "link", on_another_disk)
    path = tmp_path / "mine.sqlite"
    with opened(path) as store:
        store.keep_logits("b", "task", "split", ARRAY + 7)
        store.take_over(other)
        store.take_over(other)
    for file in (*arrays_of(other).iterdir(), other):
        file.unlink()
    assert np.array_equal(logits(path, "a", "task", "split"), ARRAY)
    assert np.array_equal(logits(path, "b", "task", "split"), ARRAY + 7)
    with opened(path) as store:
        assert store.score("a", "scorer") == 0.5
    assert not list(arrays_of(path).glob(".*"))


def test_a_store_that_is_taken_over_keeps_all(tmp_path: Path, other: Path) -> None:
    with opened(tmp_path / "mine.sqlite") as store:
        store.take_over(other)
        store.keep_logits("a", "task", "split", ARRAY + 9)
    assert np.array_equal(logits(other, "a", "task", "split"), ARRAY)


def test_what_is_missing_there_is_missing_here(tmp_path: Path, other: Path) -> None:
    for file in arrays_of(other).iterdir():
        if np.array_equal(np.load(file), ARRAY):
            file.unlink()
    with opened(tmp_path / "mine.sqlite") as store:
        store.take_over(other)
    assert logits(tmp_path / "mine.sqlite", "a", "task", "split") is None
    assert np.array_equal(logits(tmp_path / "mine.sqlite", "b", "task", "split"), ARRAY + 1)


@pytest.mark.parametrize("content", ["text", "foreign", "earlier"])
def test_only_a_store_is_taken_over(tmp_path: Path, other: Path, content: str) -> None:
    if content == "text":
        other.write_text("a shopping list, long enough to be no database at all")
    elif content == "foreign":
        other.unlink()
        database(other, "CREATE TABLE bookmarks (url TEXT)")
    else:
        database(other, "PRAGMA user_version = 1")
    with opened(tmp_path / "mine.sqlite") as store:
        with pytest.raises(BadInput, match=r"other/s\.sqlite is "):
            store.take_over(other)
        # And it goes on.
        store.keep_logits(*KEY, ARRAY)
        assert np.array_equal(store.logits(*KEY), ARRAY)
