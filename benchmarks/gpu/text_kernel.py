"""A kernel in the text that tracejit's CPU kernels are written in, through tracejit's own front half, to PTX."""

from __future__ import annotations

import linecache

import llvmlite.binding as llvm

from tracejit.runtime import frontend
from tracejit.runtime.build import namespace
from tracejit.runtime.ptx import TRIPLE, assemble

THREADS = 256
TEXT = """def text_kernel(p, lo, hi):
    x = load_arg(p, 0)
    y = load_arg(p, 1)
    out = load_arg(p, 2)
    for i in range(lo, hi):
        a = load_f32_s(x, i, 0, 3)
        b = load_f32_s(y, i, 1, 3)
        store_f32_s(out, i, exp_f32(tanh_f32(a * b + float32(1)) * sigmoid_f32(a) - b / float32(2)), 2, 3)
    return 0
"""
# A thread does the elements [i, i + 1) of [0, n); the argument block lies among the kernel's parameters.
_ENTRY = """
declare i32 @{symbol}(ptr, ptr, ptr, i64, i64)
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i64 @llvm.smin.i64(i64, i64)

define ptx_kernel void @{name}(ptr byval([{slots} x i64]) align 8 %block, i64 %n) "nvvm.maxntid"="{threads}" {{
  %result = alloca i64
  %error = alloca ptr
  %thread = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %group = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %t = zext i32 %thread to i64
  %g = zext i32 %group to i64
  %start = mul nuw nsw i64 %g, {threads}
  %low = add nuw nsw i64 %start, %t
  %next = add nuw nsw i64 %low, 1
  %high = call i64 @llvm.smin.i64(i64 %next, i64 %n)
  %status = call i32 @{symbol}(ptr %result, ptr %error, ptr %block, i64 %low, i64 %high)
  ret void
}}
"""


def text_kernel_ptx(capability: int, name: str = "text_kernel") -> str:
    """The PTX of TEXT. Parameters: a block of three addresses by value, n; a thread an element."""
    file = f"<{name}>"
    scope = dict(namespace())
    linecache.cache[file] = (len(TEXT), None, TEXT.splitlines(keepends=True), file)
    exec(compile(TEXT, file, "exec"), scope)
    lowered = frontend.lower_directly(scope[name], TEXT, vectors=False)
    module = llvm.parse_assembly(lowered.text)
    module.get_function(lowered.symbol).name = "body"
    entry = _ENTRY.format(symbol="body", name=name, slots=3, threads=THREADS)
    module.triple = TRIPLE
    module.data_layout = ""
    other = llvm.parse_assembly(entry)
    other.triple = TRIPLE
    module.link_in(other)
    module.get_function("body").linkage = llvm.Linkage.internal
    return assemble(module, capability)
