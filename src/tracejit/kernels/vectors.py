"""The vectors of this machine in LLVM: how wide they are, and a builder of what is done with them.

No result depends on the width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
from numba.core import cgutils

from tracejit.config import SETTINGS
from tracejit.kernels.emit import I64, Splat, integers

I1 = ir.IntType(1)
I8 = ir.IntType(8)
I32 = ir.IntType(32)


@dataclass(frozen=True, slots=True)
class Target:
    """The vector registers of the CPU: bytes in one, how many there are, whether masked loads are free."""

    vector_bytes: int
    registers: int
    free_masks: bool


def _detect_target() -> Target:
    has = {name for name, present in llvm.get_host_cpu_features().items() if present}
    if {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= has:
        return Target(32 if SETTINGS.vector_bits == 256 else 64, 32, True)
    if {"avx2", "fma"} <= has:
        return Target(32, 16, False)
    return Target(16, 32 if llvm.get_process_triple().startswith(("aarch64", "arm64")) else 16, False)


TARGET = _detect_target()
LINE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Lane:
    """The element type of a vector: its name in LLVM intrinsics, its IR type, its size in bytes."""

    name: str
    kind: Any
    size: int

    @property
    def count(self) -> int:
        """Elements in one vector register."""
        return TARGET.vector_bytes // self.size

    @property
    def vector(self) -> Any:
        return _vector(self)


# A type keeps its text.
_vector: Callable[[Lane], Any] = functools.cache(lambda lane: ir.VectorType(lane.kind, lane.count))
F32 = Lane("f32", ir.FloatType(), 4)
F64 = Lane("f64", ir.DoubleType(), 8)


Place = tuple[Any, Any]
"""An address and an offset in bytes, which the CPU adds while it loads."""


class VectorBuilder:
    """An IR builder with the vector operations of one element type."""

    def __init__(self, builder: Any, lane: Lane) -> None:
        self.ir = builder
        self.lane = lane
        self.width = lane.count
        self.zeros = Splat(lane.vector, 0.0)
        # By address, type and block: writing an instruction takes as long as LLVM takes to drop it.
        self._bases: dict[tuple[Any, Any, Any], Any] = {}

    def _intrinsic(self, name: str, result: Any, arguments: list[Any]) -> Any:
        function = self.ir.module.globals.get(name)
        if function is None:
            function = ir.Function(self.ir.module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.ir.call(function, arguments)

    def bytes(self, elements: Any) -> Any:
        """A count of elements as a count of bytes."""
        return self.ir.mul(elements, I64(self.lane.size))

    def minimum(self, left: Any, right: Any) -> Any:
        return self.ir.select(self.ir.icmp_signed("<", left, right), left, right)

    def pointer(self, address: Any, kind: Any, offset: Any = None) -> Any:
        key = address, kind, self.ir.block
        base = self._bases.get(key)
        if base is None:
            base = self._bases[key] = self.ir.inttoptr(address, kind.as_pointer())
        return base if offset is None else self.ir.gep(base, [offset], source_etype=I8)

    def fma(self, left: Any, right: Any, addend: Any) -> Any:
        return self._intrinsic(f"llvm.fma.v{self.width}{self.lane.name}", self.lane.vector, [left, right, addend])

    def sqrt(self, value: Any) -> Any:
        return self._intrinsic(f"llvm.sqrt.v{self.width}{self.lane.name}", self.lane.vector, [value])

    def splat(self, address: Any, offset: Any = None) -> Any:
        """The element at an address in every lane."""
        value = self.ir.load(self.pointer(address, self.lane.kind, offset), align=self.lane.size)
        return self.spread(value)

    def load(self, address: Any, offset: Any = None) -> Any:
        return self.ir.load(self.pointer(address, self.lane.vector, offset), align=self.lane.size)

    def store(self, value: Any, address: Any, offset: Any = None) -> None:
        self.ir.store(value, self.pointer(address, self.lane.vector, offset), align=self.lane.size)

    def prefetch(self, address: Any, *, written: bool = True, nearest: bool = True) -> None:
        """Asks for the cache line at an address, which will be written, or only read, for the nearest cache or not."""
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(self.ir.module, kind, "llvm.prefetch.p0")
        self.ir.call(function, [self.pointer(address, I8), I32(int(written)), I32(3 if nearest else 2), I32(1)])

    def spread(self, number: Any) -> Any:
        """The number in every lane."""
        kind = ir.VectorType(number.type, self.width)
        single = self.ir.insert_element(ir.Constant(kind, ir.Undefined), number, I32(0))
        return self.ir.shuffle_vector(single, ir.Constant(kind, ir.Undefined), integers(*[0] * self.width))

    def mask(self, count: Any) -> Any:
        """True in the first `count` lanes (none if it is negative, all if it is large)."""
        if TARGET.free_masks:
            return self.ir.icmp_signed("<", integers(*range(self.width), bits=64), self.spread(count))
        # Sign bits out of a table stay in a register, where LLVM would compare anew in each turn of a loop.
        clear = self.ir.icmp_signed("<", count, I64(0))
        first = self.ir.sub(I64(self.width), self.ir.select(clear, I64(0), self.minimum(count, I64(self.width))))
        signs = ir.VectorType(ir.IntType(8 * self.lane.size), self.width)
        place = self.ir.gep(self._sign_table(), [I64(0), first])
        found = self.ir.load(self.ir.bitcast(place, signs.as_pointer()), align=self.lane.size)
        return self.ir.icmp_signed("<", found, Splat(signs, 0))

    def _sign_table(self) -> Any:
        """A vector's width of integers below 0, then as many of 0."""
        name = f"signs_{self.lane.name}"
        table = self.ir.module.globals.get(name)
        if table is None:
            kind = ir.ArrayType(ir.IntType(8 * self.lane.size), 2 * self.width)
            table = ir.GlobalVariable(self.ir.module, kind, name)
            table.initializer = ir.Constant(kind, [-1] * self.width + [0] * self.width)
            table.linkage, table.global_constant = "internal", True
        return table

    def load_masked(self, address: Any, mask: Any, offset: Any = None) -> Any:
        """Lanes outside the mask are 0 and are not read from memory."""
        name = f"llvm.masked.load.v{self.width}{self.lane.name}.p0"
        source = self.pointer(address, self.lane.vector, offset)
        return self._intrinsic(name, self.lane.vector, [source, I32(self.lane.size), mask, self.zeros])

    def store_masked(self, value: Any, address: Any, mask: Any, offset: Any = None) -> None:
        name = f"llvm.masked.store.v{self.width}{self.lane.name}.p0"
        target = self.pointer(address, self.lane.vector, offset)
        self._intrinsic(name, ir.VoidType(), [value, target, I32(self.lane.size), mask])

    def store_first(self, rows: list[list[Any]], addresses: list[Any], count: Any) -> None:
        """Stores the first `count` elements of rows of vectors, not all of a row.

        Whole vectors, then 4, 2 and 1 elements: where masks are not free, a masked store takes as long as ten others.
        """
        size, at = self.lane.size, I64(0)
        left = self.bytes(count)

        def store_if(some: Any, values: list[Any]) -> None:
            nonlocal at
            with self.ir.if_then(some):
                for value, address in zip(values, addresses, strict=True):
                    self.ir.store(value, self.pointer(address, value.type, at), align=size)
            at = self.ir.add(at, self.ir.select(some, I64(values[0].type.count * size), I64(0)))

        while len(rows[0]) > 1:
            whole = self.ir.icmp_signed(">=", self.ir.sub(left, at), I64(TARGET.vector_bytes))
            store_if(whole, [row[0] for row in rows])
            rows = [[self.ir.select(whole, *pair) for pair in zip(row[1:], row, strict=False)] for row in rows]
        values, elements = [row[0] for row in rows], self.width // 2
        while elements:
            some = self.ir.icmp_signed("!=", self.ir.and_(count, I64(elements)), I64(0))
            low, high = ([self._pick(x, x, [*range(k, k + elements)]) for x in values] for k in (0, elements))
            store_if(some, low)
            values = [self.ir.select(some, *pair) for pair in zip(high, low, strict=True)]
            elements //= 2

    def _pick(self, left: Any, right: Any, order: list[int]) -> Any:
        return self.ir.shuffle_vector(left, right, integers(*order))

    def zipped(self, first: Any, second: Any) -> list[Any]:
        """Two vectors as two with an element of each in turn."""
        order = [k for pair in zip(range(self.width), range(self.width, 2 * self.width), strict=True) for k in pair]
        return [self._pick(first, second, order[: self.width]), self._pick(first, second, order[self.width :])]

    def zipped_three(self, rows: list[Any]) -> list[Any]:
        """Three vectors as three with an element of each in turn."""
        found = []
        for at in range(0, 3 * self.width, self.width):
            places = [divmod(k, 3) for k in range(at, at + self.width)]
            two = self._pick(rows[0], rows[1], [lane + self.width * (row == 1) for lane, row in places])
            order = [self.width + lane if row == 2 else k for k, (lane, row) in enumerate(places)]
            found.append(self._pick(two, rows[2], order))
        return found

    def _transpose_inside(self, rows: list[Any]) -> list[Any]:
        """Rows of one 16-byte column of blocks -> per column c: the vector whose block L holds column (L, c)."""
        blocks = self.width * self.lane.size // 16
        if len(rows) == 2:
            low = [k for block in range(blocks) for k in (2 * block, self.width + 2 * block)]
            return [self._pick(rows[0], rows[1], low), self._pick(rows[0], rows[1], [k + 1 for k in low])]

        def unpack(left: Any, right: Any, start: int, run: int) -> Any:
            order = []
            for block in range(blocks):
                at = 4 * block + start
                pieces = [(at, at + run), (self.width + at, self.width + at + run)]
                if run == 1:
                    order += [at, self.width + at, at + 1, self.width + at + 1]
                else:
                    order += [k for begin, end in pieces for k in range(begin, end)]
            return self._pick(left, right, order)

        low01, high01 = unpack(rows[0], rows[1], 0, 1), unpack(rows[0], rows[1], 2, 1)
        low23, high23 = unpack(rows[2], rows[3], 0, 1), unpack(rows[2], rows[3], 2, 1)
        return [
            unpack(low01, low23, 0, 2),
            unpack(low01, low23, 2, 2),
            unpack(high01, high23, 0, 2),
            unpack(high01, high23, 2, 2),
        ]

    def _join(self, parts: list[Any]) -> Any:
        """The vectors one after another in one vector."""
        while len(parts) > 1:
            size = parts[0].type.count
            order = integers(*range(2 * size))
            parts = [self.ir.shuffle_vector(parts[k], parts[k + 1], order) for k in range(0, len(parts), 2)]
        return parts[0]

    def _unzip(self, rows: list[Any]) -> list[Any]:
        """Columns of 16-byte blocks of as many vectors as each has blocks."""
        if len(rows) == 1:
            return rows
        per = 16 // self.lane.size
        order = [2 * block * per + k for block in range(self.pieces) for k in range(per)]
        pairs = list(zip(rows[::2], rows[1::2], strict=True))
        even = self._unzip([self._pick(*pair, order) for pair in pairs])
        odd = self._unzip([self._pick(*pair, [k + per for k in order]) for pair in pairs])
        return [column for both in zip(even, odd, strict=True) for column in both]

    def transposed(self, rows: list[Any]) -> list[Any]:
        """The columns of as many vectors as each has elements."""
        per = 16 // self.lane.size
        blocks = [self._unzip(rows[r::per]) for r in range(per)]
        columns = (self._transpose_inside([block[k] for block in blocks]) for k in range(self.pieces))
        return [column for some in columns for column in some]

    def load_column(self, rows: list[Place]) -> Any:
        """The first element of each of the rows."""
        column = ir.Constant(self.lane.vector, ir.Undefined)
        for lane, (base, offset) in enumerate(rows):
            value = self.ir.load(self.pointer(base, self.lane.kind, offset), align=self.lane.size)
            column = self.ir.insert_element(column, value, I32(lane))
        return column

    @property
    def pieces(self) -> int:
        """Blocks of 16 bytes in a vector."""
        return self.width * self.lane.size // 16

    def load_transposed(self, rows: list[Place], pieces: int | None = None) -> list[Any]:
        """The columns of the square block at the beginning of the rows, or of the first so many `pieces` of it alone.

        Loads 16 bytes at a time and joins those of one column of 16-byte blocks, so that only the elements inside
        16 bytes are left to be shuffled.
        """
        per = 16 // self.lane.size
        columns = []
        for block in range(self.pieces if pieces is None else pieces):
            loaded = self._load_pieces(rows, per, block)
            columns += self._transpose_inside([self._join(loaded[r::per]) for r in range(per)])
        return columns

    def load_lines_transposed(self, rows: list[Place]) -> list[Any]:
        """The same where rows are whole lines of memory that lie far apart.

        Such lines are in the way of one another in the first cache: they are met twice, half a line at a time.
        """
        if TARGET.vector_bytes != LINE_BYTES:
            return self.load_transposed(rows)
        per = 16 // self.lane.size
        columns = []
        for half in [self._load_pieces(rows, 2 * per, k) for k in range(2)]:
            # Of each column, what is in the upper rows and in the lower ones: in the even or the odd blocks.
            upper, lower = (
                self._transpose_inside([self._join([half[r], half[r + per]]) for r in range(first, first + per)])
                for first in (0, 2 * per)
            )
            for start in (0, per):
                order = [start + 2 * per * block + k for block in range(4) for k in range(per)]
                columns += [self._pick(*pair, order) for pair in zip(upper, lower, strict=True)]
        return columns

    def _load_pieces(self, rows: list[Place], elements: int, piece: int) -> list[Any]:
        """Piece `piece` of so many elements of each of the rows."""
        kind = ir.VectorType(self.lane.kind, elements)
        places = [self.pointer(base, kind, offset) for base, offset in rows]
        parts = [self.ir.gep(place, [I64(piece)], source_etype=kind) for place in places]
        return [self.ir.load(part, align=self.lane.size) for part in parts]


def row_addresses(v: VectorBuilder, base: Any, stride: Any, left: Any, count: int) -> list[Any]:
    """The addresses of `count` rows; rows past `left` repeat the last one."""
    last = v.ir.sub(left, I64(1))
    step = v.bytes(stride)
    return [v.ir.add(base, v.ir.mul(v.minimum(I64(i), last), step)) for i in range(count)]
