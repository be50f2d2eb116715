"""Values as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def as_json(content: object, *, indent: int | None = None) -> str:
    """JSON text; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
