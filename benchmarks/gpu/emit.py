"""GPU kernels as LLVM code: a builder with the few things that they need, and PTX from it by llvmlite's own target.

In: what a kernel computes, as calls of the builder. Out: PTX text. Neither a GPU nor a CUDA toolkit is needed.
Must not know: launches, the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from tracejit.kernels.vmath.expression import V
from tracejit.runtime.ptx import TRIPLE, assemble

GLOBAL, SHARED = 1, 3
I32, I64 = ir.IntType(32), ir.IntType(64)
F32, F64, F16 = ir.FloatType(), ir.DoubleType(), ir.HalfType()
VECTOR_BYTES = 16
WARP = 32


class BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite's own types lack."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


BF16 = BFloat()
BYTES: dict[Any, int] = {F32: 4, F64: 8, F16: 2, BF16: 2, I32: 4, I64: 8}


class Kernel:
    """A kernel while it is written: `parameters` are (name, type) with None for the address of a buffer.

    Buffers must not overlap and be aligned to 16 bytes, but for buffers in `inplace`, which are read and written.
    """

    def __init__(self, name: str, parameters: Sequence[tuple[str, Any]], threads: int) -> None:
        self.name = name
        self.threads = threads
        self.module = ir.Module(name)
        self.module.triple = TRIPLE
        address = ir.IntType(8).as_pointer(GLOBAL)
        kind = ir.FunctionType(ir.VoidType(), [address if ty is None else ty for _, ty in parameters])
        self.function = ir.Function(self.module, kind, name)
        self.function.calling_convention = "ptx_kernel"
        self.arguments: dict[str, Any] = {}
        for (label, ty), value in zip(parameters, self.function.args, strict=True):
            value.name = label
            if ty is None:
                value.add_attribute("noalias")
            self.arguments[label] = value
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self._shared = 0

    def argument(self, name: str) -> Any:
        """The value of a parameter."""
        return self.arguments[name]

    # --- the place of a thread ----------------------------------------------------------------------------------------

    def call(self, name: str, result: Any, *values: Any) -> Any:
        """Calls an LLVM intrinsic."""
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, [v.type for v in values]), name)
        return self.builder.call(function, values)

    def _register(self, name: str) -> Any:
        return self.builder.zext(self.call(f"llvm.nvvm.read.ptx.sreg.{name}", I32), I64)

    def thread(self) -> Any:
        """Number of the thread in its block."""
        return self._register("tid.x")

    def block(self) -> Any:
        """Number of the block in the grid."""
        return self._register("ctaid.x")

    def block_y(self) -> Any:
        """Second number of the block in the grid."""
        return self._register("ctaid.y")

    def blocks(self) -> Any:
        """Number of blocks in the grid."""
        return self._register("nctaid.x")

    # --- memory -------------------------------------------------------------------------------------------------------

    def element(self, buffer: Any, index: Any, ty: Any) -> Any:
        """Address of element `index` of a buffer of `ty`."""
        typed = self.builder.bitcast(buffer, ty.as_pointer(buffer.type.addrspace))
        return self.builder.gep(typed, [index], inbounds=True)

    def load(self, buffer: Any, index: Any, ty: Any = F32, lanes: int = 1) -> V:
        """Vector `index` of `lanes` elements as one load; narrow floats come as float32."""
        shape = ty if lanes == 1 else ir.VectorType(ty, lanes)
        loaded = self.builder.load(self.element(buffer, index, shape))
        loaded.align = BYTES[ty] * lanes
        if ty in (F16, BF16):
            return V(self.builder, self.builder.fpext(loaded, F32 if lanes == 1 else ir.VectorType(F32, lanes)))
        return V(self.builder, loaded)

    def store(self, buffer: Any, index: Any, value: V, ty: Any = F32) -> None:
        """Sets the element or vector `index`, in one store."""
        kept = value.value
        lanes = kept.type.count if isinstance(kept.type, ir.VectorType) else 1
        shape = ty if lanes == 1 else ir.VectorType(ty, lanes)
        if ty in (F16, BF16):
            kept = self.builder.fptrunc(kept, shape)
        stored = self.builder.store(kept, self.element(buffer, index, shape))
        stored.align = BYTES[ty] * lanes

    def shared(self, ty: Any, count: int) -> Any:
        """A buffer in the block's shared memory."""
        array = ir.GlobalVariable(self.module, ir.ArrayType(ty, count), f"shared{self._shared}", addrspace=SHARED)
        array.linkage = "internal"
        array.align = VECTOR_BYTES
        array.initializer = ir.Constant(array.value_type, ir.Undefined)
        self._shared += 1
        return array

    def barrier(self) -> None:
        """Waits for all threads of the block."""
        self.call("llvm.nvvm.barrier.cta.sync.aligned.all", ir.VoidType(), I32(0))

    def statement(self, instruction: str) -> None:
        """An instruction of PTX without operands, across which no access to memory moves."""
        self.builder.asm(ir.FunctionType(ir.VoidType(), []), instruction, "~{memory}", [], True)

    # --- control ------------------------------------------------------------------------------------------------------

    @contextmanager
    def when(self, condition: Any) -> Iterator[None]:
        """What is written inside is done where the condition holds."""
        with self.builder.if_then(condition):
            yield

    def loop(
        self, start: Any, stop: Any, step: Any, carried: Sequence[V], body: Callable[[Any, list[V]], list[V]]
    ) -> list[V]:
        """Runs `body(index, values)` from start below stop; gives the last values."""
        builder = self.builder
        before = builder.block
        head, inside, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(start, before)
        phis = []
        for value in carried:
            phi = builder.phi(value.value.type)
            phi.add_incoming(value.value, before)
            phis.append(phi)
        builder.cbranch(builder.icmp_signed("<", index, stop), inside, done)
        builder.position_at_end(inside)
        results = body(index, [V(builder, phi) for phi in phis])
        index.add_incoming(builder.add(index, step, flags=["nsw"]), builder.block)
        for phi, result in zip(phis, results, strict=True):
            phi.add_incoming(result.value, builder.block)
        builder.branch(head)
        builder.position_at_end(done)
        return [V(builder, phi) for phi in phis]

    def zero(self, lanes: int = 1, value: float = 0.0, ty: Any = F32) -> V:
        """A constant in all lanes."""
        constant = ir.Constant(ty, value) if lanes == 1 else ir.Constant(ir.VectorType(ty, lanes), [value] * lanes)
        return V(self.builder, constant)

    def lanes(self, value: V) -> list[V]:
        """The elements of a vector."""
        if not isinstance(value.value.type, ir.VectorType):
            return [value]
        extract = self.builder.extract_element
        return [V(self.builder, extract(value.value, I32(k))) for k in range(value.value.type.count)]

    def join(self, values: Sequence[V]) -> V:
        """A vector of its elements."""
        whole = ir.Constant(ir.VectorType(values[0].value.type, len(values)), ir.Undefined)
        for k, value in enumerate(values):
            whole = self.builder.insert_element(whole, value.value, I32(k))
        return V(self.builder, whole)

    # --- folds --------------------------------------------------------------------------------------------------------

    def shuffle(self, value: V, distance: int) -> V:
        """The value of the thread whose number in the warp differs by the bits of `distance`."""
        found = self.call("llvm.nvvm.shfl.sync.bfly.f32", F32, I32(-1), value.value, I32(distance), I32(WARP - 1))
        return V(self.builder, found)

    def fold_warp(self, value: V, combine: Callable[[V, V], V]) -> V:
        """The values of a warp combined, in a fixed tree, known to all its threads."""
        distance = WARP // 2
        while distance:
            value = combine(value, self.shuffle(value, distance))
            distance //= 2
        return value

    def fold_block(self, value: V, combine: Callable[[V, V], V], scratch: Any) -> V:
        """The values of a block combined, in a fixed order; `scratch` holds a float32 a warp and is used once."""
        builder, thread = self.builder, self.thread()
        value = self.fold_warp(value, combine)
        warp = builder.lshr(thread, I64(5))
        with self.when(builder.icmp_unsigned("==", builder.and_(thread, I64(31)), I64(0))):
            self.store(scratch, warp, value)
        self.barrier()
        parts = [self.load(scratch, I64(k)) for k in range(self.threads // WARP)]
        while len(parts) > 1:
            parts = [combine(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    # --- text ---------------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The LLVM text of the finished kernel."""
        self.builder.ret_void()
        head = str(self.function).splitlines()[0]
        # The block's size lets the assembler use as many registers as so many threads may have.
        return str(self.module).replace(head, f'{head} "nvvm.maxntid"="{self.threads}"')


def ptx_of(llvm_text: str, capability: int) -> str:
    """PTX of an LLVM module for a compute capability such as 90.

    Raises: RuntimeError if LLVM does not accept the text.
    """
    return assemble(llvm.parse_assembly(llvm_text), capability)
