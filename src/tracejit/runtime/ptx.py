"""Kernel text to PTX, by LLVM's own target: neither a GPU nor a CUDA toolkit is needed.

In: kernel text and a compute capability. Out: PTX with one entry, named as the kernel.
Must not know: grids, the driver, what a kernel computes.

What an entry's parameters are is said in `codegen.cuda.text`: of a launch in `CudaText`, of several in `CudaBatch`. A
kernel's text is `kernel(p, lo, hi)`: `lo` is the number of the block, `hi` that of the units.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import threading
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
from numba.core.errors import NumbaError

from tracejit import kernels
from tracejit.codegen.cuda.text import HEAD, CudaText
from tracejit.errors import KernelBuildError
from tracejit.runtime import build, frontend, lowering, printing, scalars, syntax
from tracejit.runtime.cache import PTX, STORE
from tracejit.runtime.scalars import Unsupported

TRIPLE = "nvptx64-nvidia-cuda"
CAPABILITIES = (75, 80, 90)
"""The compute capabilities that kernels are checked for: Turing, Ampere, Hopper."""
_VERSIONS = {75: 70, 80: 71, 90: 78}
"""The oldest version of PTX in which LLVM knows all of a capability's instructions."""
_LARGE_BLOCK = 256
"""Threads of a block."""
_lock = threading.Lock()
_ENTRY = """
declare i32 @body(ptr, ptr, ptr, i64, i64)
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()

define ptx_kernel void @{name}({parameters}) "nvvm.maxntid"="{threads}"{more} {{
entry:
  %result = alloca i64
  %error = alloca ptr
  %number = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %block = zext i32 %number to i64
{work}
}}
"""
_BLOCK = "ptr byval([{slots} x i64]) align 8 %p, i64 %units"
_PLAIN = """
  %called = call i32 @body(ptr %result, ptr %error, ptr %p, i64 %block, i64 %units)
  ret void"""
_STATUS = ", ptr addrspace(1) align 8 %status"
_CHECKED = """
  %before = load atomic i64, ptr addrspace(1) %status monotonic, align 8
  %fine = icmp eq i64 %before, 0
  br i1 %fine, label %work, label %done
work:
  %called = call i32 @body(ptr %result, ptr %error, ptr %p, i64 %block, i64 %units)
  %code = load i64, ptr %result
  %failed = icmp ne i64 %code, 0
  br i1 %failed, label %note, label %done
note:
  %old = atomicrmw umax ptr addrspace(1) %status, i64 %code monotonic
  br label %done
done:
  ret void"""
_TABLE = "ptr addrspace(1) align 8 %table, i64 %count"
_TOGETHER = """
  br label %head
head:
  %low = phi i64 [0, %entry], [%lower, %look]
  %high = phi i64 [%count, %entry], [%upper, %look]
  %gap = sub i64 %high, %low
  %open = icmp sgt i64 %gap, 1
  br i1 %open, label %look, label %found
look:
  %sum = add i64 %low, %high
  %middle = lshr i64 %sum, 1
  %at = mul i64 %middle, {row}
  %its = getelementptr i64, ptr addrspace(1) %table, i64 %at
  %begins = load i64, ptr addrspace(1) %its
  %before = icmp sle i64 %begins, %block
  %lower = select i1 %before, i64 %middle, i64 %low
  %upper = select i1 %before, i64 %high, i64 %middle
  br label %head
found:
  %place = mul i64 %low, {row}
  %mine = getelementptr i64, ptr addrspace(1) %table, i64 %place
  %start = load i64, ptr addrspace(1) %mine
  %second = getelementptr i64, ptr addrspace(1) %mine, i64 1
  %units = load i64, ptr addrspace(1) %second
  %third = getelementptr i64, ptr addrspace(1) %mine, i64 2
  %p = addrspacecast ptr addrspace(1) %third to ptr
  %own = sub i64 %block, %start
  %called = call i32 @body(ptr %result, ptr %error, ptr %p, i64 %own, i64 %units)
  ret void"""
"""Finds the row of the table whose blocks the block is among."""


def _entry(kernel: CudaText, together: bool) -> str:
    """The LLVM text of a kernel's entry."""
    slots = max(1, len(kernel.slots))
    if together:
        name, parameters, work = together_name(kernel), _TABLE, _TOGETHER.format(row=slots + HEAD)
    elif not kernel.has_status:
        name, parameters, work = kernel.name, _BLOCK.format(slots=slots), _PLAIN
    else:
        name, parameters, work = kernel.name, _BLOCK.format(slots=slots) + _STATUS, _CHECKED
    # Two large blocks at a time hide each other's waits; it leaves each of their threads 128 registers.
    more = ' "nvvm.minctasm"="2"' if kernel.threads == _LARGE_BLOCK else ""
    return _ENTRY.format(name=name, parameters=parameters, threads=kernel.threads, more=more, work=work)


@functools.cache
def _environment() -> bytes:
    """Digest of everything but its text that a kernel's PTX depends on."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(Path(kernels.__path__[0]).rglob("*.py")):
        digest.update(path.read_bytes())
    for file in (__file__, *(module.__file__ for module in (frontend, lowering, printing, scalars, syntax))):
        digest.update(Path(str(file)).read_bytes())
    return digest.digest()


@functools.cache
def _machine(capability: int) -> Any:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TRIPLE)
    return target.create_target_machine(cpu=f"sm_{capability}", features=f"+ptx{_VERSIONS[capability]}", opt=3)


def assemble(module: Any, capability: int) -> str:
    """PTX of a parsed LLVM module: optimised, without fused or reordered arithmetic.

    Raises: RuntimeError if LLVM finds the module faulty.
    """
    module.verify()
    machine = _machine(capability)
    module.data_layout = str(machine.target_data)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return str(machine.emit_assembly(module))


def together_name(kernel: CudaText) -> str:
    """The name of the entry that does several launches of a kernel."""
    return f"{kernel.name}_together"


def llvm_module(kernel: CudaText, together: bool = False) -> Any:
    """The LLVM module of a kernel with its entry, not optimised.

    Raises: KernelBuildError if the text is outside of the kernels' language.
    """
    try:
        library = {} if kernel.function is None else {kernel.function.__name__: kernel.function}
        function = build.function_of(kernel.text, kernel.name, {**build.namespace(gpu=True), **library})
        lowered = frontend.lower_directly(function, kernel.text, vectors=False)
    except (Unsupported, NumbaError) as error:
        raise KernelBuildError(f"kernel {kernel.name}: {error}") from error
    entry = _entry(kernel, together)
    with _lock:
        # The layout says how elements are aligned, which the parser notes at each access.
        layout = f'target datalayout = "{_machine(CAPABILITIES[0]).target_data}"'
        module = llvm.parse_assembly(lowered.text.replace('target datalayout = ""', layout))
        module.get_function(lowered.symbol).name = "body"
        module.triple = TRIPLE
        other = llvm.parse_assembly(f'target triple = "{TRIPLE}"\n{layout}\n{entry}')
        module.link_in(other)
        body = module.get_function("body")
        body.linkage = llvm.Linkage.internal
        # A call would keep the argument block and all variables in local memory.
        body.add_function_attribute("alwaysinline")
    return module


def translate(kernel: CudaText, capability: int, together: bool = False) -> str:
    """The PTX of a kernel for a compute capability such as 90; `together` that of many launches in one.

    Raises: KernelBuildError if the text is not a kernel, or if LLVM does not accept what is made of it.
    Cost: 0.1 ms from the disk cache, 10 to 200 ms compiled.
    """
    if capability not in _VERSIONS:
        raise KernelBuildError(f"no PTX for compute capability {capability}; there is for {sorted(_VERSIONS)}")
    library = "" if kernel.function is None else inspect.getsource(kernel.function)
    entry = f"{capability} {kernel.threads} {len(kernel.slots)} {together} {kernel.has_status}"
    content = f"{entry}\n{kernel.text}{library}".encode()
    digest = hashlib.sha256(_environment() + content).hexdigest()
    found = STORE.get(digest, PTX)
    if found is not None:
        return found.decode()
    module = llvm_module(kernel, together)
    try:
        with _lock:
            made = assemble(module, capability)
    except RuntimeError as error:
        raise KernelBuildError(f"kernel {kernel.name}: LLVM does not accept the module: {error}") from None
    STORE.put(digest, kernel.name, kernel.text, made.encode(), PTX)
    return made
