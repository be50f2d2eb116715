"""The folders that trainings leave behind, and the checkpoints in them. Reads no weights."""

from ladle.runs.base import Facts, Found, Member
from ladle.runs.stub import Choice, choose, facts_in, find_members, natural

__all__ = ["Choice", "Facts", "Found", "Member", "choose", "facts_in", "find_members", "natural"]
