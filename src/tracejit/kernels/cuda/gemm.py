"""Matrix products on a GPU: a block does a tile of the result, through shared memory.

Each element is one chain of fused multiply-adds along k, in ascending order from 0, as on the CPU: the same bits.
"""

from __future__ import annotations

import functools

from tracejit.dtypes import BY_NAME
from tracejit.kernels.cuda.launch import GpuLaunch
from tracejit.kernels.launch import Operand, Ptr

TILE, STEPS, THREADS = 64, 16, 256
"""Rows and columns of a tile, steps of k that are in shared memory at once, threads of a block."""
_SIDE, _EACH = 16, 4
"""Threads along a tile's side, and adjacent rows and columns of each."""
_PITCH = TILE + 4
"""Elements of shared memory from one step of k to the next: whole vectors, and other banks for threads along k."""
_FLOATS = {"f32": 4, "f64": 8}
_INTEGERS: dict[str, int] = {"i8": 1, "i16": 2, "i32": 4, "i64": 8, "u8": 1}
"""Element types and their bytes."""


def _number(short: str, text: str) -> str:
    """A number as an element of a type."""
    return f"{ {'f': 'float', 'i': 'int', 'u': 'uint'}[short[0]] }{short[1:]}({text})"


def _fill(short: str, matrix: str, scope: int, along: tuple[str, str, str], across: tuple[str, str, str]) -> list[str]:
    """Lines that copy a tile of a matrix; `along` k and `across` are each its stride, where it begins and its end.

    Threads that are neighbours read neighbours in memory, whichever way round the matrix lies.
    """
    zero = _number(short, "0")
    k_stride, k_first, k_end = along
    stride, first, end = across
    return [
        f"for e in range({TILE * STEPS // THREADS}):",
        "    unrolled()",
        f"    i = t // {STEPS} + e * {THREADS // STEPS}",
        f"    s = t % {STEPS}",
        f"    if {stride} == 1:",
        f"        i = t % {TILE}",
        f"        s = t // {TILE} + e * {THREADS // TILE}",
        # What lies beyond is 0, of which nothing comes into a result that is kept.
        f"    v = {zero}",
        f"    if {first} + i < {end} and {k_first} + s < {k_end}:",
        f"        v = load_{short}_g({matrix}, {matrix}_at + ({first} + i) * {stride} + ({k_first} + s) * {k_stride},"
        f" {scope}, 5)",
        f"    store_{short}_b({matrix}_tile, s * {_PITCH} + i, v, {scope + 3}, 5)",
    ]


def _steps(short: str, count: str, *, unrolled: bool) -> list[str]:
    """Lines that go on with a thread's chains."""
    lines = [f"for s in range({count}):", "    unrolled()" if unrolled else "    rolled()"]
    for i in range(_EACH):
        lines.append(f"    a{i} = load_{short}_b(a_tile, s * {_PITCH} + y * {_EACH} + {i}, 3, 5)")
        lines.append(f"    b{i} = load_{short}_b(b_tile, s * {_PITCH} + x * {_EACH} + {i}, 4, 5)")
    for i in range(_EACH):
        for j in range(_EACH):
            chain = f"fma_{short}(a{i}, b{j}, c{i}{j})" if short in _FLOATS else f"c{i}{j} + a{i} * b{j}"
            lines.append(f"    c{i}{j} = {chain}")
    return lines


@functools.cache
def _text(short: str, adding: bool) -> tuple[str, str]:
    """Name and text of a product, or of a product that is added to something.

    Slots: A, B, C, what is added, rows, columns, k, strips of tiles across and down, strides of A and B (batch, row,
    column), of C (batch, row).
    """
    name = f"cuda_matmul_{'add_' if adding else ''}{short}"
    size = (_FLOATS | _INTEGERS)[short]
    words = _PITCH * STEPS * size // 8
    lines = [
        "a, b, c, d = load_arg(p, 0), load_arg(p, 1), load_arg(p, 2), load_arg(p, 3)",
        "m, n, k = load_arg(p, 4), load_arg(p, 5), load_arg(p, 6)",
        "across, down = load_arg(p, 7), load_arg(p, 8)",
        "a_batch, a_row, a_column = load_arg(p, 9), load_arg(p, 10), load_arg(p, 11)",
        "b_batch, b_row, b_column = load_arg(p, 12), load_arg(p, 13), load_arg(p, 14)",
        "c_batch, c_row = load_arg(p, 15), load_arg(p, 16)",
        f"a_tile, b_tile = shared(0, {words}), shared(1, {words})",
        "w = lo",
        "if w >= hi:",
        "    return 0",
        "q = w // across",
        f"left = (w - q * across) * {TILE}",
        "batch = q // down",
        f"top = (q - batch * down) * {TILE}",
        "a_at, b_at = batch * a_batch, batch * b_batch",
        "t = thread()",
        f"x, y = t % {_SIDE}, t // {_SIDE}",
    ]
    zero = _number(short if short in _FLOATS else "i64", "0")
    lines += [f"c{i}{j} = {zero}" for i in range(_EACH) for j in range(_EACH)]
    loop = [*_fill(short, "a", 0, ("a_column", "begin", "k"), ("a_row", "top", "m"))]
    loop += _fill(short, "b", 1, ("b_row", "begin", "k"), ("b_column", "left", "n"))
    loop += ["barrier()", f"if begin + {STEPS} <= k:"]
    loop += [f"    {line}" for line in _steps(short, str(STEPS), unrolled=True)]
    loop += ["else:", *(f"    {line}" for line in _steps(short, "k - begin", unrolled=False)), "barrier()"]
    lines += [f"for begin in range(0, k, {STEPS}):", "    rolled()", *(f"    {line}" for line in loop)]
    for i in range(_EACH):
        for j in range(_EACH):
            row, column = f"top + y * {_EACH} + {i}", f"left + x * {_EACH} + {j}"
            value = _number(short, f"c{i}{j}")
            lines += [f"if {row} < m and {column} < n:", f"    at = batch * c_batch + ({row}) * c_row + {column}"]
            if adding:
                lines.append(f"    store_{short}_g(c, at, load_{short}_g(d, at, 2, 5) + {value}, 2, 5)")
            else:
                lines.append(f"    store_{short}_g(c, at, {value}, 2, 5)")
    body = "\n".join(f"    {line}" for line in lines)
    return name, f"def {name}(p, lo, hi):\n{body}\n    return 0\n"


def _strides(operand: Operand) -> tuple[int, ...]:
    return operand.strides if len(operand.shape) == 3 else (0, *operand.strides)


def _product(a: Operand, b: Operand, c: Operand, pointers: tuple[Ptr, ...], adding: bool) -> tuple[GpuLaunch, ...]:
    short = BY_NAME[a.dtype].short
    if short not in _FLOATS | _INTEGERS:
        raise NotImplementedError(f"matmul: there is no GPU kernel for {a.dtype}")
    (m, n), k = c.shape[-2:], a.shape[-1]
    across, down = -(-n // TILE), -(-m // TILE)
    units = (c.shape[0] if len(c.shape) == 3 else 1) * across * down
    name, text = _text(short, adding)
    sizes = (m, n, k, across, down, *_strides(a), *_strides(b), *_strides(c)[:2])
    slots: tuple[int | float | Ptr, ...] = (*pointers, *sizes)
    return (GpuLaunch(name, text, slots, units, units, THREADS),)


def launch_matmul(a: Operand, b: Operand, c: Operand) -> tuple[GpuLaunch, ...]:
    """The launch of C = A @ B; shapes as for the CPU's. Operands: A, B, C.

    DType: float32, float64, int8 to int64, uint8.
    """
    return _product(a, b, c, (Ptr(0), Ptr(1), Ptr(2), Ptr(2)), False)


def launch_matmul_add(a: Operand, b: Operand, c: Operand, out: Operand) -> tuple[GpuLaunch, ...]:
    """The launch of OUT = C + A @ B, where C may be OUT. Operands: A, B, C, OUT."""
    return _product(a, b, out, (Ptr(0), Ptr(1), Ptr(3), Ptr(2)), True)
