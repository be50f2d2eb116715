"""From what data say of an example to its label: the number of a class, or a number itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ladle.errors import BadTask

_UNLABELLED = (None, "", -1, "-1")


def class_number(
    value: object, names: Sequence[str], place: str, own: Sequence[str] | None = None
) -> int:
    """The number of a class, from its name or its number counted from 0.

    Where a name looks like a number, the name counts. `own` are the names that the data
    themselves give to their numbers, perhaps in another order than `names`.

    Raises:
        BadTask: with `place`, if there is no such class.
    """
    if own is not None and type(value) is int and 0 <= value < len(own):
        value = own[value]
    if isinstance(value, str) and value in names:
        return list(names).index(value)
    if value in _UNLABELLED or (isinstance(value, float) and math.isnan(value)):
        raise BadTask(_without(place, value))
    number = _whole(value)
    if number is None or not 0 <= number < len(names):
        raise BadTask(
            f"{place} has the label {value!r}; write one of {', '.join(names)}"
            f" or a number from 0 to {len(names) - 1}"
        )
    return number


def real_number(value: object, place: str) -> float:
    """A finite number, also one written as text, or `BadTask` with `place`."""
    if value in (None, ""):
        raise BadTask(_without(place, value))
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadTask(f"{place} has the label {value!r}; regression needs finite numbers")
    return number


def _without(place: str, value: object) -> str:
    return (
        f"{place} has no label ({value!r}), as test sets whose labels are kept secret have none; "
        "take a split with labels"
    )


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if not isinstance(value, float) or value == number else None
