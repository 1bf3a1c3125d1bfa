"""Integer arithmetic and loops of matrix kernels, written with Python's operators and emitted as LLVM.

Kernels that are made of vector functions go straight to LLVM this way: numba's typing of the same loops takes
longer than everything else together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tracejit.kernels.emit import internal_function, new_function
from tracejit.kernels.memory import ARGS, BY_HAND, COMBINED
from tracejit.kernels.workspace import own_memory

I32 = ir.IntType(32)
I64 = ir.IntType(64)


class Word:
    """An integer that the kernel computes with; comparisons give a flag, a Word of one bit."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    def _operand(self, other: Word | int) -> Any:
        return other.value if isinstance(other, Word) else ir.Constant(self.value.type, other)

    def _apply(self, operation: Callable[[Any, Any], Any], left: Word | int, right: Word | int) -> Word:
        return Word(self.builder, operation(self._operand(left), self._operand(right)))

    def __add__(self, other: Word | int) -> Word:
        return self._apply(self.builder.add, self, other)

    def __radd__(self, other: int) -> Word:
        return self._apply(self.builder.add, other, self)

    def __sub__(self, other: Word | int) -> Word:
        return self._apply(self.builder.sub, self, other)

    def __rsub__(self, other: int) -> Word:
        return self._apply(self.builder.sub, other, self)

    def __mul__(self, other: Word | int) -> Word:
        return self._apply(self.builder.mul, self, other)

    def __rmul__(self, other: int) -> Word:
        return self._apply(self.builder.mul, other, self)

    def __neg__(self) -> Word:
        return 0 - self

    def __floordiv__(self, other: Word | int) -> Word:
        """Towards minus infinity, for a divisor above 0."""
        quotient = self._apply(self.builder.sdiv, self, other)
        return quotient - (self < quotient * other).number()

    def __mod__(self, other: Word | int) -> Word:
        """From 0 to the divisor, which is above 0."""
        return self - self // other * other

    def quotient(self, other: Word | int) -> Word:
        """The quotient of two numbers of which none is negative and the second is not 0."""
        return self._apply(self.builder.udiv, self, other)

    def ceil_div(self, other: Word | int) -> Word:
        """The quotient rounded up, for a divisor above 0."""
        return -(-self // other)

    def _compare(self, sign: str, other: Word | int) -> Word:
        return Word(self.builder, self.builder.icmp_signed(sign, self.value, self._operand(other)))

    def __lt__(self, other: Word | int) -> Word:
        return self._compare("<", other)

    def __le__(self, other: Word | int) -> Word:
        return self._compare("<=", other)

    def __gt__(self, other: Word | int) -> Word:
        return self._compare(">", other)

    def __ge__(self, other: Word | int) -> Word:
        return self._compare(">=", other)

    def equals(self, other: Word | int) -> Word:
        return self._compare("==", other)

    def differs(self, other: Word | int) -> Word:
        return self._compare("!=", other)

    def __and__(self, other: Word) -> Word:
        return self._apply(self.builder.and_, self, other)

    def __or__(self, other: Word) -> Word:
        return self._apply(self.builder.or_, self, other)

    def number(self) -> Word:
        """A flag as 0 or 1."""
        return Word(self.builder, self.builder.zext(self.value, I64))

    def narrowed(self, kind: Any) -> Word:
        """The low bits."""
        return Word(self.builder, self.builder.trunc(self.value, kind))

    def choose(self, yes: Word | int, no: Word | int) -> Word:
        """`yes` where this flag holds, else `no`."""
        left, right = (x.value if isinstance(x, Word) else ir.Constant(I64, x) for x in (yes, no))
        return Word(self.builder, self.builder.select(self.value, left, right))

    def least(self, other: Word | int) -> Word:
        return (self < other).choose(self, other)

    def most(self, other: Word | int) -> Word:
        return (self > other).choose(self, other)


class Cell:
    """A variable: read it with `now`, change it with `set`."""

    __slots__ = ("_builder", "_place")

    def __init__(self, builder: Any, start: Word) -> None:
        self._builder = builder
        self._place = cgutils.alloca_once(builder, start.value.type)
        self.set(start)

    @property
    def now(self) -> Word:
        return Word(self._builder, self._builder.load(self._place))

    def set(self, word: Word) -> None:
        self._builder.store(word.value, self._place)


class Code:
    """What a kernel's body is written with: slots, memory, loops, conditions, calls of vector functions."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.module = builder.module

    def word(self, number: int, kind: Any = I64) -> Word:
        return Word(self.builder, ir.Constant(kind, number))

    def cell(self, start: Word | int) -> Cell:
        return Cell(self.builder, start if isinstance(start, Word) else self.word(start))

    def buffer(self, size: int) -> Word:
        """The address of `size` uninitialised bytes of this kernel's own."""
        return Word(self.builder, own_memory(self.builder, size))

    def _place(self, kind: Any, address: Word, index: Word | int) -> Any:
        base = self.builder.inttoptr(address.value, kind.as_pointer())
        return self.builder.gep(base, [index.value if isinstance(index, Word) else ir.Constant(I64, index)])

    def load(self, address: Word, index: Word | int, kind: Any = I64) -> Word:
        """Element `index` of the values of `kind` (int64 unless told) at an address."""
        return Word(self.builder, self.builder.load(self._place(kind, address, index)))

    def store(self, address: Word, index: Word | int, word: Word) -> None:
        self.builder.store(word.value, self._place(word.value.type, address, index))

    def slots(self, block: Word, *indices: int) -> list[Word]:
        """Slots of the argument block, which no kernel writes."""
        loaded = [self.load(block, index) for index in indices]
        for word in loaded:
            word.value.set_metadata("invariant.load", self.module.add_metadata([]))
        return loaded

    @contextmanager
    def loop(self, start: Word | int, stop: Word | int, step: Word | int = 1) -> Iterator[Word]:
        """The block runs for start, start + step, ... below stop."""
        builder = self.builder
        first, last, stride = (x.value if isinstance(x, Word) else ir.Constant(I64, x) for x in (start, stop, step))
        before = builder.block
        head, body, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(first, before)
        builder.cbranch(builder.icmp_signed("<", index, last), body, done)
        builder.position_at_end(body)
        yield Word(builder, index)
        following = builder.add(index, stride)
        index.add_incoming(following, builder.block)
        builder.branch(head)
        builder.position_at_end(done)

    @contextmanager
    def when(self, flag: Word) -> Iterator[None]:
        """The block runs if the flag holds."""
        with self.builder.if_then(flag.value):
            yield

    def either(self, flag: Word, yes: Callable[[], None], no: Callable[[], None]) -> None:
        """Runs one of two pieces of code."""
        with self.builder.if_else(flag.value) as (then, otherwise):
            with then:
                yes()
            with otherwise:
                no()

    def quotient(self, whole: Word, part: Word) -> Word:
        """As `Word.quotient`, by a function of the module, since LLVM makes much code of a division."""

        def body(inner: Any, arguments: Any) -> Any:
            return inner.udiv(*arguments)

        function = internal_function(self.module, "quotient", 2, body, I64)
        return Word(self.builder, self.builder.call(function, [whole.value, part.value]))

    def call(self, function: Any, *words: Word | int) -> None:
        self.builder.call(function, [x.value if isinstance(x, Word) else ir.Constant(I64, x) for x in words])


def native_kernel(name: str, body: Callable[[Code, Word, Word, Word], None], *, by_hand: bool = True) -> Any:
    """The intrinsic (p, lo, hi) -> 0 that runs the code of `body(code, block, low, high)`.

    `by_hand` says that its loops are unrolled and made of vectors where that helps, and are to be left as they are.
    """

    @intrinsic
    def kernel(typingctx, p, lo, hi):  # type: ignore[no-untyped-def]
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
            function = new_function(builder.module, kind, name)
            function.linkage = "internal"
            inner = ir.IRBuilder(function.append_basic_block("entry"))
            block, low, high = (Word(inner, argument) for argument in function.args)
            body(Code(inner), block, low, high)
            inner.ret_void()
            if by_hand:
                builder.module.add_named_metadata(BY_HAND)
                builder.module.add_named_metadata(COMBINED)
            builder.call(function, [builder.ptrtoint(args[0], I64), args[1], args[2]])
            return context.get_constant(types.int64, 0)

        return types.int64(ARGS, types.int64, types.int64), codegen

    return kernel
