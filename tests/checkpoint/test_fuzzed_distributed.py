"""Damaged distributed checkpoints: each opens as what it says, or is refused."""

from __future__ import annotations

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from test_fuzzed_files import _little_memory, damaged, damages, opens_or_is_refused, state

__all__ = ["_little_memory"]  # Applied here, too.

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]


@pytest.mark.parametrize("which", [".metadata", "__0_0.distcp"])
@settings(max_examples=150)
@given(what=damages())
def test_damaged_files(
    which: str, what: list[tuple[str, float, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-dcp"
    if not folder.exists():
        content = {"model": state(), "optimizer": {"lr": 0.1, "m": torch.ones(3)}, "step": 7}
        dcp.save(content, checkpoint_id=str(folder), no_dist=True)
    whole = (folder / which).read_bytes()
    try:
        (folder / which).write_bytes(damaged(whole, what))
        opens_or_is_refused(folder)
    finally:
        (folder / which).write_bytes(whole)
