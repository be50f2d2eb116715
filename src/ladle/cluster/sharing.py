"""Values that many pieces of work need, sent once to each worker by Ray's object store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_refs: dict[str, Any] = {}
_values: dict[str, Any] = {}
"""Of this process, as a worker: what is shared now, and what of that it has read."""


class Shared:
    """Gives a value; in every worker that it is sent to, the same object each time.

    It travels as a name. Whoever sends it offers the reference beside it, for one inside of other
    bytes would keep the value in the store for good.
    """

    def __init__(self, ref: Any, value: Any) -> None:
        self.ref = ref
        self._value = value

    def __call__(self) -> Any:
        return self._value

    def __reduce__(self) -> tuple[type[_Named], tuple[str]]:
        return _Named, (self.ref.hex(),)


class _Named:
    """The same on a worker."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self) -> Any:
        import ray

        if self._name not in _values:
            _values[self._name] = ray.get(_refs[self._name])
        return _values[self._name]


def offer(refs: Iterable[Any]) -> None:
    """Let this worker know what is shared now; it forgets what is not any more."""
    now = {ref.hex(): ref for ref in refs}
    for name in _refs.keys() - now.keys():
        del _refs[name]
        _values.pop(name, None)
    _refs.update(now)
