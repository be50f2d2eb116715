"""Parts of sentences for errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like a wrong one, if one is at all."""
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1)), None)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most like a wrong one, in brackets for the end of a sentence; else all."""
    known = sorted(known)
    close = closest(word, known)
    return f" (did you mean {close!r}?)" if close else f" (known: {', '.join(known)})"


def some(names: Sequence[str], most: int = 5) -> str:
    """`a, b, c, d, e and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
