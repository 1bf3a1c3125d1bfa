"""Sums of matrix products, C = D + A1 @ B1 + A2 @ B2 + ..., such as a weight's gradient over the steps of a loop.

Each element of a product is one chain of fused multiply-adds along k, from 0, which is then added to the sum of those
before. Several sums with the same first factors, such as the gradients of a cell's two matrices, are computed together.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

from tracejit.kernels.code import Code, Word, native_kernel
from tracejit.kernels.gemm import Problem, checked, worth_packing
from tracejit.kernels.gemm_kernels import BLOCK_BYTES, COPY, DIRECT, GATHER, TILE_VECTORS, TRANSPOSE, pack_panels
from tracejit.kernels.gemm_packing import add_part
from tracejit.kernels.gemm_tiles import ADDING, add_column
from tracejit.kernels.launch import Launch, Operand, Ptr
from tracejit.kernels.vectors import F32, F64, TARGET, Lane
from tracejit.ops.contraction import LONGEST_ADDED

(M, N, K, A_M, A_K, A_MODE, ROWS, TALL, GROUP, LEFT, RIGHT, COUNT, RESULTS, FIRST) = range(14)
"""The slots of the argument block: sizes, strides in elements, how A is read, rows of C in a unit; rows of C and
columns of B that are gone through at once; where in the buffer, behind a copy of a part of C that is not made of whole
tiles, packed A and B begin; the number of products that are added to each result, and of results."""

(C, D, B_K, B_N, B_MODE, OF_RESULT) = range(6)
"""From FIRST on for each result: addresses of C and D, which are contiguous, and how its B is read. Behind them for
each product the addresses of A and of B for each result."""

_ROWS, _VECTORS = 6, 4 if TARGET.registers == 32 else 2
"""The tile: along so few steps of k what matters is how little is read for each of them."""

_TALL_BYTES, _GROUP = 384, 8
"""Rows of C that are gone through at once, in bytes of a column, whole tiles and whole vectors of any machine and type:
with a panel of B and their rows of A they stay in the first cache. Panels of B that are packed at once, at most."""

_PARTS = 8
"""Units, if there are rows for so many."""

_CROWDED_BYTES, _LONG, _AGAIN = 2048, 16, 2
"""So many rows that are a multiple of this apart leave each other too little room in the first cache, which matters if
they are read so often."""


def _sums(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """Parts of the rows of C, those that follow one another as one.

    What is packed is filled up to whole tiles; where C has none, a copy in the buffer does.
    """
    m, n, k, a_m, a_k, a_mode, rows, tall = code.slots(p, M, N, K, A_M, A_K, A_MODE, ROWS, TALL)
    group, left, right, count, results = code.slots(p, GROUP, LEFT, RIGHT, COUNT, RESULTS)
    size, columns = lane.size, _VECTORS * lane.count
    packed = TILE_VECTORS * lane.count
    edge = code.buffer(BLOCK_BYTES)
    left, right = edge + left, edge + right
    a_direct = a_mode.equals(DIRECT)
    left_m, left_k = a_direct.choose(a_m, 1), a_direct.choose(a_k, tall)
    b_block = group * k * size
    factors = p + (results * OF_RESULT + FIRST) * 8

    def pack(mode: Word, x: Word, x_k: Word, x_n: Word, block: Word, there: Word, side_by_side: Word) -> None:
        with code.when(mode > DIRECT):
            panels = (there + packed - 1).quotient(packed)
            pack_panels(code, lane, mode, x, x_k, x_n, block, k, there, panels, side_by_side)

    def asks(top: Word, first: Word, product: Word, result: Word) -> tuple[Word, Word]:
        """What tiles ask for that the next product reads, and the step from row to row: those of the first result rows
        of A, others of B, that of one result after the other for one part of the rows after the other.
        """
        turn = (top - low * rows).quotient(tall)
        of_a, is_next = result.equals(0), product + 1 < count
        # If there is nothing to ask for, the same row again and again costs next to nothing.
        is_asked = is_next & (of_a | (turn < results))
        operand = of_a.choose(0, is_asked.choose(turn + 1, 0))
        b_k = code.load(p, of_a.choose(0, (operand - 1).most(0)) * OF_RESULT + FIRST + B_K)
        address = code.load(factors, (product + is_next.number()) * (results + 1) + operand)
        step = is_asked.choose(of_a.choose(a_k, b_k) * size, 0)
        return address + of_a.choose(top * a_m, first) * size, step

    def add(top: Word, there: Word, first: Word, last: Word, product: Word) -> None:
        """Adds a product to some columns of some rows of all results."""
        which = product * (results + 1)
        source = code.load(factors, which) + top * a_m * size
        pack(a_mode, source, a_k, a_m, left, there, tall)
        a = a_direct.choose(source, left)
        with code.loop(0, results) as result:
            block = p + (result * OF_RESULT + FIRST) * 8
            c, d, b_k, mode = (code.load(block, slot) for slot in (C, D, B_K, B_MODE))
            direct = mode.equals(DIRECT)
            b = direct.choose(code.load(factors, which + result + 1) + first * size, right + result * b_block)
            right_k, right_step = direct.choose(b_k, columns), direct.choose(1, k) * size
            before = product.equals(0).choose(d - c, 0)
            asked, asked_step = asks(top, first, product, result)
            with code.loop(first, last, columns) as column:
                width, c_at = n - column, c + (top * n + column) * size
                full = there.quotient(_ROWS)
                done = full * _ROWS
                rest = there - done
                ask = asked + (column - first).quotient(columns) * full * asked_step

                # What is read in place may end with the last tile, which then begins among the rows above.
                above = a_direct.choose(_ROWS - rest, 0)

                def tiles(at: Word, to: Word, to_m: Word, count: Word, added: Word) -> None:
                    def column_of(vectors: int) -> None:
                        function = add_column(code.module, lane, _ROWS, vectors, ADDING)
                        operands = at, left_m, left_k, left_m * _ROWS, b + (column - first) * right_step, right_k
                        code.call(function, *operands, to, to_m, k, 1, count, added, ask, asked_step)

                    code.either(width <= packed, lambda: column_of(TILE_VECTORS), lambda: column_of(_VECTORS))

                def through_copy(at: Word, skipped: Word, start: Word, rows: Word, count: Word) -> None:
                    part, copy = add_part(code.module, lane, _VECTORS), edge + skipped * columns * size
                    code.call(part, start + before, n, copy, columns, rows, width)
                    tiles(at, edge, code.word(columns), count, code.word(0))
                    code.call(part, copy, columns, start, n, rows, width)

                code.either(
                    width >= columns,
                    lambda: tiles(a, c_at, n, full, before),
                    lambda: through_copy(a, code.word(0), c_at, done, full),
                )
                with code.when(rest > 0):
                    at = a + (done - above) * left_m * size
                    through_copy(at, above, c_at + done * n * size, rest, code.word(1))

    end = (high * rows).least(m)
    with code.loop(0, n, group) as first, code.loop(0, count) as product:
        last = n.least(first + group)
        with code.loop(0, results) as result:
            b_k, b_n, mode = (code.load(p, result * OF_RESULT + FIRST + slot) for slot in (B_K, B_N, B_MODE))
            source, block = code.load(factors, product * (results + 1) + result + 1), right + result * b_block
            with code.loop(first, last, columns) as column:
                there, out = (n - column).least(columns), block + (column - first) * k * size
                pack(mode, source + column * b_n * size, b_k, b_n, out, there, code.word(columns))
        with code.loop(low * rows, end, tall) as top:
            add(top, (end - top).least(tall), first, last, product)


sums_f32 = native_kernel("sums_f32", partial(_sums, F32))
sums_f64 = native_kernel("sums_f64", partial(_sums, F64))


def gemm_sums_f32(p: Any, lo: int, hi: int) -> Any:
    """Products added up, float32."""
    return sums_f32(p, lo, hi)


def gemm_sums_f64(p: Any, lo: int, hi: int) -> Any:
    """Products added up, float64."""
    return sums_f64(p, lo, hi)


_KERNELS = {"float32": (gemm_sums_f32, F32), "float64": (gemm_sums_f64, F64)}


def plan_matmul_add(*operands: Operand) -> tuple[Launch, ...]:
    """The launches of OUT = C + A1 @ B1 + A2 @ B2 + ..., added from left to right; C may be OUT.

    The operands are C, A1, B1, A2, B2, ..., OUT, and so are the numbers of Ptr.
    Shape: each a (m, k), each b (k, n), c and out (m, n). Any strides on a and b; c and out are contiguous.
    DType: float32, float64; the same for all.
    Edge: k is at most `LONGEST_ADDED`; sizes may be 0.
    Raises: ValueError for shapes that do not fit or a c that is not contiguous, NotImplementedError for other dtypes.
    Cost: for each product m * n * k fused multiply-adds and m * n additions; one launch for products that follow one
        another and lie in memory alike.

    >>> square = Operand("float32", (64, 64), (64, 1))
    >>> [launch.function.__name__ for launch in plan_matmul_add(square, square, square, square, square, square)]
    ['gemm_sums_f32']
    """
    return _plan("matmul_add", 1, operands)


def plan_matmul_add_both(*operands: Operand) -> tuple[Launch, ...]:
    """The launches of two such sums with the same first factors, which are packed once.

    The operands are C, C', A1, B1, B1', A2, B2, B2', ..., OUT, OUT'; otherwise as `plan_matmul_add`.
    """
    return _plan("matmul_add_both", 2, operands)


def _plan(name: str, results: int, operands: tuple[Operand, ...]) -> tuple[Launch, ...]:
    first, last, each = results, len(operands) - results, results + 1
    added, outs = operands[:first], operands[last:]
    shape = outs[0].shape
    if not all(x.contiguous and x.shape == shape and x.dtype == outs[0].dtype for x in (*added, *outs)):
        raise ValueError(f"{name}: what is added must be contiguous and like the result, got {added} for {outs}")
    places = range(first, last, each)
    problems = [
        tuple([checked(operands[at], b, out) for b, out in zip(operands[at + 1 : at + each], outs, strict=True)])
        for at in places
    ]
    longest = max(p.k for alike in problems for p in alike)
    if outs[0].dtype not in _KERNELS or len(shape) != 2 or longest > LONGEST_ADDED:
        raise NotImplementedError(f"{name}: there is no kernel for {operands}")
    if 0 in shape:
        return ()
    launches: list[Launch] = []
    for of_results, alike in groupby(range(len(places)), lambda i: problems[i]):
        numbers = [places[i] for i in alike]
        ends = [(last + r, last + r if launches else r) for r in range(results)]
        launches.append(_plan_launch(of_results, numbers, ends))
    along = (*range(first), *places, *range(last, len(operands)))
    return tuple([replace(launch, along=along if launch.parts else ()) for launch in launches])


def _plan_launch(problems: tuple[Problem, ...], places: list[int], ends: list[tuple[int, int]]) -> Launch:
    """Adds products that lie in memory alike. `problems` are those of the results, `places` the numbers of the first
    factors, `ends` those of a result and of what is added to it.
    """
    p = problems[0]
    function, lane = _KERNELS[p.dtype]
    columns, k = _VECTORS * lane.count, max(p.k, 1)
    panels, rows, tall = -(-p.n // columns), _rows_of_part(p.m), _TALL_BYTES // lane.size
    fits = p.m >= _ROWS, p.n % columns == 0
    a_mode = _mode(p.a[1], p.a[2], k, lane, panels * len(problems), fits[0], any_way=True)
    b_modes = [_mode(q.b[2], q.b[1], k, lane, p.m // _ROWS, fits[1], any_way=False) for q in problems]
    edge = tall * columns * lane.size
    right = edge + (tall * k * lane.size if a_mode else 0)
    panel = len(problems) * columns * k * lane.size if any(b_modes) else 0
    group = columns * min(panels, (BLOCK_BYTES - right) // max(panel, 1), _GROUP if panel else panels)
    sizes = (p.m, p.n, p.k, *p.a[1:], a_mode, rows, tall, group, edge, right, len(places), len(problems))
    each: list[int | Ptr] = []
    for (out, added), q, mode in zip(ends, problems, b_modes, strict=True):
        each += [Ptr(out), Ptr(added), *q.b[1:], mode]
    factors = [Ptr(place + side) for place in places for side in range(len(problems) + 1)]
    units = -(-p.m // rows)
    starts = [len(sizes) + OF_RESULT * r for r, (out, added) in enumerate(ends) if out != added]
    return Launch(
        function,
        (*sizes, *each, *factors),
        units,
        p.cost(units) * len(places) * len(problems),
        in_place=tuple([(start + D, start + C) for start in starts]),
        parts=0 if p.m % rows else units,
    )


def _mode(near: int, far: int, k: int, lane: Lane, times: int, fits: bool, *, any_way: bool) -> int:
    """How a matrix is read whose elements along k are `far` from one another, those of one place of k `near`.

    In place where it `fits`, if tiles can read it so (`any_way`, or contiguous), unless its rows, of which parts are
    read `times` times, leave each other too little room in the first cache.
    """
    way = COPY if near == 1 else TRANSPOSE if far == 1 or k <= 1 else GATHER
    step = far * lane.size
    crowded = k >= _LONG and times >= _AGAIN and step % _CROWDED_BYTES == 0
    in_the_way = way == COPY and (crowded or worth_packing(step * k, times))
    return DIRECT if fits and (any_way or way == COPY) and not in_the_way else way


def _rows_of_part(m: int) -> int:
    """Rows of C in a unit: equal parts if there are such."""
    most = max(1, min(_PARTS, m // (2 * _ROWS)))
    equal = [parts for parts in range(most, most // 2, -1) if m % parts == 0]
    return -(-m // (equal[0] if equal else most))
