"""Can these be souped? What is wrong, in words, before hours are spent on it."""

from ladle.checks.check import check
from ladle.checks.findings import Finding, Report, Verdict

__all__ = ["Finding", "Report", "Verdict", "check"]
