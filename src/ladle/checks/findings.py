"""What a check finds, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["soupable", "doubtful", "not soupable"]
Severity = Literal["not soupable", "doubtful", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: what it is, whom it concerns, and what to do about it."""

    severity: Severity
    kind: str
    text: str
    members: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All findings about some checkpoints, and how far each lies from where they started.

    `distances` are relative to the norm of what they are measured on: the matrices that changed.
    """

    names: tuple[str, ...]
    findings: tuple[Finding, ...]
    distances: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """As bad as the worst finding."""
        found = {finding.severity for finding in self.findings}
        if "not soupable" in found:
            return "not soupable"
        return "doubtful" if "doubtful" in found else "soupable"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "verdict": self.verdict,
            "checkpoints": list(self.names),
            "findings": [vars(finding) for finding in self.findings],
            "distances": dict(self.distances),
        }


def listed(names: tuple[str, ...] | list[str], most: int = 5) -> str:
    """Names in a sentence; of many, the first few."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
