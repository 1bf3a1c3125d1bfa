"""The plan of a matrix product on tiles (AMX): operands into tiles, tiles into squares of the result.

Each element is a chain over steps of 32 places of k, in ascending order from 0: the products of the even places are
added up by fused multiply-adds from 0 and those of the odd places, too; the sum of both is added to what was there.
Without tiles (AVX512-BF16) it is one chain over pairs of places, each the fused multiply-add of the odd place, then
that of the even one, up to the end of the last step.
Subnormal numbers count as 0, among operands, sums and results. Nothing of that depends on the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracejit.cpu import multiplies_bfloat16
from tracejit.kernels import square_kernels as kernels
from tracejit.kernels.gemm import Problem, checked
from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.kernels.square_vectors import DEPTH, SIDE, SQUARE

_SIZES = {"float32": 4, "bfloat16": 2}
_PACKING = {
    ("float32", "along"): kernels.square_along_f32,
    ("float32", "across"): kernels.square_across_f32,
    ("float32", "neither"): kernels.square_gathered_f32,
    ("bfloat16", "along"): kernels.square_along_bf16,
    ("bfloat16", "across"): kernels.square_across_bf16,
    ("bfloat16", "neither"): kernels.square_gathered_bf16,
}
_MULTIPLYING = {"float32": kernels.square_f32, "bfloat16": kernels.square_bf16}

_UNITS = 16
"""Units from which threads get about equal shares."""

_SIDE_BY_SIDE = 4
"""Tiles that are filled together at least if their lines lie side by side: a row of memory is read some way along."""

_BLOCK_BYTES = 768 * 1024
"""Rows of A that are gone through for each 32 columns of B, and stay in the second cache."""

_RUN = 8
"""Steps of k of which 32 rows and 32 columns stay in the first cache together, with room for the next rows."""

_OPERATIONS, _BYTES, _GATHERED = 1000.0, 8.0, 0.5
"""Floating point operations, bytes that are packed, and elements that are gathered, in a nanosecond, roughly."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One operand as tiles: how many lines it has, and the distances (in elements) of a batch, a line, a place of k."""

    pointer: int
    dtype: str
    batches: int
    lines: int
    batch: int
    line: int
    place: int


def plan_bfloat16_matmul(a: Operand, b: Operand, c: Operand) -> tuple[Launch, ...]:
    """The launches of C = A @ B with operands rounded to bfloat16; Ptr 0, 1, 2 are A, B, C.

    Shape: a (m, k) or (batch, m, k); b (k, n) or (batch, k, n); c (m, n) or (batch, m, n). Any strides on a and b,
        0 included; the rows of c are contiguous.
    DType: each bfloat16 or float32.
    Edge: sizes may be 0; k = 0 gives zeros; an empty c needs no launch.
    Raises: ValueError for shapes that do not fit, NotImplementedError for other dtypes, or where the CPU has neither.
    Cost: batch * m * n * k multiply-adds; scratch memory for a copy of A and B as bfloat16.
    """
    p = checked(a, b, c, alike=False)
    if not {a.dtype, b.dtype, c.dtype} <= _SIZES.keys():
        raise NotImplementedError(f"bfloat16_matmul: there is no kernel for {a.dtype} @ {b.dtype} -> {c.dtype}")
    if not multiplies_bfloat16():
        raise NotImplementedError(
            "cannot compile 'bfloat16_matmul': the CPU has neither tiles (AMX) nor AVX512-BF16, or may not use them"
        )
    if p.batch == 0 or p.m == 0 or p.n == 0:
        return ()
    left = _Side(0, a.dtype, p.batch if p.a[0] else 1, p.m, p.a[0], p.a[1], p.a[2])
    right = _Side(1, b.dtype, p.batch if p.b[0] else 1, p.n, p.b[0], p.b[2], p.b[1])
    squares, panels, steps = -(-p.m // SQUARE), -(-p.n // SQUARE), -(-p.k // DEPTH)
    deep = steps * kernels.STEP_BYTES
    of_a = left.batches * squares * deep
    room = Scratch(of_a + right.batches * panels * deep)
    packing = (_pack(left, room, 0, p.k), _pack(right, room, of_a, p.k)) if p.k else ()
    tall, wide = _unit(p, squares, panels, deep)
    batches = (deep * squares if p.a[0] else 0, deep * panels if p.b[0] else 0, _SIZES[c.dtype] * p.c[0])
    run = -(-max(steps, 1) // max(1, -(-steps // _RUN)))
    slots = (room, of_a, Ptr(2), p.m, p.n, p.k, *batches, _SIZES[c.dtype] * p.c[1], tall, wide, run)
    units = p.batch * -(-squares // tall) * -(-panels // wide)
    cost = 2.0 * SQUARE * SQUARE * tall * wide * (steps * DEPTH + 2 * SQUARE) / _OPERATIONS
    return (*packing, Launch(_MULTIPLYING[c.dtype], slots, units, cost))


def _pack(side: _Side, room: Scratch, at: int, k: int) -> Launch:
    """An operand into tiles, from `at` on in the room."""
    ways = ["along"] if side.place == 1 or k == 1 else []
    ways += ["across"] if side.line == 1 or side.lines == 1 else []
    way = ways[-side.pointer] if ways else "neither"
    # Elements with gaps are put along k first.
    turned = (way == "across") != (side.pointer == 1)
    size = _SIZES[side.dtype]
    tiles = -(-side.lines // SIDE)
    together = -(-side.batches * tiles // _UNITS)
    together = min(tiles, max(together, _SIDE_BY_SIDE if way == "across" else 1))
    distances = (size * side.batch, size * side.line, size * side.place)
    slots = (Ptr(side.pointer), room, at, side.lines, k, *distances, int(turned), together)
    elements = together * SIDE * k
    cost = elements * (size / _BYTES + (_GATHERED if way == "neither" else 0.0))
    return Launch(_PACKING[side.dtype, way], slots, side.batches * -(-tiles // together), cost)


def _unit(p: Problem, squares: int, panels: int, deep: int) -> tuple[int, int]:
    """Squares of a unit, down and along: rows of A that stay in the second cache, enough units for an even split."""
    tall = min(squares, kernels.MOST_TALL, max(1, _BLOCK_BYTES // max(deep, 1)))
    down = -(-squares // tall)
    along = min(panels, -(-_UNITS // (p.batch * down)))
    down = min(squares, max(down, -(-_UNITS // (p.batch * along))))
    return -(-squares // down), -(-panels // along)
