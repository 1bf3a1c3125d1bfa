"""What the instructions of a loop's body read and write: variables of the kernel's text, its own memory, or any.

In: llvmlite's pointers, loads and stores. Out: which of these they are.
Must not know: vectors.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir

from tracejit.kernels.workspace import is_own_memory


def is_variable(pointer: Any) -> bool:
    """Whether a pointer is to a variable of the kernel's text, not to memory that it asks for."""
    return getattr(pointer, "opname", "") == "alloca" and not isinstance(pointer.allocated_type, ir.ArrayType)


def is_own(pointer: Any) -> bool:
    """Whether a pointer is to memory that the kernel's text asks for, which has room for a vector behind its end."""
    for opname in ("getelementptr", "inttoptr"):
        if getattr(pointer, "opname", "") != opname:
            return False
        pointer = pointer.operands[0]
    return is_own_memory(pointer)


def scope_of(access: Any) -> Any:
    """The alias scope of a load or a store, None if it has none."""
    return access.metadata.get("alias.scope")
