"""Loads and stores of a GPU's memories, in alias scopes as `kernels.memory` has them.

`_g` is global memory, `_v` the first element of a vector in it, `_b` the memory of a block.

Addresses are int64 like all others; these forms say which memory they are of, so that PTX has `ld.global`, and
neighbouring accesses can become one of 16 bytes. Memory of one thread alone is that of `stack_i64`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tracejit.kernels.memory import ELEMENTS, make_scoped_load, make_scoped_store, make_vector_load, require_literal

GLOBAL, SHARED = 1, 3
"""LLVM's numbers of a GPU's address spaces."""

load_f16_g, load_f32_g, load_f64_g, load_i8_g, load_i16_g, load_i32_g, load_i64_g, load_u8_g, load_b1_g = (
    make_scoped_load(ELEMENTS[name], "g", GLOBAL)
    for name in ("f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "b1")
)
store_f16_g, store_f32_g, store_f64_g, store_i8_g, store_i16_g, store_i32_g, store_i64_g, store_u8_g, store_b1_g = (
    make_scoped_store(ELEMENTS[name], "g", GLOBAL)
    for name in ("f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "b1")
)
# Rounded by integers as on the CPU, also where `cvt.rn.bf16` is one instruction: that one gives another NaN.
load_bf16_g = make_scoped_load(ELEMENTS["bf16"], "g", GLOBAL)
store_bf16_g = make_scoped_store(ELEMENTS["bf16"], "g", GLOBAL)
load_f32_b, load_f64_b, load_i8_b, load_i16_b, load_i32_b, load_i64_b, load_u8_b = (
    make_scoped_load(ELEMENTS[name], "b", SHARED) for name in ("f32", "f64", "i8", "i16", "i32", "i64", "u8")
)
store_f32_b, store_f64_b, store_i8_b, store_i16_b, store_i32_b, store_i64_b, store_u8_b = (
    make_scoped_store(ELEMENTS[name], "b", SHARED) for name in ("f32", "f64", "i8", "i16", "i32", "i64", "u8")
)
load_f16_v, load_f32_v, load_f64_v = (make_vector_load(ELEMENTS[name], "v", GLOBAL) for name in ("f16", "f32", "f64"))


@intrinsic(prefer_literal=True)
def shared(typingctx: Any, number: Any, count: Any) -> Any:
    """The address of the block's shared buffer `number`, of `count` int64s (both literals), for the `_b` forms."""
    which, size = require_literal("shared", number), require_literal("shared", count)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = f"shared{which}"
        buffer = builder.module.globals.get(name)
        if buffer is None:
            buffer = ir.GlobalVariable(builder.module, ir.ArrayType(ir.IntType(64), size), name, addrspace=SHARED)
            buffer.linkage = "internal"
            buffer.align = 16
            buffer.initializer = ir.Constant(buffer.value_type, ir.Undefined)
        return builder.ptrtoint(buffer, ir.IntType(64))

    return types.int64(number, count), codegen
