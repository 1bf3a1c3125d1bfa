"""Memory that a call of a kernel has for itself: on the stack, or in the workspace of its thread.

In: a builder inside of a kernel, a number of bytes. Out: their address.
Must not know: what is kept there.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir

WORKSPACE = "tracejit_workspace"
"""The native function that gives the calling thread's workspace, of so many bytes at least: see `runtime/entry.py`."""
_CALLED, _IS_OWN = "tracejit_called", "tracejit_is_own"
"""Attributes of a function that kernels call, and of an address that `own_memory` gave."""
_STACK_BYTES = 4096
_ALIGN = 64
_I64 = ir.IntType(64)


def mark_called(function: Any) -> None:
    """Notes that kernels call a function, or several kernels do, and that it is none itself."""
    setattr(function, _CALLED, True)


def own_memory(builder: Any, nbytes: int) -> Any:
    """The address of so many uninitialised bytes, 64-byte aligned, for the rest of the call.

    Few are on the stack. More are a part of the thread's workspace, as a thread's stack may be small, and all of that
    is the kernel's own while it runs; so no function that a kernel calls may ask for more than a few.
    """
    function = builder.function
    # In the entry block, so that what is in a loop does not ask again.
    with builder.goto_entry_block():
        if nbytes <= _STACK_BYTES:
            place = builder.alloca(ir.ArrayType(ir.IntType(8), nbytes))
            place.align = _ALIGN
            address = builder.ptrtoint(place, _I64)
        else:
            assert not hasattr(function, _CALLED), f"{function.name} is no kernel: the workspace is not its own"
            if not hasattr(function, WORKSPACE):
                # The number is that of all parts once the last of them is asked for.
                taken = ir.Constant(_I64, 0)
                setattr(function, WORKSPACE, (builder.call(_workspace(builder.module), [taken]), taken))
            first, taken = getattr(function, WORKSPACE)
            address = builder.add(first, _I64(taken.constant))
            taken.constant += -(-nbytes // _ALIGN) * _ALIGN
    setattr(address, _IS_OWN, True)
    return address


def _workspace(module: Any) -> Any:
    existing = module.globals.get(WORKSPACE)
    return existing if existing is not None else ir.Function(module, ir.FunctionType(_I64, [_I64]), WORKSPACE)


def is_own_memory(address: Any) -> bool:
    """Whether `own_memory` gave this address."""
    return hasattr(address, _IS_OWN)
