"""The folders that trainings leave behind, and the checkpoints in them. Reads no weights."""

from ladle.runs.base import Facts, Found, Member

__all__ = ["Facts", "Found", "Member"]
