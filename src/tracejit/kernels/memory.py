"""Loads, stores, bit casts, memory of a kernel's own and atomics on raw addresses, as numba intrinsics.

Every kernel is written with these alone, so its text holds no types but scalars. An address is an int64,
an index counts elements. The `_s` forms of loads and stores take `(scope, scopes)`: two literals saying
"this is buffer `scope` of `scopes` buffers that do not overlap", which spares LLVM its run-time alias
checks. Scopes belong to the function that names them: use them in a kernel itself, not in its helpers,
and give one scope to two buffers that may overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
from numba import types
from numba.core import cgutils, config
from numba.core.errors import TypingError, UnsupportedError
from numba.extending import intrinsic

from tracejit.kernels.workspace import own_memory

_I1 = ir.IntType(1)
_I8 = ir.IntType(8)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_F32 = ir.FloatType()
_F64 = ir.DoubleType()
_HALF = ir.HalfType()
_STACK_ALIGN = 64
_X86 = ("x86_64", "i686", "amd64")
_ARM = ("aarch64", "arm64")
_ARCHITECTURE = llvm.get_process_triple().split("-")[0]
IS_X86 = _ARCHITECTURE in _X86
ARGS = types.CPointer(types.int64)
"""The numba type of a kernel's argument block."""


@dataclass(frozen=True, slots=True)
class Element:
    """How one dtype lies in memory (`storage`) and which numba type a kernel computes with (`value`)."""

    name: str
    storage: Any
    value: Any


_ELEMENTS = (
    Element("f16", _HALF, types.float32),
    # Not LLVM's bfloat: its conversion is another instruction on another CPU, with subnormal numbers as zeros on some.
    Element("bf16", ir.IntType(16), types.float32),
    Element("f32", _F32, types.float32),
    Element("f64", _F64, types.float64),
    Element("i8", _I8, types.int8),
    Element("i16", ir.IntType(16), types.int16),
    Element("i32", _I32, types.int32),
    Element("i64", _I64, types.int64),
    Element("u8", _I8, types.uint8),
    Element("u16", ir.IntType(16), types.uint16),
    Element("u32", _I32, types.uint32),
    Element("u64", _I64, types.uint64),
    Element("b1", _I8, types.boolean),
)
ELEMENTS = {element.name: element for element in _ELEMENTS}
ELEMENT_BYTES = {
    "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "u8": 1, "u16": 2, "u32": 4,
    "u64": 8, "b1": 1,
}  # fmt: skip


def named_intrinsic(function: Callable[..., Any], name: str, doc: str) -> Any:
    """The intrinsic made of `function`, under its public name."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return intrinsic(prefer_literal=True)(function)


def require_integers(name: str, *operands: Any) -> None:
    """Raises: TypingError if an operand of the intrinsic `name` is no integer."""
    for operand in operands:
        if not isinstance(operand, types.Integer):
            raise TypingError(f"{name}: address and index must be integers, got {operand}")


def require_literal(name: str, operand: Any) -> int:
    """The number that stands in the text as an operand of the intrinsic `name`.

    Raises: TypingError if none does.
    """
    if not isinstance(operand, types.IntegerLiteral):
        raise TypingError(f"{name}: expected an integer literal, got {operand}")
    return int(operand.literal_value)


def _element_pointer(builder: Any, storage: Any, address: Any, index: Any, space: int = 0) -> Any:
    base = builder.inttoptr(address, storage.as_pointer(space))
    return builder.gep(base, [index], inbounds=True)


def _from_storage(builder: Any, element: Element, value: Any) -> Any:
    if element.name == "b1":
        return builder.icmp_unsigned("!=", value, _I8(0))
    if element.name == "f16":
        return builder.fpext(value, _F32)
    if element.name == "bf16":
        return builder.bitcast(builder.shl(builder.zext(value, _I32), _I32(16)), _F32)
    return value


def _to_storage(builder: Any, element: Element, value: Any) -> Any:
    if element.name == "b1":
        return builder.zext(value, _I8)
    if element.name == "f16":
        return builder.fptrunc(value, _HALF)
    if element.name == "bf16":
        return builder.trunc(builder.lshr(bfloat16_bits(builder, value), _I32(16)), element.storage)
    return value


def bfloat16_bits(builder: Any, value: Any) -> Any:
    """The bits of a float32 rounded to bfloat16, ties to even, as a float32: a NaN stays one, its sign kept."""
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _I32(16)), _I32(1))
    nearest = builder.add(builder.add(bits, _I32(0x7FFF)), odd)
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.and_(builder.select(nan, builder.or_(bits, _I32(0x400000)), nearest), _I32(0xFFFF0000))


def _require_half(element: Element) -> None:
    """Without conversion instructions LLVM would call a C library that may not be there, and abort the process."""
    if element.name != "f16":
        return
    if config.CPU_NAME is not None:
        features = (config.CPU_FEATURES or "").split(",")
        native = "+f16c" in features
    else:
        native = llvm.get_host_cpu_features().get("f16c", False)
    if not native and _ARCHITECTURE not in _ARM:
        raise UnsupportedError("float16 needs a CPU with the F16C instructions")


def _set_scope(builder: Any, instruction: Any, scope: int, scopes: int) -> None:
    """Marks a memory access as scope `scope` of `scopes`; scopes are named by strings, which are unique by content."""
    module, name = builder.module, builder.function.name
    # Kept with the module, which they refer to, for as long as it lives.
    known: dict[tuple[str, int], tuple[list[Any], dict[int, Any]]] = vars(module).setdefault("tracejit_scopes", {})
    if (name, scopes) not in known:
        domain = module.add_metadata([f"tracejit {name}"])
        known[name, scopes] = [module.add_metadata([f"{name} {k}", domain]) for k in range(scopes)], {}
    every, marks = known[name, scopes]
    if scope not in marks:
        others = every[:scope] + every[scope + 1 :]
        marks[scope] = module.add_metadata([every[scope]]), module.add_metadata(others) if others else None
    nodes = marks[scope]
    instruction.set_metadata("alias.scope", nodes[0])
    if nodes[1] is not None:
        instruction.set_metadata("noalias", nodes[1])


def _checked_scope(name: str, scope: Any, scopes: Any) -> tuple[int, int]:
    number, total = require_literal(name, scope), require_literal(name, scopes)
    if not 0 <= number < total:
        raise TypingError(f"{name}: scope {number} is not one of {total}")
    return number, total


def _make_load(element: Element) -> Any:
    name = f"load_{element.name}"

    def load(typingctx: Any, address: Any, index: Any) -> Any:
        require_integers(name, address, index)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _require_half(element)
            pointer = _element_pointer(builder, element.storage, args[0], args[1])
            return _from_storage(builder, element, builder.load(pointer))

        return element.value(types.int64, types.int64), codegen

    return named_intrinsic(load, name, f"Element `index` of the {element.name} buffer at `address`.")


def make_scoped_load(element: Element, suffix: str = "s", space: int = 0) -> Any:
    """The load of an element type in an alias scope, from LLVM's address space `space`; 0 is this process's memory."""
    name = f"load_{element.name}_{suffix}"

    def load(typingctx: Any, address: Any, index: Any, scope: Any, scopes: Any) -> Any:
        require_integers(name, address, index)
        number, total = _checked_scope(name, scope, scopes)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            if space == 0:
                _require_half(element)
            loaded = builder.load(_element_pointer(builder, element.storage, args[0], args[1], space))
            _set_scope(builder, loaded, number, total)
            return _from_storage(builder, element, loaded)

        return element.value(types.int64, types.int64, scope, scopes), codegen

    return named_intrinsic(load, name, f"Element `index` of the {element.name} buffer at `address`, in an alias scope.")


def make_vector_load(element: Element, suffix: str, space: int) -> Any:
    """The load of a vector's first element: LLVM then joins those behind it, which are loaded beside it, to it."""
    name = f"load_{element.name}_{suffix}"

    def load(typingctx: Any, address: Any, index: Any, scope: Any, scopes: Any, count: Any) -> Any:
        require_integers(name, address, index)
        number, total = _checked_scope(name, scope, scopes)
        elements = require_literal(name, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loaded = builder.load(_element_pointer(builder, element.storage, args[0], args[1], space))
            loaded.align = elements * ELEMENT_BYTES[element.name]
            _set_scope(builder, loaded, number, total)
            return _from_storage(builder, element, loaded)

        return element.value(types.int64, types.int64, scope, scopes, count), codegen

    doc = f"Element `index` of the {element.name} buffer at `address`, the first of `count` that are a vector."
    return named_intrinsic(load, name, doc)


def _make_store(element: Element) -> Any:
    name = f"store_{element.name}"

    def store(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
        require_integers(name, address, index)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _require_half(element)
            pointer = _element_pointer(builder, element.storage, args[0], args[1])
            builder.store(_to_storage(builder, element, args[2]), pointer)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, element.value), codegen

    return named_intrinsic(store, name, f"Sets element `index` of the {element.name} buffer at `address`.")


def make_scoped_store(element: Element, suffix: str = "s", space: int = 0) -> Any:
    """The store of an element type in an alias scope, to LLVM's address space `space`."""
    name = f"store_{element.name}_{suffix}"

    def store(typingctx: Any, address: Any, index: Any, value: Any, scope: Any, scopes: Any) -> Any:
        require_integers(name, address, index)
        number, total = _checked_scope(name, scope, scopes)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            if space == 0:
                _require_half(element)
            pointer = _element_pointer(builder, element.storage, args[0], args[1], space)
            stored = builder.store(_to_storage(builder, element, args[2]), pointer)
            _set_scope(builder, stored, number, total)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, element.value, scope, scopes), codegen

    doc = f"Sets element `index` of the {element.name} buffer at `address`, in an alias scope."
    return named_intrinsic(store, name, doc)


load_f16 = _make_load(ELEMENTS["f16"])
load_bf16 = _make_load(ELEMENTS["bf16"])
load_f32 = _make_load(ELEMENTS["f32"])
load_f64 = _make_load(ELEMENTS["f64"])
load_i8 = _make_load(ELEMENTS["i8"])
load_i16 = _make_load(ELEMENTS["i16"])
load_i32 = _make_load(ELEMENTS["i32"])
load_i64 = _make_load(ELEMENTS["i64"])
load_u8 = _make_load(ELEMENTS["u8"])
load_u16 = _make_load(ELEMENTS["u16"])
load_u32 = _make_load(ELEMENTS["u32"])
load_u64 = _make_load(ELEMENTS["u64"])
load_b1 = _make_load(ELEMENTS["b1"])

load_f16_s = make_scoped_load(ELEMENTS["f16"])
load_bf16_s = make_scoped_load(ELEMENTS["bf16"])
load_f32_s = make_scoped_load(ELEMENTS["f32"])
load_f64_s = make_scoped_load(ELEMENTS["f64"])
load_i8_s = make_scoped_load(ELEMENTS["i8"])
load_i16_s = make_scoped_load(ELEMENTS["i16"])
load_i32_s = make_scoped_load(ELEMENTS["i32"])
load_i64_s = make_scoped_load(ELEMENTS["i64"])
load_u8_s = make_scoped_load(ELEMENTS["u8"])
load_u16_s = make_scoped_load(ELEMENTS["u16"])
load_u32_s = make_scoped_load(ELEMENTS["u32"])
load_u64_s = make_scoped_load(ELEMENTS["u64"])
load_b1_s = make_scoped_load(ELEMENTS["b1"])

store_f16 = _make_store(ELEMENTS["f16"])
store_bf16 = _make_store(ELEMENTS["bf16"])
store_f32 = _make_store(ELEMENTS["f32"])
store_f64 = _make_store(ELEMENTS["f64"])
store_i8 = _make_store(ELEMENTS["i8"])
store_i16 = _make_store(ELEMENTS["i16"])
store_i32 = _make_store(ELEMENTS["i32"])
store_i64 = _make_store(ELEMENTS["i64"])
store_u8 = _make_store(ELEMENTS["u8"])
store_u16 = _make_store(ELEMENTS["u16"])
store_u32 = _make_store(ELEMENTS["u32"])
store_u64 = _make_store(ELEMENTS["u64"])
store_b1 = _make_store(ELEMENTS["b1"])

store_f16_s = make_scoped_store(ELEMENTS["f16"])
store_bf16_s = make_scoped_store(ELEMENTS["bf16"])
store_f32_s = make_scoped_store(ELEMENTS["f32"])
store_f64_s = make_scoped_store(ELEMENTS["f64"])
store_i8_s = make_scoped_store(ELEMENTS["i8"])
store_i16_s = make_scoped_store(ELEMENTS["i16"])
store_i32_s = make_scoped_store(ELEMENTS["i32"])
store_i64_s = make_scoped_store(ELEMENTS["i64"])
store_u8_s = make_scoped_store(ELEMENTS["u8"])
store_u16_s = make_scoped_store(ELEMENTS["u16"])
store_u32_s = make_scoped_store(ELEMENTS["u32"])
store_u64_s = make_scoped_store(ELEMENTS["u64"])
store_b1_s = make_scoped_store(ELEMENTS["b1"])


def _make_prefetch(name: str, writes: bool) -> Any:
    def ask(typingctx: Any, address: Any) -> Any:
        require_integers(name, address)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], _I8.as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [pointer, _I32(int(writes)), _I32(3), _I32(1)])
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    what = "written" if writes else "read"
    doc = f"Asks for the cache line of an address that will be {what}; it need not be memory."
    return named_intrinsic(ask, name, doc)


prefetch_to_read = _make_prefetch("prefetch_to_read", writes=False)
prefetch_to_write = _make_prefetch("prefetch_to_write", writes=True)


def _make_stack(element: Element) -> Any:
    name = f"stack_{element.name}"

    def stack(typingctx: Any, count: Any) -> Any:
        elements = require_literal(name, count)
        if elements <= 0:
            raise TypingError(f"{name}: the number of elements must be positive, got {elements}")

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            # Loops over vectors write whole ones.
            room = elements + _STACK_ALIGN
            if OF_THIS_CPU in builder.module.namedmetadata:
                return own_memory(builder, room * ELEMENT_BYTES[element.name])
            with builder.goto_entry_block():
                buffer = builder.alloca(ir.ArrayType(element.storage, room))
                buffer.align = _STACK_ALIGN
            return builder.ptrtoint(buffer, _I64)

        return types.int64(count), codegen

    doc = f"Address of uninitialised memory, 64-byte aligned, for `count` (a literal) {element.name}, as on the stack."
    return named_intrinsic(stack, name, doc)


stack_f32 = _make_stack(ELEMENTS["f32"])
stack_f64 = _make_stack(ELEMENTS["f64"])
stack_i8 = _make_stack(ELEMENTS["i8"])
stack_i32 = _make_stack(ELEMENTS["i32"])
stack_i64 = _make_stack(ELEMENTS["i64"])
stack_u8 = _make_stack(ELEMENTS["u8"])
stack_u32 = _make_stack(ELEMENTS["u32"])
stack_u64 = _make_stack(ELEMENTS["u64"])


def _make_cast(name: str, source: Any, target: Any, storage: Any) -> Any:
    def cast(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], storage)

        return target(source), codegen

    return named_intrinsic(cast, name, f"The bits of a {source} as a {target}.")


bits_f32 = _make_cast("bits_f32", types.int32, types.float32, _F32)
bits_f64 = _make_cast("bits_f64", types.int64, types.float64, _F64)
f32_bits = _make_cast("f32_bits", types.float32, types.int32, _I32)
f64_bits = _make_cast("f64_bits", types.float64, types.int64, _I64)


def _load_slot(builder: Any, block: Any, index: Any, storage: Any) -> Any:
    """A slot of the argument block, which no kernel writes: LLVM may move the load anywhere."""
    slot = builder.bitcast(builder.gep(block, [index], inbounds=True), storage.as_pointer())
    loaded = builder.load(slot)
    loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
    return loaded


@intrinsic
def load_arg(typingctx: Any, block: Any, index: Any) -> Any:
    """Slot `index` of the argument block: an address, a size or a stride."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load_slot(builder, args[0], args[1], _I64)

    return types.int64(ARGS, types.int64), codegen


@intrinsic
def arg_f64(typingctx: Any, block: Any, index: Any) -> Any:
    """Slot `index` of the argument block as the float64 whose bits it holds."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load_slot(builder, args[0], args[1], _F64)

    return types.float64(ARGS, types.int64), codegen


@intrinsic
def args_at(typingctx: Any, address: Any) -> Any:
    """The argument block that lies at `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], _I64.as_pointer())

    return ARGS(types.int64), codegen


@intrinsic
def call_kernel(typingctx: Any, function: Any, block: Any, low: Any, high: Any) -> Any:
    """Calls the compiled kernel at address `function` with (block address, low, high); gives its error code.

    Edge: -1 where the kernel's compiled code raised, which only a faulty kernel does.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        convention = context.call_conv
        kernel_type = convention.get_function_type(types.int64, (ARGS, types.int64, types.int64))
        kernel = builder.inttoptr(args[0], kernel_type.as_pointer())
        result = cgutils.alloca_once(builder, _I64)
        error_type = kernel_type.args[1].pointee
        error = cgutils.alloca_once(builder, error_type)
        pointer = builder.inttoptr(args[1], _I64.as_pointer())
        status = builder.call(kernel, [result, error, pointer, args[2], args[3]])
        return builder.select(builder.icmp_signed("==", status, _I32(0)), builder.load(result), _I64(-1))

    return types.int64(types.int64, types.int64, types.int64, types.int64), codegen


def _word(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def load_acquire(typingctx: Any, address: Any) -> Any:
    """The int64 at `address`, read atomically; later reads see what was written before its store."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def store_release(typingctx: Any, address: Any, value: Any) -> Any:
    """Sets the int64 at `address` atomically, after everything written before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _word(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def fetch_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Adds to the int64 at `address` atomically (sequentially consistent); gives the value before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def exchange(typingctx: Any, address: Any, value: Any) -> Any:
    """Sets the int64 at `address` atomically (sequentially consistent); gives the value before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("xchg", _word(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def compare_exchange(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    """Sets the int64 at `address` to `value` if it is `expected` (sequentially consistent); 1 if it was, else 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(pair, 1), _I64)

    return types.int64(types.int64, types.int64, types.int64), codegen


def _pause_instruction() -> tuple[str, tuple[Any, ...]] | None:
    if _ARCHITECTURE in _X86:
        return "llvm.x86.sse2.pause", ()
    if _ARCHITECTURE in _ARM:
        return "llvm.aarch64.hint", (_I32(1),)
    return None


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tells the CPU that this is a spin loop; does nothing on architectures without such an instruction."""
    instruction = _pause_instruction()

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if instruction is not None:
            name, operands = instruction
            kind = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def ticks(typingctx: Any) -> Any:
    """The CPU's counter of cycles at a constant rate (0 on architectures without one that programs may read)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])

    return types.int64(), codegen


WISH = "tracejit.wish"
"""Metadata that a module has whose text asks for something of a loop: what, as LLVM's metadata of loops says it."""
LOOP = "tracejit.loop"
"""How the metadata of a loop begins, until it names itself."""
BY_HAND = "tracejit.by_hand"
"""Metadata that a module has whose loops are as fast as they will be."""
OF_THIS_CPU = "tracejit.of_this_cpu"
"""Metadata that a module has whose code is for this CPU, and whose loops may become ones over vectors."""
COMBINED = "tracejit.combined"
"""Metadata that a module has, beside the other, whose instructions are no more than they have to be."""


@intrinsic(prefer_literal=True)
def interleave(typingctx: Any, count: Any) -> Any:
    """Asks for `count` vectors side by side in the loop around it, or in all loops: long chains of arithmetic overlap.

    `count` must be a literal. Which bits a loop computes does not depend on it.
    """
    if not isinstance(count, types.IntegerLiteral):
        return None
    number = count.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.module.add_named_metadata(WISH, ["llvm.loop.interleave.count", _I32(number)])
        return context.get_dummy_value()

    return types.void(count), codegen


def _make_wish(name: str, wish: str, doc: str) -> Any:
    def ask(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.module.add_named_metadata(WISH, [wish])
            return context.get_dummy_value()

        return types.void(), codegen

    return named_intrinsic(ask, name, doc)


unrolled = _make_wish(
    "unrolled",
    "llvm.loop.unroll.full",
    "Asks for all turns of the loop around it one after another; how many they are must follow from literals.",
)
rolled = _make_wish("rolled", "llvm.loop.unroll.disable", "Asks for one turn at a time of the loop around it.")


@intrinsic
def by_hand(typingctx: Any) -> Any:
    """Says that the kernel is as its author wants it: LLVM tidies it, and spends no time on its loops."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.module.add_named_metadata(BY_HAND)
        return context.get_dummy_value()

    return types.void(), codegen
