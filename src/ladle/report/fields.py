"""JSON objects read with types: a wrong or missing field is an error that names it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from ladle.errors import BadInput
from ladle.report.record import Scalar

T = TypeVar("T")


@dataclass(frozen=True)
class Fields:
    """One JSON object and where it stands, e.g. `soup.json, tastings[3]`."""

    values: Mapping[str, object]
    where: str

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(key) is not None

    def text(self, key: str) -> str:
        return self._get(key, str, "a string")

    def text_or_empty(self, key: str) -> str:
        """The text below `key`; an empty one when it is null or missing."""
        return self.text(key) if self.has(key) else ""

    def one_of(self, key: str, known: Sequence[str]) -> str:
        """The text below `key`, which has to be one of those that are known."""
        value = self.text(key)
        if value not in known:
            raise BadInput(f"{self.where}: `{key}` is {value!r}, known are {', '.join(known)}")
        return value

    def number(self, key: str) -> float:
        """The number, which has to be there and finite."""
        value = self.number_or_none(key)
        return self._wrong(key, "a finite number") if value is None else value

    def flag(self, key: str) -> bool:
        return self._get(key, bool, "true or false")

    def integer(self, key: str) -> int:
        value = self._get(key, int, "an integer")
        return self._wrong(key, "an integer") if isinstance(value, bool) else value

    def integer_or_none(self, key: str) -> int | None:
        return self.integer(key) if self.has(key) else None

    def number_or_none(self, key: str) -> float | None:
        """The number; None when it is null, missing or not finite, which no page can draw."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return self._wrong(key, "a number")
        return float(value) if math.isfinite(value) else None

    def numbers(self, key: str) -> tuple[float, ...]:
        """The finite numbers of the list below `key`; none when it is null or missing."""
        values = self._get(key, list, "a list of numbers") if self.has(key) else []
        if not all(isinstance(value, (int, float)) for value in values):
            self._wrong(key, "a list of numbers")
        return tuple(float(value) for value in values if math.isfinite(value))

    def row(self, key: str) -> tuple[float | None, ...]:
        """The list of numbers below `key`; None stands where one is null or not finite."""
        row = _row(self._get(key, list, "a list of numbers"))
        return self._wrong(key, "a list of numbers") if row is None else row

    def grid(self, key: str) -> tuple[tuple[float | None, ...], ...]:
        """The list of rows below `key`, all of one length."""
        rows = [_row(row) for row in self._get(key, list, "a list of lists of numbers")]
        if any(row is None or len(row) != len(rows[0] or ()) for row in rows):
            self._wrong(key, "a list of equally long lists of numbers")
        return tuple(row or () for row in rows)

    def scalars(self, key: str) -> dict[str, Scalar]:
        """The texts, numbers and truth values of the object below `key`; the rest is left out."""
        return {
            name: value
            for name, value in self.object(key).values.items()
            if (value is None or isinstance(value, (str, int, float)))
            and not (isinstance(value, float) and not math.isfinite(value))
        }

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._get(key, list, "a list of strings")
        if not all(isinstance(value, str) for value in values):
            self._wrong(key, "a list of strings")
        return tuple(values)

    def object(self, key: str) -> Fields:
        """The object below `key`; an empty one when it is null or missing."""
        if not self.has(key):
            return Fields({}, f"{self.where}, {key}")
        return Fields(self._get(key, dict, "an object"), f"{self.where}, {key}")

    def objects(self, key: str) -> list[Fields]:
        """The objects of the list below `key`; none when it is null or missing."""
        if not self.has(key):
            return []
        values = self._get(key, list, "a list of objects")
        if not all(isinstance(value, dict) for value in values):
            self._wrong(key, "a list of objects")
        return [Fields(value, f"{self.where}, {key}[{i}]") for i, value in enumerate(values)]

    def shown(self, *leave_out: str) -> dict[str, str]:
        """Every field that is not left out, each as short text."""
        return {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in self.values.items()
            if key not in leave_out
        }

    def _get(self, key: str, kind: type[T], expected: str) -> T:
        value = self.values.get(key)
        return value if isinstance(value, kind) else self._wrong(key, expected)

    def _wrong(self, key: str, expected: str) -> NoReturn:
        found = json.dumps(self.values[key])[:60] if key in self.values else "nothing"
        raise BadInput(
            f"{self.where}: `{key}` should be {expected}, found {found}; "
            "was the file edited or written by another version of ladle?"
        )


def _row(values: object) -> tuple[float | None, ...] | None:
    """Numbers, None for those that are not finite; None in all where they are no numbers."""
    if not isinstance(values, list):
        return None
    if not all(value is None or isinstance(value, (int, float)) for value in values):
        return None
    return tuple(
        float(value) if value is not None and math.isfinite(value) else None for value in values
    )
