"""Python kernel functions to LLVM text: directly where `lowering` knows the language, else through numba.

In: a function `kernel(p, lo, hi)` that uses the kernel library's intrinsics, and its text. Out: LLVM text, the name
of its function, and the modules of jitted helpers that it calls.
Must not know: machine code, caches, launches. All use of numba's private interfaces is in this file.

numba's front half (bytecode, types, lowering) takes 20 to 300 ms for a kernel and 600 ms for the first; what is
lowered directly does not start it at all.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from numba import types
from numba.core import compiler, typed_passes, untyped_passes
from numba.core.codegen import CodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target
from numba.extending import _Intrinsic

from tracejit.config import logger
from tracejit.errors import KernelBuildError
from tracejit.kernels.memory import ARGS, BY_HAND, COMBINED, LOOP
from tracejit.runtime import lowering
from tracejit.runtime.collection import without_collections
from tracejit.runtime.printing import module_text
from tracejit.runtime.scalars import NOTHING, Unsupported, Value, cast, constant

_log = logger("timing")
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Lowered:
    """LLVM text that defines `symbol`, and the modules to link with it."""

    text: str
    symbol: str
    linked: tuple[Any, ...]

    @property
    def by_hand(self) -> bool:
        """Whether the kernel's loops are as fast as they will be."""
        return f"!{BY_HAND} =" in self.text

    @property
    def combined(self) -> bool:
        """Whether nothing is gained by combining the kernel's instructions."""
        return f"!{COMBINED} =" in self.text


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


class _Context:
    """What the intrinsics of the kernel library ask of numba's target context, without starting numba's."""

    class call_conv:  # numba's name
        """numba's way of calling a kernel."""

        @staticmethod
        def get_function_type(result: Any, arguments: Any) -> Any:
            return lowering.KERNEL_TYPE

    @staticmethod
    def get_dummy_value() -> None:
        """The value of what gives nothing."""

    @staticmethod
    def get_constant(kind: Any, number: int) -> Any:
        """A constant of a kernel's result."""
        return constant(number).value


def _call_intrinsic(builder: Any, callee: Any, arguments: list[Value]) -> Value | None:
    """Has an intrinsic write its code, as numba would; None if `callee` is none."""
    if not isinstance(callee, _Intrinsic):
        return None
    kinds = [argument.kind for argument in arguments]
    ways = [kinds, [argument.argument_type for argument in arguments]]
    found = None
    for way in reversed(ways) if callee._prefer_literal else ways:
        found = found or callee._defn(None, *way)
    if found is None:
        raise Unsupported(f"{callee} of {', '.join(map(str, kinds))}")
    signature, codegen = found
    if len(signature.args) != len(arguments):
        raise Unsupported(f"{callee} with {len(arguments)} arguments")
    values = [
        argument.value if isinstance(kind, types.Literal) else cast(builder, argument, kind)
        for argument, kind in zip(arguments, signature.args, strict=True)
    ]
    result = codegen(_Context, builder, signature, values)
    return NOTHING if signature.return_type == types.none else Value(signature.return_type, result)


_LOOP = re.compile(rf'^!(\d+) = !{{ !"{re.escape(LOOP)} \d+", ', re.MULTILINE)


def name_loops(text: str) -> str:
    """LLVM text whose loops have metadata that names itself, as it must, in place of a number.

    llvmlite can write no such metadata, so that is done here, on text.
    """
    return _LOOP.sub(r"!\1 = distinct !{ !\1, ", text) if LOOP in text else text


def _direct_text(kernels: Mapping[FunctionType, str], name: str, vectors: bool = True) -> str:
    with without_collections():
        return _text_of(lowering.lower(kernels, name, _call_intrinsic, vectors=vectors))


def _text_of(module: Any) -> str:
    """The text of a module, of which nothing is left."""
    text = name_loops(module_text(module))
    for part in module.functions:
        for block in part.blocks:
            # Instructions refer to the block that they are in: without this only a search would free them.
            block.instructions.clear()
    return text


def lower_directly(function: FunctionType, text: str, *, vectors: bool = True) -> Lowered:
    """LLVM text of a kernel in the language of `lowering`; with `vectors` loops may be made of this CPU's vectors.

    Raises: Unsupported if the kernel is written in more than that; NumbaError from an intrinsic that is misused.
    """
    return Lowered(_direct_text({function: text}, function.__name__, vectors), function.__name__, ())


def lower_together(kernels: Mapping[FunctionType, str], name: str) -> Lowered:
    """LLVM text of several kernels, each under its name, which share what `emit.shared` says.

    Raises: KernelBuildError if one of them is written in more than the language of `lowering`.
    """
    try:
        return Lowered(_direct_text(kernels, name), name, ())
    except (Unsupported, NumbaError) as error:
        raise KernelBuildError(f"kernels {name}: {error}") from error


def lower_by_hand(kernels: Mapping[FunctionType, str], name: str) -> tuple[Lowered, list[FunctionType]]:
    """LLVM text of those kernels that LLVM only has to tidy, each under its name, with what they share once; and the
    other kernels, which are not part of it.
    """
    with without_collections():
        module, left = lowering.lower_by_hand(kernels, name, _call_intrinsic)
        return Lowered(_text_of(module), name, ()), left


def lower(function: FunctionType, text: str) -> Lowered:
    """LLVM text of `function(p, lo, hi) -> int64`, which `text` defines.

    Raises: KernelBuildError if numba does not accept the function.
    """
    try:
        return lower_directly(function, text)
    except (Unsupported, NumbaError) as reason:
        _log.debug("%s goes through numba: %s", function.__name__, reason)
    return lower_by_numba(function)


def lower_by_numba(function: Callable[..., Any]) -> Lowered:
    """LLVM text of `function(p, lo, hi) -> int64`, whose loops get no more vectors than LLVM thinks of.

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
        return Lowered(name_loops(library.get_llvm_str()), result.fndesc.llvm_func_name, linked)
