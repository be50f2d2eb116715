"""Element types by torch's names, and the names safetensors gives them."""

from __future__ import annotations

SAFETENSORS = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
}
SAFETENSORS_NAME = {ours: theirs for theirs, ours in SAFETENSORS.items()}

ITEMSIZE = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "complex64": 8,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
}

AVERAGED = ("float16", "bfloat16", "float32", "float64")
"""The dtypes that are averaged; tensors of every other dtype have to be equal."""

INTEGERS = ("bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def promote(one: str, other: str) -> str | None:
    """The smallest dtype that holds every value of both, or None if they do not mix."""
    if one == other:
        return one
    if one not in AVERAGED or other not in AVERAGED:
        return None
    return "float64" if "float64" in (one, other) else "float32"
