"""LLVM modules to machine code in memory: target, optimisation, object code, loading.

In: LLVM text, or object code that this module made earlier. Out: addresses of symbols.
Must not know: numba's types, Python functions, what a kernel computes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm

from tracejit import cpu
from tracejit.config import SETTINGS
from tracejit.errors import KernelBuildError

_lock = threading.RLock()


@functools.cache
def cpu_features() -> str:
    """This CPU's features as LLVM wants them, with the vector width that the settings ask for."""
    features = dict(llvm.get_host_cpu_features())
    text = str(llvm.get_host_cpu_features().flatten())
    if features.get("avx512f", False):
        # LLVM keeps to 256 bits on many CPUs that have 512: right for code that mixes, not for long loops.
        text += ",+prefer-256-bit" if SETTINGS.vector_bits == 256 else ",-prefer-256-bit"
    return text


def _target_machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    # Static relocation is what LLVM's in-memory loader needs on x86.
    static = llvm.get_process_triple().startswith(("x86_64", "i686"))
    return target.create_target_machine(
        cpu=cpu.name(),
        features=cpu_features(),
        opt=SETTINGS.opt_level,
        reloc="static" if static else "default",
        codemodel="jitdefault",
        jit=True,
    )


@functools.cache
def _machine() -> Any:
    return _target_machine()


@functools.cache
def _engine() -> Any:
    _machine()
    empty = llvm.parse_assembly("")
    empty.triple = llvm.get_process_triple()
    # An engine owns its target machine.
    return llvm.create_mcjit_compiler(empty, _target_machine())


def _pass_manager(by_hand: bool, combined: bool) -> tuple[Any, Any]:
    """The passes over a module and their builder; code written by hand only needs to be tidied."""
    tuning = llvm.create_pipeline_tuning_options(speed_level=SETTINGS.opt_level)
    tuning.loop_vectorization = True
    # Kernels do little outside of loops.
    tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(_machine(), tuning)
    if not by_hand:
        return builder.getModulePassManager(), builder
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    # Functions are called with many constants; without the first of these they are computed with.
    passes.add_ipsccp_pass()
    passes.add_sroa_pass()
    if not combined:
        passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_dead_code_elimination_pass()
    return passes, builder


def parse(text: str) -> Any:
    """An LLVM module of its text, laid out for this machine.

    Raises: KernelBuildError if LLVM does not accept the text.
    """
    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as error:
        raise KernelBuildError(f"LLVM does not accept the module: {error}") from None
    module.triple = llvm.get_process_triple()
    module.data_layout = str(_engine().target_data)
    return module


def _hide(module: Any, keep: frozenset[str]) -> None:
    """Makes all symbols but `keep` private to the module, so that no two modules can clash."""
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name not in keep:
            value.linkage = llvm.Linkage.internal


def _check_symbols(module: Any) -> None:
    """LLVM's loader aborts the process over a symbol it cannot find, so look before."""
    for function in module.functions:
        external = function.is_declaration and not function.name.startswith("llvm.")
        if external and llvm.address_of_symbol(function.name) is None:
            raise KernelBuildError(f"{module.name}: there is no native function {function.name!r} to call")


def optimise(
    module: Any,
    symbols: Iterable[str],
    linked: Sequence[Any] = (),
    *,
    by_hand: bool = False,
    combined: bool = False,
) -> None:
    """Makes a module ready for code generation, and only `symbols` visible from outside.

    `linked` are modules with functions that the module calls; they are copied. `by_hand` says that loops are unrolled
    and made of vectors already, `combined` that instructions are not worth the time to combine them: it takes two
    thirds of what all passes over such a module take.

    Raises: KernelBuildError if the module calls what there is not.
    """
    with _lock:
        for other in linked:
            module.link_in(other, preserve=True)
        _hide(module, frozenset(symbols))
        passes, builder = _pass_manager(by_hand, combined)
        passes.run(module, builder)
        _check_symbols(module)


@contextmanager
def _addresses_as_written() -> Iterator[None]:
    """Has LLVM generate code without strength reduction, which takes half of the time and gains nothing.

    Kernels go through memory by indices that an address takes as they are, or by addresses that go on by themselves.
    LLVM asks for this by an option of the process, which other users of LLVM shall not find changed; an LLVM that has
    no such option ignores it.
    """
    llvm.set_option("tracejit", "-disable-lsr=true")
    try:
        yield
    finally:
        llvm.set_option("tracejit", "-disable-lsr=false")


def object_code(module: Any) -> bytes:
    """The object code of an optimised module."""
    with _lock, _addresses_as_written():
        return bytes(_machine().emit_object(module))


def assembly(module_text: str) -> str:
    """The assembly text of an optimised module."""
    with _lock, _addresses_as_written():
        return str(_machine().emit_assembly(parse(module_text)))


def load(code: bytes, symbol: str) -> int:
    """Loads object code into the process, for good; gives the address of `symbol`.

    Raises: KernelBuildError if it is no object code or lacks the symbol.
    """
    with _lock:
        engine = _engine()
        try:
            engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        except (RuntimeError, ValueError) as error:
            raise KernelBuildError(f"not loadable: {error}") from None
        engine.finalize_object()
        address = int(engine.get_function_address(symbol))
    if not address:
        raise KernelBuildError(f"the object code has no function {symbol!r}")
    return address


def find(symbol: str) -> int:
    """The address of a symbol of loaded object code; 0 if there is none."""
    with _lock:
        return int(_engine().get_function_address(symbol))
