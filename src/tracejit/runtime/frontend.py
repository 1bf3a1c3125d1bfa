"""Python kernel functions to LLVM text, through numba's front half: bytecode, types, lowering.

In: a function `kernel(p, lo, hi)` that uses the kernel library's intrinsics. Out: LLVM text, the name of its
function, and the modules of jitted helpers that it calls.
Must not know: machine code, caches, launches. All use of numba's private interfaces is in this file.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import types
from numba.core import compiler, typed_passes, untyped_passes
from numba.core.codegen import CodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target

from tracejit.errors import KernelBuildError
from tracejit.kernels.memory import ARGS, INTERLEAVE

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Lowered:
    """LLVM text that defines `symbol`, and the modules to link with it."""

    text: str
    symbol: str
    linked: tuple[Any, ...]


class _Collector(CodeLibrary):
    """What numba takes for a code library: it keeps the modules and compiles nothing."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.modules: list[Any] = []
        self.linked: dict[Any, None] = {}

    def add_ir_module(self, ir_module: Any) -> None:
        self.modules.append(ir_module)

    def add_linking_library(self, library: Any) -> None:
        self.linked[library] = None

    def finalize(self) -> None:
        raise NotImplementedError("a collected kernel is compiled by tracejit, not by numba")

    def get_function(self, name: str) -> Any:
        raise NotImplementedError("a collected kernel has no compiled functions")

    def get_llvm_str(self) -> str:
        return "\n".join(str(module) for module in self.modules)

    def get_asm_str(self) -> str:
        raise NotImplementedError("a collected kernel has no assembly")


class _KernelCompiler(compiler.CompilerBase):
    """numba's pipeline without what scalar kernels never need: closures, array expressions, parfors, `with`."""

    def define_pipelines(self) -> list[Any]:
        passes = PassManager("tracejit_kernel")
        passes.add_pass(untyped_passes.TranslateByteCode, "read the bytecode")
        passes.add_pass(untyped_passes.FixupArgs, "arguments")
        passes.add_pass(untyped_passes.IRProcessing, "process the representation")
        passes.add_pass(untyped_passes.RewriteSemanticConstants, "constants")
        passes.add_pass(untyped_passes.DeadBranchPrune, "branches on constants")
        passes.add_pass(untyped_passes.GenericRewrites, "constant subscripts")
        passes.add_pass(untyped_passes.InlineInlinables, "helpers that ask to be inlined")
        passes.add_pass(untyped_passes.ReconstructSSA, "single assignment")
        passes.add_pass(typed_passes.NopythonTypeInference, "types")
        passes.add_pass(typed_passes.PreLowerStripPhis, "phi nodes")
        passes.add_pass(typed_passes.IRLegalization, "deletions")
        passes.add_pass(typed_passes.NativeLowering, "lower to LLVM")
        passes.finalize()
        return [passes]


def _flags() -> Any:
    flags = compiler.Flags()
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    return flags


_LABEL = re.compile(r'^"?B(\d+)[\w.]*"?:')
_JUMP = re.compile(r'^  br label %"?B(\d+)"?$')
_WISH = re.compile(rf"^!{re.escape(INTERLEAVE)} = !{{ !(\d+) }}$", re.MULTILINE)


def annotate_loops(text: str) -> str:
    """LLVM text whose loops say how many vectors they want side by side, where the kernel asked for some.

    numba calls blocks by the place of their bytecode, so a loop is what jumps back. This is done on text because
    llvmlite can write no metadata that names itself, as that of loops must.
    """
    wish = _WISH.search(text)
    if wish is None:
        return text
    lines, here, loops = [], -1, 0
    for line in text.splitlines():
        label, jump = _LABEL.match(line), _JUMP.match(line)
        if label:
            here = int(label[1])
        if jump and int(jump[1]) <= here:
            line += f", !llvm.loop !{_FIRST_LOOP + loops}"
            loops += 1
        lines.append(line)
    count = re.search(rf"^!{wish[1]} = !{{ (i32 \d+) }}$", text, re.MULTILINE)
    assert count is not None
    lines.append(f'!{_FIRST_LOOP - 1} = !{{ !"llvm.loop.interleave.count", {count[1]} }}')
    lines += [f"!{n} = distinct !{{ !{n}, !{_FIRST_LOOP - 1} }}" for n in range(_FIRST_LOOP, _FIRST_LOOP + loops)]
    return "\n".join(lines)


_FIRST_LOOP = 1_000_000
"""The number of the first loop's metadata, beyond all that llvmlite gives out."""


def lower(function: Callable[..., Any]) -> Lowered:
    """LLVM text of `function(p, lo, hi) -> int64`.

    Raises: KernelBuildError if numba does not accept the function.
    """
    with _lock, global_compiler_lock:
        context = cpu_target.target_context
        library = _Collector(context.codegen(), function.__name__)
        try:
            result = compiler.compile_extra(
                cpu_target.typing_context,
                context,
                function,
                (ARGS, types.int64, types.int64),
                types.int64,
                _flags(),
                {},
                library=library,
                pipeline_class=_KernelCompiler,
            )
        except NumbaError as error:
            raise KernelBuildError(f"kernel {function.__name__}: {error}") from error
        # numba hands out linkable modules of helpers through this method alone.
        linked = tuple(helper._get_module_for_linking() for helper in library.linked)
        return Lowered(annotate_loops(library.get_llvm_str()), result.fndesc.llvm_func_name, linked)
