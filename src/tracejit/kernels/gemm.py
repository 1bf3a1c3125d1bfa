"""The plan of a matrix product: which kernel, how the panel of B is read, how the work splits.

Each element of a float product is one chain of fused multiply-adds along k, in ascending order from 0, whatever
kernel or split is chosen here; so the choice is about speed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tracejit.kernels import gemm_kernels as kernels
from tracejit.kernels.gemm_kernels import DOT_ROWS, NARROW, ROW_VECTORS, THIN_VECTORS, WIDE, Tile
from tracejit.kernels.gemm_tiles import MASKED, MOVED, MULTIPLIED
from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.kernels.vectors import TARGET

_SIZES = {"float32": 4, "float64": 8}
_FLOAT_KERNELS: dict[str, dict[str, Callable[..., Any]]] = {
    "float32": {
        "thin": kernels.gemm_thin_f32,
        "dots": kernels.gemm_dots_f32,
        "lines": kernels.gemm_lines_f32,
        "pages": kernels.gemm_pages_f32,
    },
    "float64": {
        "thin": kernels.gemm_thin_f64,
        "dots": kernels.gemm_dots_f64,
        "lines": kernels.gemm_lines_f64,
        "pages": kernels.gemm_pages_f64,
    },
}
_PANEL_KERNELS: dict[tuple[str, Tile], Callable[..., Any]] = {
    ("float32", NARROW): kernels.gemm_panel_f32,
    ("float64", NARROW): kernels.gemm_panel_f64,
    ("float32", WIDE): kernels.gemm_wide_f32,
    ("float64", WIDE): kernels.gemm_wide_f64,
}
_DISTANCE_KERNELS = {"float32": kernels.gemm_distances_f32, "float64": kernels.gemm_distances_f64}
_PACKING_KERNELS = {"float32": kernels.gemm_pack_f32, "float64": kernels.gemm_pack_f64}
_STRIP_KERNELS = {"float32": kernels.gemm_strips_f32, "float64": kernels.gemm_strips_f64}
_INTEGER_KERNELS: dict[str, Callable[..., Any]] = {
    "int8": kernels.gemm_i8,
    "int16": kernels.gemm_i16,
    "int32": kernels.gemm_i32,
    "int64": kernels.gemm_i64,
    "uint8": kernels.gemm_i8,
}
_BYTES_PER_NANOSECOND = 5.0 * TARGET.vector_bytes
"""Bytes of products a core gets through in a nanosecond, roughly."""

_UNITS = 16
"""Units from which threads get about equal shares."""

_TALL = 4
"""How many times as large as B what goes between threads must be, for B to be packed twice instead."""

_IN_PLACE_BYTES = 1 << 20
"""What may be read in place again and again: where an operand has long rows, few sets of the cache hold its columns."""

_PAGE_BYTES = 4096
"""Columns that are a multiple of this apart compete for the same few places of the first cache."""

_LINES_BYTES = 1 << 17
"""A matrix from which on its product with a row goes through it by whole lines (256x1008 float32 take 0.78 of the time,
256x1024 0.7): that is more code, which takes longer to build than smaller products."""

_GROUP, _GROUP_BYTES = 4, 128 * 1024
"""Panels of B that are packed at once: at least so many, and more while they are no larger than this."""

_WIDE_GROUP, _HEIGHT = 32, 96
"""Where rows of A are packed beside them, at most so many panels, and how many rows of float32. A long run of k is
better than many panels, unless A would be packed again too often."""

_FEW_ROWS, _SPREAD_BYTES = 2 * NARROW.rows, (48 << 20, 8 << 20)
"""Rows of A up to which B is packed with wide groups and short runs, and from how many bytes on where they are one tile
or more (8 rows and 4096x4096: a fifth of the time)."""

_LEAST_RUN = 96
"""Steps of k that are one run, whatever is packed."""

_WIDE = TARGET.vector_bytes == 64
_WIDE_ROWS, _WIDE_STEPS = 192, 1 << 25
"""Rows of A, and steps of all chains of a batch, from which tiles may be wide: less gains microseconds, where one more
kernel takes 40 ms to build."""

_WIDE_COST, _EDGE_COST = 0.94, 2.0
"""The time of a wide tile beside narrow ones for as many columns; of a masked column beside another."""
_STRIP_BYTES = (32 if _WIDE else 8) << 20
"""The largest A that is packed into memory of its own for all units; each of them packs its part of a larger one."""

_RUN_BYTES = 64 * 1024 if _WIDE else kernels.BLOCK_BYTES
"""The largest panel of B that is packed for one run of k. The second cache gives it as fast as a tile reads it: 512
steps in one run take 0.95 to 0.98 of the time of two runs, whose panels the first cache holds."""

_WIDE_RUN_BYTES = 128 * 1024
"""The same for wide tiles, which have 24 multiply-adds for four vectors of a panel (768x512 @ 512x128: 0.96)."""

_PANEL_BYTES = 36 * 1024 if _WIDE else 16 * 1024
_HEIGHT_BYTES, _SLAB_BYTES = (32 * 1024, 768 * 1024) if _WIDE else (96 * 1024, 0)
"""If panels are so small that one stays in the first cache, and all rows of A and C are a slab or more, panels are gone
through for rows that stay in the second cache (768x128 @ 128x512 within a GPT's step: 0.95 of the time)."""

_RESULT_BYTES, _FAR_HEIGHT_BYTES = (1 << 20, 128 * 1024) if _WIDE else (1 << 62, 0)
"""A result of at least so much is written once, after a run of k as long as the block allows: the second cache does not
hold it until the next run, beside what is packed (1024x1024 @ 1024x1024 on two threads: 0.86 of the time, 512 columns
of it on one: 0.81). Rows of A then stay beside the block. Where there is but one run anyway, results are twice as large
before that pays."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Sizes and strides (batch, row, column) of one product; a stride along a size of 1 is 0."""

    dtype: str
    batch: int
    m: int
    n: int
    k: int
    a: tuple[int, int, int]
    b: tuple[int, int, int]
    c: tuple[int, int, int]
    swapped: bool = False

    def slots(self, *ways: int) -> tuple[int | Ptr, ...]:
        left, right = (Ptr(1), Ptr(0)) if self.swapped else (Ptr(0), Ptr(1))
        sizes = (self.m, self.n, self.k)
        unused = [0] * (kernels.GATE_USE - kernels.A_MODE - len(ways) + 1)
        return (left, right, Ptr(2), *sizes, *self.a, *self.b, self.c[0], self.c[1], *ways, *unused)

    def cost(self, units: int, slowness: float = 1.0) -> float:
        """Nanoseconds of one of `units` equal parts, at a fraction of the full speed."""
        work = self.batch * self.m * self.n * max(self.k, 1) * _SIZES.get(self.dtype, 64)
        return work * slowness / _BYTES_PER_NANOSECOND / units


def plan_matmul(a: Operand, b: Operand, c: Operand) -> tuple[Launch, ...]:
    """The launches of C = A @ B; Ptr 0, 1, 2 are A, B, C.

    Shape: a (m, k) or (batch, m, k); b (k, n) or (batch, k, n); c (m, n) or (batch, m, n). Any strides on a and b,
        0 included; the rows of c are contiguous.
    DType: float32, float64, int8 to int64, uint8; the same for all three.
    Edge: sizes may be 0; k = 0 gives zeros; an empty c needs no launch.
    Raises: ValueError for shapes that do not fit, NotImplementedError for other dtypes.
    Cost: batch * m * n * k fused multiply-adds; at most 512 KiB of workspace, and scratch memory for a copy of an A of
        at most 32 MiB whose columns are contiguous.

    >>> square = Operand("float32", (64, 64), (64, 1))
    >>> [launch.function.__name__ for launch in plan_matmul(square, square, square)]
    ['gemm_panel_f32']
    """
    problem = checked(a, b, c)
    if problem.batch == 0 or problem.m == 0 or problem.n == 0:
        return ()
    if problem.dtype in _INTEGER_KERNELS:
        units = problem.batch * problem.m
        return (Launch(_INTEGER_KERNELS[problem.dtype], problem.slots(), units, problem.cost(units)),)
    if problem.dtype not in _FLOAT_KERNELS:
        raise NotImplementedError(f"matmul: there is no kernel for {problem.dtype}")
    return _plan_float(_simplified(problem))


def plan_distances(x: Operand, y: Operand, out: Operand) -> tuple[Launch, ...]:
    """The launch of the Euclidean distances of all rows of X and all rows of Y; Ptr 0, 1, 2 are X, Y, OUT.

    Shape: x (m, k) or (batch, m, k); y (n, k) or (batch, n, k); out (m, n) or (batch, m, n). Any strides on x and y;
        the rows of out are contiguous.
    DType: float32, float64; the same for all three.
    Edge: sizes may be 0; k = 0 gives zeros.
    Raises: ValueError for shapes that do not fit, NotImplementedError for other dtypes.
    Cost: batch * m * n * k differences and fused multiply-adds.
    """
    turned = [(*parts[:-2], parts[-1], parts[-2]) for parts in (y.shape, y.strides)]
    problem = checked(x, Operand(y.dtype, *turned), out)
    if problem.dtype not in _DISTANCE_KERNELS:
        raise NotImplementedError(f"distances: there is no kernel for {problem.dtype}")
    if problem.batch == 0 or problem.m == 0 or problem.n == 0:
        return ()
    # A distance is that from the other end, in every bit: a column may be computed as a row.
    launch = _plan_panels(_simplified(problem), NARROW)
    function = _DISTANCE_KERNELS[problem.dtype]
    return (replace(launch, function=function, unit_cost=2 * launch.unit_cost),)


def plan_matmul_relu(a: Operand, b: Operand, bias: Operand, out: Operand) -> tuple[Launch, ...]:
    """The launches of OUT = relu(A @ B + BIAS); Ptr 0 to 3 are A, B, BIAS, OUT.

    Shape: a (m, k), b (k, n), bias (n), out (m, n). Any strides on a and b; bias and the rows of out are contiguous.
    DType: float32, float64; the same for all.
    Edge: sizes may be 0.
    Raises: ValueError for shapes that do not fit or a bias that is not contiguous;
        NotImplementedError for other dtypes.
    Cost: m * n * k fused multiply-adds, m * n additions.
    """
    problem = checked(a, b, out)
    if bias.shape != (problem.n,) or not bias.contiguous or bias.dtype != out.dtype:
        raise ValueError(f"matmul_relu: the bias must be contiguous and like a row of the result, got {bias}")
    if problem.dtype not in _FLOAT_KERNELS or len(a.shape) != 2:
        raise NotImplementedError(f"matmul_relu: there is no kernel for {a} @ {b}")
    if problem.m == 0 or problem.n == 0:
        return ()
    *before, product = _plan_float(problem)
    along = (0, 3) if product.along else ()
    return (*before, replace(product, slots=_with_added(product), along=along))


def plan_matmul_mul(a: Operand, b: Operand, gate: Operand, out: Operand) -> tuple[Launch, ...]:
    """The launches of OUT = (A @ B) * GATE; Ptr 0 to 3 are A, B, GATE, OUT.

    Shape: a (m, k), b (k, n), gate and out (m, n). Any strides on a and b; gate and out are contiguous.
    DType: float32, float64; the same for all.
    Edge: sizes may be 0.
    Raises: ValueError for shapes that do not fit or a gate that is not contiguous;
        NotImplementedError for other dtypes.
    Cost: m * n * k fused multiply-adds, m * n multiplications.
    """
    return _plan_gated("matmul_mul", (a, b, gate, out), out.shape, MULTIPLIED)


def plan_matmul_mask(a: Operand, b: Operand, gate: Operand, out: Operand) -> tuple[Launch, ...]:
    """The launches of OUT = A @ B, but 0 where GATE <= 0; otherwise as `plan_matmul_mul`."""
    return _plan_gated("matmul_mask", (a, b, gate, out), out.shape, MASKED)


def plan_matmul_bias(a: Operand, b: Operand, bias: Operand, out: Operand) -> tuple[Launch, ...]:
    """The launches of OUT = A @ B + BIAS, a row of n; otherwise as `plan_matmul_mul`."""
    return _plan_gated("matmul_bias", (a, b, bias, out), out.shape[1:], MOVED)


def _plan_gated(name: str, operands: tuple[Operand, ...], shape: tuple[int, ...], use: int) -> tuple[Launch, ...]:
    a, b, gate, out = operands
    problem = checked(a, b, out)
    if not (gate.contiguous and out.contiguous) or gate.shape != shape or gate.dtype != out.dtype:
        raise ValueError(f"{name}: the third operand must be contiguous and like the result or a row of it, got {gate}")
    if problem.dtype not in _FLOAT_KERNELS or len(a.shape) != 2:
        raise NotImplementedError(f"{name}: there is no kernel for {a} @ {b}")
    if problem.m == 0 or problem.n == 0:
        return ()
    *before, product = _plan_tiles(problem)
    head, stride = product.slots[: kernels.GATE], problem.n if len(shape) == 2 else 0
    slots = (*head[: kernels.C], Ptr(3), *head[kernels.C + 1 :], Ptr(2), stride, use)
    along = (0, 2, 3) if stride else (0, 3)
    return (*before, replace(product, slots=slots, along=along if product.along else ()))


def _with_added(product: Launch) -> tuple[int | float | Ptr | Scratch, ...]:
    """The slots of a product to which Ptr(2) is added, so that Ptr(3) is the result."""
    slots = product.slots
    return (*slots[: kernels.C], Ptr(3), *slots[kernels.C + 1 : kernels.ADDED], Ptr(2), *slots[kernels.GATE :])


def panel_columns(dtype: str) -> int:
    """The columns of a panel that products of an element type are read in, on this machine."""
    return _columns(dtype, NARROW)


def _columns(dtype: str, tile: Tile) -> int:
    return tile.vectors * TARGET.vector_bytes // _SIZES[dtype]


def plan_pack_panels(b: Operand, panels: Operand, columns: int) -> tuple[Launch, ...]:
    """The launch that copies B into panels; Ptr 0 and 1 are B and the panels.

    Shape: b (k, n), panels (ceil(n / columns), k, columns). Any strides on b; the panels are contiguous.
    DType: float32, float64; the same for both.
    Raises: NotImplementedError for other dtypes, or columns that no product here reads.
    Cost: reads and writes each element once.
    """
    if b.dtype not in _PACKING_KERNELS or columns != panel_columns(b.dtype):
        raise NotImplementedError(f"pack_panels: there is no kernel for {columns} columns of {b.dtype}")
    k, n = b.shape
    if k == 0 or n == 0:
        return ()
    problem = Problem(b.dtype, 1, 1, n, k, (0, 0, 0), _strides(b), (0, 0, 0))
    slots = (Ptr(0), Ptr(0), Ptr(1), *problem.slots(kernels.DIRECT, _packing_of_b(problem))[3:])
    return (Launch(_PACKING_KERNELS[b.dtype], slots, -(-n // columns), 0.3 * k * columns),)


def plan_matmul_panels(a: Operand, panels: Operand, c: Operand) -> tuple[Launch, ...]:
    """The launch of C = A @ B with B as panels; Ptr 0, 1, 2 are A, the panels, C.

    Shape: a (m, k), panels (ceil(n / columns), k, columns), c (m, n). Any strides on a; panels and c are contiguous.
    DType: float32, float64; the same for all.
    Raises: ValueError for shapes that do not fit, NotImplementedError for other dtypes or columns.
    Cost: m * n * k fused multiply-adds.
    """
    (m, k), n, columns = a.shape, c.shape[1], panels.shape[2]
    if a.dtype not in _PACKING_KERNELS or columns != panel_columns(a.dtype):
        raise NotImplementedError(f"matmul_panels: there is no kernel for {columns} columns of {a.dtype}")
    if c.shape[0] != m or panels.shape[:2] != (-(-n // columns), k) or not (panels.contiguous and c.contiguous):
        raise ValueError(f"matmul_panels: the operands do not fit: {a} @ {panels} -> {c}")
    if m == 0 or n == 0:
        return ()
    # A panel after the other in memory: a column further is k elements on, at the first column of a panel.
    problem = Problem(a.dtype, 1, m, n, k, _strides(a), (0, columns, k), _strides(c))
    return (_plan_panels(problem, NARROW, in_panels=True),)


def checked(a: Operand, b: Operand, c: Operand, *, alike: bool = True) -> Problem:
    """The sizes and strides of C = A @ B.

    Raises: ValueError for shapes that do not fit, or types that are not `alike` and have to be.
    """
    if alike and not a.dtype == b.dtype == c.dtype:
        raise ValueError(f"matmul: the dtypes differ: {a.dtype} @ {b.dtype} -> {c.dtype}")
    if not len(a.shape) == len(b.shape) == len(c.shape) or len(a.shape) not in (2, 3):
        raise ValueError(f"matmul: the operands must be all 2-D or all 3-D, got {a.shape} @ {b.shape} -> {c.shape}")
    m, k = a.shape[-2:]
    n = b.shape[-1]
    batch = a.shape[:-2]
    if b.shape != (*batch, k, n) or c.shape != (*batch, m, n):
        raise ValueError(f"matmul: the shapes do not fit: {a.shape} @ {b.shape} -> {c.shape}")
    if n > 1 and c.strides[-1] != 1 and 0 not in c.shape:
        raise ValueError(f"matmul: the rows of the result must be contiguous, its strides are {c.strides}")
    return Problem(a.dtype, batch[0] if batch else 1, m, n, k, _strides(a), _strides(b), _strides(c))


def _strides(operand: Operand) -> tuple[int, int, int]:
    steps = [stride if size > 1 else 0 for size, stride in zip(operand.shape, operand.strides, strict=True)]
    return (0, steps[0], steps[1]) if len(steps) == 2 else (steps[0], steps[1], steps[2])


def _simplified(problem: Problem) -> Problem:
    """The same product with the batch folded into rows where memory allows, and a column turned into a row."""
    p = problem
    if p.batch > 1 and p.b[0] == 0 and (p.m == 1 or p.a[0] == p.m * p.a[1]) and (p.m == 1 or p.c[0] == p.m * p.c[1]):
        a_row, c_row = (p.a[0], p.c[0]) if p.m == 1 else (p.a[1], p.c[1])
        p = replace(p, batch=1, m=p.batch * p.m, a=(0, a_row, p.a[2]), b=(0, *p.b[1:]), c=(0, c_row, p.c[2]))
    if p.n == 1 and p.m > 1 and p.c[1] == 1:
        a, b = (p.b[0], 0, p.b[1]), (p.a[0], p.a[2], p.a[1])
        p = replace(p, m=1, n=p.m, a=a, b=b, c=(p.c[0], 0, 1), swapped=not p.swapped)
    return p


def _plan_float(p: Problem) -> tuple[Launch, ...]:
    functions = _FLOAT_KERNELS[p.dtype]
    width = TARGET.vector_bytes // _SIZES[p.dtype]
    rows_of_b, columns_of_b = _ways_of_b(p)
    if p.m == 1 and rows_of_b:
        units = p.batch * -(-p.n // (THIN_VECTORS * width))
        return (Launch(functions["thin"], p.slots(), units, p.cost(units, 3.0)),)
    if p.m <= DOT_ROWS and columns_of_b:
        way, columns = _way_of_dots(p, width)
        units = p.batch * -(-p.n // columns)
        slots = p.slots(kernels.DIRECT, kernels.DIRECT, p.m, p.k, columns)
        return (Launch(functions[way], slots, units, p.cost(units, 5.0 if p.m == 1 else 2.5)),)
    return _plan_tiles(p)


def _way_of_dots(p: Problem, width: int) -> tuple[str, int]:
    """The kernel for few rows against contiguous columns, and how many columns are a unit."""
    size = _SIZES[p.dtype]
    pages = p.b[2] * size % _PAGE_BYTES == 0
    if p.m > 1 or (p.a[2] != 1 and p.k > 1) or p.n < width * ROW_VECTORS:
        return "dots", width
    if p.n * p.k * size >= _LINES_BYTES:
        return ("pages", width) if pages else ("lines", width * ROW_VECTORS)
    return "dots", width if pages else width * ROW_VECTORS


def _plan_tiles(p: Problem) -> tuple[Launch, ...]:
    """Panels of B, before which A is packed for all units, unless one block has all panels and so packs it but once."""
    packs_a = _packing_of_a(p) == kernels.COPY
    small = p.m * p.k * _SIZES[p.dtype] <= _STRIP_BYTES and p.n > _GROUP * panel_columns(p.dtype)
    strips = p.batch == 1 and small and packs_a
    return _plan_strips(p) if strips else (_plan_panels(p, NARROW if packs_a else _tile_of(p)),)


def _tile_of(p: Problem) -> Tile:
    """The tile that takes less time for a row of panels, if rows are many."""
    if not _WIDE or p.m < _WIDE_ROWS or p.m * p.n * p.k < _WIDE_STEPS:
        return NARROW
    return WIDE if _WIDE_COST * _row_cost(p, WIDE) < _row_cost(p, NARROW) else NARROW


def _row_cost(p: Problem, tile: Tile) -> float:
    """The columns that are computed, those of a panel that is not whole, whose vectors are masked, for more."""
    columns = _columns(p.dtype, tile)
    whole = p.n // columns * columns
    return whole + _EDGE_COST * _round_up(p.n - whole, columns // 2)


def _ways_of_b(p: Problem) -> tuple[bool, bool]:
    """Whether the rows of B are contiguous, and whether its columns are."""
    return p.b[2] == 1 or p.n == 1, p.b[1] == 1 or p.k <= 1


def _packing_of_b(p: Problem) -> int:
    """How B is packed if it is."""
    rows_of_b, columns_of_b = _ways_of_b(p)
    return kernels.COPY if rows_of_b else kernels.TRANSPOSE if columns_of_b else kernels.GATHER


def _packing_of_a(p: Problem) -> int:
    """How A is packed, if that is worth it: its columns, which are read again for each panel of B."""
    panels = -(-p.n // panel_columns(p.dtype))
    if p.a[1] != 1 or p.k <= 1:
        return kernels.DIRECT
    return kernels.COPY if worth_packing(p.k * p.a[2] * _SIZES[p.dtype], panels) else kernels.DIRECT


def _plan_strips(p: Problem) -> tuple[Launch, Launch]:
    """A is packed once for all units."""
    size, together = _SIZES[p.dtype], kernels.strip_rows(_SIZES[p.dtype])
    down, along = kernels.strip_strides(p.k)
    units = -(-p.m // together)
    # Strips that are packed together are all written, and of each the last vector.
    room = Scratch(units * together * down * size + TARGET.vector_bytes)
    left = p.slots()[: kernels.B]
    slots = (*left, Ptr(1), room, *p.slots()[kernels.M :])
    pack = Launch(_STRIP_KERNELS[p.dtype], slots, units, 0.3 * together * p.k)
    panels = _plan_panels(replace(p, a=(0, down, along)), NARROW, a_mode=kernels.STRIPS)
    return pack, replace(panels, slots=(room, *panels.slots[kernels.B :]))


def _plan_panels(p: Problem, tile: Tile, *, a_mode: int | None = None, in_panels: bool = False) -> Launch:
    size = _SIZES[p.dtype]
    columns = _columns(p.dtype, tile)
    panels = -(-p.n // columns)
    rows = _rows_of_unit(p, p.batch * panels * tile.vectors // NARROW.vectors)
    b_mode = kernels.DIRECT if in_panels else _packing_of_b(p)
    if b_mode == kernels.COPY and not worth_packing(p.k * p.b[1] * size, -(-rows // tile.rows)):
        b_mode = kernels.DIRECT
    if a_mode is None:
        a_mode = _packing_of_a(p)
    # A large B had better not be read again for the sake of a finer split.
    if b_mode == kernels.DIRECT and a_mode == kernels.DIRECT and (p.k * p.n * size <= _IN_PLACE_BYTES or panels == 1):
        rows = min(rows, _few_rows(p.m))
    is_wide = not in_panels and _reads_widely(p)
    b_mode = kernels.COPY if is_wide else b_mode
    run, group, height = _block(p, tile, a_mode == kernels.COPY, b_mode != kernels.DIRECT, rows)
    if is_wide and a_mode != kernels.COPY:
        group = _equal_parts(panels, _WIDE_GROUP)
        run = max(_equal_parts(p.k, kernels.BLOCK_BYTES // (group * columns * size)), 1)
    parts = -(-p.m // rows)
    each = 1 if a_mode == kernels.COPY and group >= panels else panels
    units = p.batch * parts * each
    # In shorter products a fine split between threads gains more than what is packed together.
    grain = group if b_mode != kernels.DIRECT and each > 1 and (_is_far(p) or is_wide) else 1
    slowness = 1.0 + max(0, columns // 2 - p.n) / p.n + (4.0 if b_mode == kernels.GATHER else 0.0)
    slots = p.slots(a_mode, b_mode, rows, run, group, height)
    function, unit_cost = _PANEL_KERNELS[p.dtype, tile], p.cost(units, slowness)
    if p.swapped or p.m % rows:
        return Launch(function, slots, units, unit_cost, grain=grain)
    if p.batch > 1 and p.b[0]:
        # All rows of C of one batch need the whole of its B.
        return Launch(function, slots, units, unit_cost, parts=p.batch, along=(0, 1, 2), grain=grain, loose=True)
    return Launch(function, slots, units, unit_cost, parts=p.batch * parts, along=(0, 2), grain=grain)


def _is_far(p: Problem) -> bool:
    """Whether the second cache does not hold the result until it is needed again."""
    size = _SIZES[p.dtype]
    several_runs = p.k * panel_columns(p.dtype) * size > _RUN_BYTES
    return p.m * p.n * size >= (_RESULT_BYTES if several_runs else 2 * _RESULT_BYTES)


def _reads_widely(p: Problem) -> bool:
    """Whether rows of B had better be packed many panels at a time, a few at once, as few rows of A meet much of them:
    a panel has but a piece of each, and what the CPU brings of the next one is gone when it is due.
    """
    if p.m == 1 or p.m > _FEW_ROWS or _packing_of_b(p) != kernels.COPY:
        return False
    return p.k * p.b[1] * _SIZES[p.dtype] >= _SPREAD_BYTES[p.m > NARROW.rows]


def worth_packing(span: int, times: int) -> bool:
    """Whether an operand that takes up `span` bytes, with gaps, is packed to be read so many times."""
    return abs(span) * (times - 1) > _IN_PLACE_BYTES


def _block(p: Problem, tile: Tile, packs_a: bool, packs_b: bool, rows: int) -> tuple[int, int, int]:
    """Steps of k, panels of B and rows of A that are gone through together, so that what is packed fits."""
    size, columns = _SIZES[p.dtype], _columns(p.dtype, tile)
    panels = -(-p.n // columns)
    # Strips that are packed together are all written.
    height = _round_up(min(_HEIGHT * 4 // size, rows), kernels.strip_rows(size)) if packs_a else 0
    group = panels
    is_far = _is_far(p)
    block = (kernels.FAR_BLOCK_BYTES if is_far else kernels.BLOCK_BYTES) // size
    least = _GROUP * NARROW.vectors // tile.vectors
    if packs_b:
        room = ((block - 2 * height) // _LEAST_RUN - height) // columns
        wanted = block if is_far else _GROUP_BYTES // size
        most = _WIDE_GROUP if packs_a else max(least, wanted // (max(p.k, 1) * columns))
        group = _equal_parts(panels, min(room, most))
    wide = (columns * group if packs_b else 0) + height
    longest = (block - 2 * height) // wide if wide else max(p.k, 1)
    if packs_b and not is_far:
        longest = min(longest, (_RUN_BYTES if tile == NARROW else _WIDE_RUN_BYTES) // (columns * size))
    run = max(_equal_parts(p.k, longest), 1)
    if not packs_a:
        fitting = (_FAR_HEIGHT_BYTES if is_far else _HEIGHT_BYTES) // (run * size) // tile.rows * tile.rows
        stays = is_far or run * columns * size <= _PANEL_BYTES
        height = min(rows, max(fitting, tile.rows)) if stays and rows * (run + p.n) * size >= _SLAB_BYTES else rows
    return run, group, height


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _equal_parts(whole: int, most: int) -> int:
    """The size of the fewest equal parts, none larger than `most`."""
    return -(-whole // max(1, -(-whole // most)))


def _rows_of_unit(p: Problem, panels: int) -> int:
    """Rows of C in a unit: enough units for an even split, whole tiles, and no needless packing again.

    Where B is small beside A and C, it is packed for each half of the rows: neighbouring operations split by rows, too,
    so a thread finds its rows of A in its own caches and leaves those of C there.
    """
    least = 2 if p.m * (p.k + p.n) > _TALL * p.k * p.n else 1
    most = max(p.m // (8 * NARROW.rows), min(2, p.m // (4 * NARROW.rows)))
    parts = max(1, min(max(-(-_UNITS // panels), least), most))
    return _round_up(-(-p.m // parts), NARROW.rows)


def _few_rows(m: int) -> int:
    """Rows of C in a unit where nothing is packed: equal parts of at least two tiles, which cost next to nothing, else
    halves, so that threads can part them.
    """
    whole = [parts for parts in (4, 2) if m % parts == 0 and m // parts >= 2 * NARROW.rows]
    return m // (whole[0] if whole else 2 if m % 2 == 0 and m >= NARROW.rows else 1)
