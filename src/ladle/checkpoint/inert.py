"""Pickles read without running anything: every name in them becomes a record, never the thing.

Nothing that a pickle names is imported, made or called, so it may name whatever it likes.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from typing import Any

_DTYPE = re.compile(r"bool|bfloat16|(float|complex|bits|q?u?int)\d\w*")

_MAPPINGS = ("OrderedDict", "defaultdict", "Counter")


class Record:
    """What stands for an object: its class's name, what it was made from, and its attributes."""

    kind = ""
    made_from: tuple[Any, ...] = ()

    def __init__(self, *args: Any) -> None:
        self.made_from = args

    def __setstate__(self, state: Any) -> None:
        made_from = self.made_from
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})
        self.made_from = made_from

    def append(self, item: Any) -> None:
        """Of a list's relatives, the items are of no interest."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nor those of a dictionary's."""


class _Mapping(dict[Any, Any]):
    """A relative of `dict` from `collections`, whose items are of interest."""

    def __init__(self, *args: Any) -> None:
        # The first argument of a defaultdict is its factory.
        super().__init__(*(one for one in args[-1:] if isinstance(one, (list, Mapping))))

    def __setstate__(self, state: Any) -> None:
        """Attributes, as the `_metadata` of a module's state dict, are left out."""


class InertUnpickler(pickle._Unpickler):
    """Makes plain values, tuples, dictionaries and records.

    Texts stand for torch's dtypes. What `find_class` returns is made anew for every file, because
    a pickle can also change attributes of a class.
    """

    # Python's own, slower one: in C, a few bytes are enough to ask for gigabytes. That holds for
    # byte arrays here, too; and extensions would be found without `find_class`.
    dispatch = {  # noqa: RUF012 -- as in the base class
        opcode: load
        for opcode, load in pickle._Unpickler.dispatch.items()
        if bytes([opcode]) not in (pickle.BYTEARRAY8, pickle.EXT1, pickle.EXT2, pickle.EXT4)
    }

    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and _DTYPE.fullmatch(name):
            return name
        if module == "collections" and name in _MAPPINGS:
            return type(name, (_Mapping,), {})
        return type(name, (Record,), {"kind": f"{module}.{name}"})
