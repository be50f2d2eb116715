"""The arithmetic of merges in C, if a C compiler was there when ladle was installed.

Without it numpy does the same, bit for bit, in several passes: see `hatch_build.py`, which builds
it, and `kernel.c`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Packed = npt.NDArray[Any]
"""Numbers as they are stored: float16 and float32 as what they are, bfloat16 as uint16."""

_NAMES = {"H": "bfloat16", "e": "float16", "f": "float32"}
"""What is stored, by the character of its dtype, which is quicker to look up than the name."""
_LIBRARY = Path(__file__).with_name("kernel.so")


def _opened() -> ctypes.CDLL | None:
    if sys.byteorder != "little" or not _LIBRARY.exists():
        return None
    try:
        return ctypes.CDLL(str(_LIBRARY))
    except OSError:  # Built for another machine; numpy works on this one.
        return None


_library = _opened()
_POINTER, _COUNT, _WEIGHT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_double


def _function(name: str, *arguments: Any, gives: Any = None) -> Callable[..., Any]:
    function = getattr(_library, name)
    function.argtypes, function.restype = arguments, gives
    return function  # type: ignore[no-any-return]


_start: dict[str, Callable[..., None]] = {}
_add: dict[str, Callable[..., None]] = {}
_encode: dict[str, Callable[..., None]] = {}
_dot: dict[str, Callable[..., float]] = {}
if _library is not None:
    for _kind, _name in _NAMES.items():
        _start[_kind] = _function(f"ladle_start_{_name}", _POINTER, _POINTER, _COUNT, _WEIGHT)
        _add[_kind] = _function(f"ladle_add_{_name}", _POINTER, _POINTER, _COUNT, _WEIGHT)
        _dot[_kind] = _function(f"ladle_dot_{_name}", _POINTER, _POINTER, _COUNT, gives=_WEIGHT)
    for _name in ("bfloat16", "float16"):
        _encode[_name] = _function(f"ladle_to_{_name}", _POINTER, _POINTER, _COUNT)


def is_built() -> bool:
    """Whether there is a compiled kernel."""
    return bool(_add)


def add(
    total: npt.NDArray[np.float64], numbers: Packed, weight: float, *, starting: bool = False
) -> bool:
    """total += weight·numbers, or total = weight·numbers; False where that is left to numpy.

    Both are one-dimensional and of one length.
    """
    function = (_start if starting else _add).get(numbers.dtype.char)
    if function is None:
        return False
    function(_address(total), _address(numbers), len(total), weight)
    return True


def dot(numbers: Packed, slope: npt.NDArray[np.float32]) -> float | None:
    """Σ numbers·slope in float64, in 16 lanes; None where that is left to numpy.

    Both are one-dimensional and of one length.
    """
    function = _dot.get(numbers.dtype.char)
    if function is None:
        return None
    return function(_address(numbers), _address(slope), len(slope))


def encode(numbers: npt.NDArray[np.float64], dtype: str, out: npt.NDArray[np.uint8]) -> bool:
    """Round to `dtype`, to nearest even, into `out`; False where that is left to numpy."""
    function = _encode.get(dtype)
    if function is None:
        return False
    function(_address(out), _address(numbers), len(numbers))
    return True


def _address(numbers: npt.NDArray[Any]) -> int:
    if numbers.ndim != 1 or not numbers.flags.c_contiguous:
        raise ValueError("the compiled kernel takes one-dimensional arrays without gaps")
    return numbers.ctypes.data
