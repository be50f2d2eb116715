"""Checkpoints in any format, behind one protocol. Needs numpy alone, and torch for its files."""

from ladle.checkpoint.adapter import AdapterCheckpoint
from ladle.checkpoint.applied import Applied
from ladle.checkpoint.base import Bytes, Checkpoint, Envelope, Layout, TensorSpec
from ladle.checkpoint.memory import MemoryCheckpoint
from ladle.checkpoint.naming import matched, renamed, renamed_as, taken_by
from ladle.checkpoint.open import (
    SUFFIXES,
    holds_weights,
    is_weights_file,
    open_checkpoint,
    weights_in,
)
from ladle.checkpoint.side_files import side_files

__all__ = [
    "SUFFIXES",
    "AdapterCheckpoint",
    "Applied",
    "Bytes",
    "Checkpoint",
    "Envelope",
    "Layout",
    "MemoryCheckpoint",
    "TensorSpec",
    "holds_weights",
    "is_weights_file",
    "matched",
    "open_checkpoint",
    "renamed",
    "renamed_as",
    "side_files",
    "taken_by",
    "weights_in",
]
