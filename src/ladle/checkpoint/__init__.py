"""Checkpoints in any format, behind one protocol. Needs numpy alone, and torch for its files."""

from ladle.checkpoint.base import Bytes, Checkpoint, Layout, TensorSpec
from ladle.checkpoint.memory import MemoryCheckpoint
from ladle.checkpoint.open import holds_weights, is_weights_file, open_checkpoint, weights_in
from ladle.checkpoint.side_files import side_files

__all__ = [
    "Bytes",
    "Checkpoint",
    "Layout",
    "MemoryCheckpoint",
    "TensorSpec",
    "holds_weights",
    "is_weights_file",
    "open_checkpoint",
    "side_files",
    "weights_in",
]
