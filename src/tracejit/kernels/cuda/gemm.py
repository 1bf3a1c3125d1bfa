"""Matrix products on a GPU: operands of any layout, in tiles; skinny products in parts that are added up in order.

Each element is one chain of fused multiply-adds along k, in ascending order from 0, as on the CPU: the same bits. Where
there are few tiles and many steps of k it is several such chains, added up one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracejit.dtypes import BY_NAME
from tracejit.kernels.cuda.launch import VECTOR_BYTES, Arguments, GpuLaunch, indented, load_text, quotient, with_plain
from tracejit.kernels.cuda.product import (
    FLOATS,
    INTEGERS,
    SCOPES,
    TOGETHER,
    Side,
    Tile,
    computed,
    number,
    parts_for,
    product_lines,
    tile_for,
    tiles_of,
)
from tracejit.kernels.launch import Operand, Ptr, Scratch

_COMBINING = 128
"""Threads of a block that adds up parts."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A stack of matrices: its element type, its steps from matrix to matrix, across the tile, and along k."""

    short: str
    batch: int
    across: int
    along: int
    sizes: tuple[int, int]

    def side(self, letter: str, tile: Tile, vectors: bool) -> MatrixSide:
        """How it is loaded: along memory, in vectors if rows and steps are whole ones."""
        along_k = self.along == 1 and self.across != 1
        lanes = min(TOGETHER, VECTOR_BYTES // (FLOATS | INTEGERS)[self.short])
        inner, others = (self.along, (self.across, self.batch)) if along_k else (self.across, (self.along, self.batch))
        length = self.sizes[1 if along_k else 0]
        whole = inner == 1 and length % lanes == 0 and not any(step % lanes for step in others)
        vector = lanes if vectors and whole and self.short in FLOATS else 1
        return MatrixSide(letter, self.short, tile, along_k, vector)


class MatrixSide(Side):
    """Tiles of a matrix; its steps are `a_across` and `a_along`."""

    def locate(self) -> list[str]:
        name, first = self.letter, "top" if self.letter == "a" else "left"
        at = f"batch * {name}_batch + ({first} + {name}_i) * {name}_across + {name}_s * {name}_along"
        return [f"{name}_at = {self._whole(at)}"]

    def _whole(self, text: str) -> str:
        return f"multiple({text}, {self.vector})" if self.vector > 1 else text

    def load(self, n: int, begin: str) -> list[str]:
        name = self.letter
        first, end = ("top", "m") if name == "a" else ("left", "n")
        step = f"{n * self.step} * {name}_{'across' if self.along_k else 'along'}"
        at = self._whole(f"{name}_at + {begin} * {name}_along + {step}")
        lines = [f"if {first} + {self.row(n)} < {end} and {self.k(n, begin)} < stop:", f"    {name}_from = {at}"]
        for e in range(self.vector):
            load = load_text(self.short, name, f"{name}_from + {e}", self.scope, SCOPES, 1 if e else self.vector)
            lines.append(f"    {self.register(n, e)} = {load}")
        return lines

    def arguments(self, arguments: Arguments, matrix: Matrix, pointer: Ptr | Scratch) -> None:
        """The matrix and its steps."""
        name, vector = self.letter, self.vector
        along_k = self.along_k
        arguments.add(name, pointer, vector * FLOATS[self.short] if vector > 1 else 1)
        arguments.add(f"{name}_batch", matrix.batch, vector)
        arguments.add(f"{name}_across", matrix.across, vector if along_k else 1)
        arguments.add(f"{name}_along", matrix.along, 1 if along_k else vector)


@dataclass(frozen=True, slots=True)
class _Result:
    """Where elements go: the result, added to something or not, or parts of sums in scratch memory."""

    short: str
    adding: bool
    parts: int
    vector: int

    def lines(self, tile: Tile) -> list[str]:
        """Lines that store a thread's elements."""
        lines = []
        for i in range(tile.each):
            inner = [f"at = row_at + ({tile.place('y', i)}) * n + left"]
            for j in range(0, tile.each, self.vector):
                column = tile.place("x", j)
                start = f"multiple(at + {column}, {self.vector})" if self.vector > 1 else f"at + {column}"
                inner += [f"if left + {column} < n:", f"    to = {start}"]
                inner += [f"    {self._store(i, j + e, e)}" for e in range(self.vector)]
            lines += [f"if top + {tile.place('y', i)} < m:", *indented(inner)]
        return lines

    def _store(self, i: int, j: int, e: int) -> str:
        value = number(computed(self.short), f"c{i}_{j}")
        if self.adding:
            value = f"load_{self.short}_g(d, to + {e}, 2, {SCOPES}) + {value}"
        short = computed(self.short) if self.parts > 1 else self.short
        return f"store_{short}_g(c, to + {e}, {value}, 2, {SCOPES})"


def block_lines(tile: Tile) -> list[str]:
    """Lines that find a block's place: its part of k, its matrix, and the first row and column of its tile."""
    return [
        "w = lo",
        "if w >= hi:",
        "    return 0",
        f"q = {quotient('w', 'across')}",
        f"left = (w - q * across) * {tile.side}",
        f"group = {quotient('q', 'down')}",
        f"top = (q - group * down) * {tile.side}",
        f"part = {quotient('group', 'batches')}",
        "batch = group - part * batches",
        "first = part * span",
        "stop = min(first + span, k)",
    ]


def block_arguments(arguments: Arguments, tile: Tile, sizes: tuple[int, int, int], batches: int, parts: int) -> int:
    """The arguments of `block_lines`, for a result of `sizes` rows and columns, and so many steps; the blocks."""
    m, n, k = sizes
    across, down = -(-n // tile.side), -(-m // tile.side)
    # Whole turns, so that only the last part ends within one.
    span = -(-k // (parts * tile.depth)) * tile.depth
    arguments.add_all(m=m, k=k, across=across, down=down, batches=batches, span=span)
    for name, value in (("across", across), ("down", down), ("batches", batches)):
        arguments.add_divisor(name, max(value, 1))
    return parts * batches * across * down


@dataclass(frozen=True, slots=True)
class _Problem:
    """Products of `batches` pairs of matrices: rows, columns and steps of each, the parts of the sums, the tile."""

    a: Matrix
    b: Matrix
    short: str
    sizes: tuple[int, int, int]
    batches: int
    parts: int
    tile: Tile

    @property
    def count(self) -> int:
        """Elements of the result."""
        return self.sizes[0] * self.sizes[1] * self.batches

    def launch(self, pointers: Sequence[Ptr | Scratch], adding: bool) -> GpuLaunch:
        """The launch of the products, or of their parts: with vectors, and without where they cannot be."""
        return with_plain(self._launch(pointers, adding, True), lambda: self._launch(pointers, adding, False))

    def _launch(self, pointers: Sequence[Ptr | Scratch], adding: bool, vectors: bool) -> GpuLaunch:
        n, tile, short = self.sizes[1], self.tile, self.short
        sides = self.a.side("a", tile, vectors), self.b.side("b", tile, vectors)
        lanes = min(TOGETHER, VECTOR_BYTES // (FLOATS | INTEGERS)[short])
        vector = lanes if vectors and short in ("f32", "f64") and n % lanes == 0 else 1
        arguments = Arguments()
        for side, matrix, pointer in zip(sides, (self.a, self.b), pointers[:2], strict=True):
            side.arguments(arguments, matrix, pointer)
        each = vector * FLOATS[short] if vector > 1 else 1
        arguments.add("c", pointers[2], each)
        if adding:
            arguments.add("d", pointers[3], each)
        arguments.add("n", n, vector)
        blocks = block_arguments(arguments, tile, self.sizes, self.batches, self.parts)
        result = _Result(short, adding, self.parts, vector)
        body = [
            *block_lines(tile),
            *product_lines(tile, *sides, "first", "stop"),
            f"row_at = {'group' if self.parts > 1 else 'batch'} * m * n + top * n",
            *result.lines(tile),
        ]
        stem = f"cuda_matmul_{'add_' if adding else ''}{'part_' if self.parts > 1 else ''}{short}_{tile.side}"
        return arguments.launch(stem, body, blocks, tile.threads)


def combine(short: str, count: int, parts: int, c: Ptr, scratch: Scratch, d: Ptr | None = None) -> GpuLaunch:
    """The launch that adds up `parts` parts of `count` elements, one after another, and perhaps to something."""
    wide = computed(short)
    arguments = Arguments()
    arguments.add_all(x=scratch, c=c, count=count, parts=parts)
    if d is not None:
        arguments.add("d", d)
    total = "total" if d is None else f"load_{short}_g(d, u, 1, 3) + total"
    body = [
        f"u = lo * {_COMBINING} + thread()",
        "if u >= hi:",
        "    return 0",
        f"total = load_{wide}_g(x, u, 0, 3)",
        "for part in range(1, parts):",
        f"    total = total + load_{wide}_g(x, part * count + u, 0, 3)",
        f"store_{short}_g(c, u, {total}, 2, 3)",
    ]
    name = f"cuda_add_parts_{'to_' if d is not None else ''}{short}"
    return arguments.launch(name, body, -(-count // _COMBINING), _COMBINING, count)


def _matrix(operand: Operand, turned: bool) -> Matrix:
    batch, row, column = operand.strides if len(operand.shape) == 3 else (0, *operand.strides)
    rows, columns = operand.shape[-2:]
    across, along = (column, row) if turned else (row, column)
    sizes = (columns, rows) if turned else (rows, columns)
    return Matrix(BY_NAME[operand.dtype].short, batch, across, along, sizes)


def _product(a: Operand, b: Operand, c: Operand, pointers: tuple[Ptr, ...], adding: bool) -> tuple[GpuLaunch, ...]:
    short = BY_NAME[a.dtype].short
    if short not in FLOATS | INTEGERS:
        raise NotImplementedError(f"matmul: there is no GPU kernel for {a.dtype}")
    (m, n), k = map(int, c.shape[-2:]), int(a.shape[-1])
    batches = int(c.shape[0]) if len(c.shape) == 3 else 1
    tile = tile_for(short, m, n, batches)
    parts = parts_for(tiles_of(tile, m, n) * batches, k) if short in FLOATS else 1
    problem = _Problem(_matrix(a, False), _matrix(b, True), short, (m, n, k), batches, parts, tile)
    if problem.count == 0:
        return ()
    if parts == 1:
        return (problem.launch(pointers, adding),)
    scratch = Scratch(parts * problem.count * FLOATS[computed(short)])
    added = pointers[3] if adding else None
    total = combine(short, problem.count, parts, pointers[2], scratch, added)
    return problem.launch((*pointers[:2], scratch), False), total


def launch_matmul(a: Operand, b: Operand, c: Operand) -> tuple[GpuLaunch, ...]:
    """The launches of C = A @ B; shapes as for the CPU's. Operands: A, B, C, which is contiguous.

    DType: floating point (float16 is added up in float32), int8 to int64, uint8.
    """
    return _product(a, b, c, (Ptr(0), Ptr(1), Ptr(2)), False)


def launch_matmul_add(c: Operand, *operands: Operand) -> tuple[GpuLaunch, ...]:
    """The launches of OUT = C + A1 @ B1 + A2 @ B2 + ..., where C may be OUT. Operands: C, A1, B1, A2, B2, ..., OUT.

    C and OUT are contiguous.
    """
    if c.dtype not in ("float32", "float64"):
        raise NotImplementedError(f"matmul_add: there is no GPU kernel for {c.dtype}")
    if not c.contiguous:
        raise ValueError("matmul_add: what is added to must be contiguous")
    *factors, out = operands
    total, added = Ptr(len(operands)), Ptr(0)
    launches: list[GpuLaunch] = []
    for at in range(0, len(factors), 2):
        launches += _product(factors[at], factors[at + 1], out, (Ptr(at + 1), Ptr(at + 2), total, added), True)
        added = total
    return tuple(launches)
