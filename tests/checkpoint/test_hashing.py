"""The sum of a file is right, whatever is read of it, and in whatever order."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.checkpoint import hashing
from ladle.checkpoint.hashing import RunningSha256

CONTENT = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)


@given(pieces=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 400)), max_size=12))
def test_pieces_may_overlap_repeat_skip_and_come_in_any_order(
    pieces: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "content.bin"
    CONTENT.tofile(file)
    running = RunningSha256(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "_BLOCK", 64)
        for start, length in pieces:
            running.feed(start, CONTENT[start : start + length])
        assert running.finish() == hashlib.sha256(CONTENT.tobytes()).hexdigest()
        assert running.finish() == hashlib.sha256(CONTENT.tobytes()).hexdigest()


def test_another_process_begins_anew(tmp_path: Path) -> None:
    CONTENT.tofile(tmp_path / "content.bin")
    running = RunningSha256(tmp_path / "content.bin")
    running.feed(0, CONTENT[:100])
    again = pickle.loads(pickle.dumps(running))  # noqa: S301 -- our own
    assert again.finish() == hashlib.sha256(CONTENT.tobytes()).hexdigest()
