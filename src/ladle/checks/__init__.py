"""Can these be souped? What is wrong, in words, before hours are spent on it."""

from ladle.checks.findings import Finding, Report, Verdict
from ladle.checks.verdict import check

__all__ = ["Finding", "Report", "Verdict", "check"]
