"""The folders that trainings leave behind, and the checkpoints in them. Reads no weights."""

from ladle.runs.base import Facts, Found, Member
from ladle.runs.choice import Choice, choose, good
from ladle.runs.facts import facts_in
from ladle.runs.find import find_members, member_at
from ladle.runs.layouts import natural

__all__ = [
    "Choice",
    "Facts",
    "Found",
    "Member",
    "choose",
    "facts_in",
    "find_members",
    "good",
    "member_at",
    "natural",
]
