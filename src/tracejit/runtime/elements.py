"""The types of a vector's elements, as LLVM's text and the names of its intrinsics have them.

In: the text of a type. Out: its bits, its short name, llvmlite's type.
Must not know: loops.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir

_FLOATS = {"half": 16, "float": 32, "double": 64}


class Unfit(Exception):
    """Something of which there are no vectors here."""


def bit_size(kind: str) -> int:
    """The bits of an element of a vector.

    Raises: Unfit if there are no vectors of such elements.
    """
    if kind in _FLOATS:
        return _FLOATS[kind]
    if kind[0] != "i" or not kind[1:].isdecimal():
        raise Unfit
    return int(kind[1:])


def short_name(kind: str) -> str:
    """A type as the names of LLVM's intrinsics have it."""
    return f"f{_FLOATS[kind]}" if kind in _FLOATS else kind


def element_type(kind: str) -> Any:
    """The type of elements that masked accesses move: half as whole numbers, as few CPUs know it."""
    return {"float": ir.FloatType(), "double": ir.DoubleType()}.get(kind) or ir.IntType(bit_size(kind))
