"""Trial kernels that are bound by memory: chains, a transposed sum, column sums, a whole sum, Adam.

Each function gives a `Kernel` ready for `emit.ptx_of`; its docstring says how it is launched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from benchmarks.gpu.emit import BYTES, F32, I64, VECTOR_BYTES, Kernel
from tracejit.kernels.vmath import exponential
from tracejit.kernels.vmath.expression import V

LOG2_E = 1.4426950408889634
TILE, TILE_ROWS = 32, 8
SUM_BLOCKS, SUM_THREADS = 1056, 256
COLUMN_THREADS = 256
ADAM_THREADS, ADAM_VECTORS = 256, 4


def hardware(k: Kernel, instruction: str, x: V) -> V:
    """One of the chip's approximate functions of a float32, lane by lane."""
    b = k.builder
    kind = ir.FunctionType(F32, [F32])
    lanes = [V(b, b.asm(kind, f"{instruction} $0, $1;", "=f,f", [lane.value], False)) for lane in k.lanes(x)]
    return lanes[0] if len(lanes) == 1 else k.join(lanes)


def chain_exact(k: Kernel, x: V, y: V) -> V:
    """exp(tanh(x y + 1) sigmoid(x) - y / 2) by tracejit's own formulas, operation by operation."""
    return exponential.exp(exponential.tanh(x * y + 1.0) * exponential.sigmoid(x) - y / 2.0)


def chain_hardware(k: Kernel, x: V, y: V) -> V:
    """The same by the chip's approximate tanh and exp2."""
    tanh = hardware(k, "tanh.approx.f32", x * y + 1.0)
    sigmoid = hardware(k, "tanh.approx.f32", x * 0.5) * 0.5 + 0.5
    return hardware(k, "ex2.approx.f32", (tanh * sigmoid - y * 0.5) * LOG2_E)


def triad(k: Kernel, x: V, y: V) -> V:
    """x + 3 y: memory and nothing else."""
    return x + y * 3.0


def copy(k: Kernel, x: V, y: V) -> V:
    """x, of which nothing but memory is asked."""
    return x


# x / y in float32 where 1 / y is normal and the quotient's remainder does not underflow: the chip's approximate
# reciprocal, a Newton step that rounds it correctly (the probe compares all significands), then Markstein's correction
# of the quotient. It spares the branch to the slow path that `div.rn` has for the other cases.
_QUICK = """
define internal float @divide_1(float %x, float %y) alwaysinline {
  %near = call float asm "rcp.approx.ftz.f32 $0, $1;", "=f,f"(float %y)
  %minus = fneg float %y
  %error = call float @llvm.fma.f32(float %minus, float %near, float 1.0)
  %inverse = call float @llvm.fma.f32(float %error, float %near, float %near)
  %quotient = fmul float %x, %inverse
  %rest = call float @llvm.fma.f32(float %minus, float %quotient, float %x)
  %result = call float @llvm.fma.f32(float %rest, float %inverse, float %quotient)
  ret float %result
}
"""
_FMA = "declare float @llvm.fma.f32(float, float, float)\n"
_DIVISION = re.compile(r"= fdiv (float|<(\d+) x float>) (<[^>]*>|\S+), (%\S+)")


def quick_divisions(text: str) -> str:
    """An LLVM text with every float32 division by a variable done as in `_QUICK`, in the same bits where that holds."""
    widths = set()

    def replace(found: re.Match[str]) -> str:
        ty, width = found[1], int(found[2] or 1)
        widths.add(width)
        return f"= call {ty} @divide_{width}({ty} {found[3]}, {ty} {found[4]})"

    text = _DIVISION.sub(replace, text)
    functions = [_QUICK]
    for width in sorted(widths - {1}):
        ty = f"<{width} x float>"
        lines = [f"define internal {ty} @divide_{width}({ty} %x, {ty} %y) alwaysinline {{"]
        for k in range(width):
            before = "undef" if k == 0 else f"%v{k - 1}"
            lines += [
                f"  %x{k} = extractelement {ty} %x, i32 {k}",
                f"  %y{k} = extractelement {ty} %y, i32 {k}",
                f"  %q{k} = call float @divide_1(float %x{k}, float %y{k})",
                f"  %v{k} = insertelement {ty} {before}, float %q{k}, i32 {k}",
            ]
        functions.append("\n".join([*lines, f"  ret {ty} %v{width - 1}", "}", ""]))
    declared = '@"llvm.fma.f32"' in text
    return "".join([text, "" if declared else _FMA, *functions])


def elementwise(
    name: str,
    formula: Callable[[Kernel, V, V], V],
    *,
    ty: Any = F32,
    lanes: int = 4,
    vectors: int = 1,
    threads: int = 256,
    early: bool = False,
) -> Kernel:
    """out = formula(x, y) over n vectors of `lanes`; a grid of ceil(n / (threads vectors)) blocks.

    Parameters: x, y, out, n (in vectors). All loads of a thread come before its first use.
    `early` lets the next launch begin before this one is done, and waits for the one before (compute capability 9.0).
    """
    k = Kernel(name, [("x", None), ("y", None), ("out", None), ("n", I64)], threads)
    b = k.builder
    if early:
        k.statement("griddepcontrol.launch_dependents;")
        k.statement("griddepcontrol.wait;")
    first = b.add(b.mul(k.block(), I64(threads * vectors)), k.thread())
    last = b.add(first, I64((vectors - 1) * threads))
    count = k.argument("n")

    def done(indices: list[Any]) -> None:
        x = [k.load(k.argument("x"), i, ty, lanes) for i in indices]
        y = [k.load(k.argument("y"), i, ty, lanes) for i in indices]
        for i, a, c in zip(indices, x, y, strict=True):
            k.store(k.argument("out"), i, formula(k, a, c), ty)

    indices = [b.add(first, I64(v * threads)) for v in range(vectors)]
    with b.if_else(b.icmp_signed("<", last, count)) as (whole, part):
        with whole:
            done(indices)
        with part:
            for i in indices:
                with k.when(b.icmp_signed("<", i, count)):
                    done([i])
    return k


def lanes_of(ty: Any) -> int:
    """Elements of a type in a 16-byte vector."""
    return VECTOR_BYTES // BYTES[ty]


def transposed_sum(name: str) -> Kernel:
    """out = a + a.T / 2 for a square matrix of `n` rows, a multiple of 32; a grid of (n / 32, n / 32) blocks.

    Parameters: a, out, n. Blocks of 256 threads; the tile across the diagonal is turned in shared memory.
    """
    k = Kernel(name, [("a", None), ("out", None), ("n", I64)], TILE * TILE_ROWS)
    b = k.builder
    thread, n = k.thread(), k.argument("n")
    column, row = b.and_(thread, I64(TILE - 1)), b.lshr(thread, I64(5))
    left, top = b.mul(k.block(), I64(TILE)), b.mul(k.block_y(), I64(TILE))
    tile = k.shared(F32, TILE * (TILE + 1))
    straight = []
    for step in range(0, TILE, TILE_ROWS):
        r = b.add(row, I64(step))
        across = k.load(k.argument("a"), b.add(b.mul(b.add(left, r), n), b.add(top, column)))
        straight.append(k.load(k.argument("a"), b.add(b.mul(b.add(top, r), n), b.add(left, column))))
        k.store(tile, b.add(b.mul(r, I64(TILE + 1)), column), across)
    k.barrier()
    for step, value in zip(range(0, TILE, TILE_ROWS), straight, strict=True):
        r = b.add(row, I64(step))
        turned = k.load(tile, b.add(b.mul(column, I64(TILE + 1)), r))
        k.store(k.argument("out"), b.add(b.mul(b.add(top, r), n), b.add(left, column)), value + turned * 0.5)
    return k


def transposed_pair(name: str) -> Kernel:
    """`transposed_sum` with each pair of tiles across the diagonal read once, by one block. The same launch."""
    k = Kernel(name, [("a", None), ("out", None), ("n", I64)], TILE * TILE_ROWS)
    b = k.builder
    thread, n = k.thread(), k.argument("n")
    column, row = b.and_(thread, I64(TILE - 1)), b.lshr(thread, I64(5))
    with k.when(b.icmp_signed("<=", k.block(), k.block_y())):
        left, top = b.mul(k.block(), I64(TILE)), b.mul(k.block_y(), I64(TILE))
        corners = ((top, left), (left, top))
        steps = range(0, TILE, TILE_ROWS)
        values: list[list[V]] = []
        tiles = [k.shared(F32, TILE * (TILE + 1)) for _ in corners]
        places = [[b.add(b.mul(b.add(down, b.add(row, I64(s))), n), b.add(over, column)) for s in steps]
                  for down, over in corners]  # fmt: skip
        for at in places:
            values.append([k.load(k.argument("a"), index) for index in at])
        for tile, found in zip(tiles, values, strict=True):
            for s, value in zip(steps, found, strict=True):
                k.store(tile, b.add(b.mul(b.add(row, I64(s)), I64(TILE + 1)), column), value)
        k.barrier()
        for at, other, found in zip(places, reversed(tiles), values, strict=True):
            for s, index, value in zip(steps, at, found, strict=True):
                turned = k.load(other, b.add(b.mul(column, I64(TILE + 1)), b.add(row, I64(s))))
                k.store(k.argument("out"), index, value + turned * 0.5)
    return k


def column_parts(name: str, rows: int) -> Kernel:
    """Sums of `rows` rows of a matrix with 1024 columns: parts[block] in the order of the rows.

    Parameters: a, parts. A grid of (all rows / rows) blocks; a thread sums four neighbouring columns.
    """
    k = Kernel(name, [("a", None), ("parts", None)], COLUMN_THREADS)
    b = k.builder
    thread, together = k.thread(), 8
    start = b.add(b.mul(k.block(), I64(rows * COLUMN_THREADS)), thread)
    stop = b.add(start, I64(rows * COLUMN_THREADS))

    def several(index: Any, sums: list[V]) -> list[V]:
        loaded = [k.load(k.argument("a"), b.add(index, I64(j * COLUMN_THREADS)), F32, 4) for j in range(together)]
        total = sums[0]
        for value in loaded:
            total = total + value
        return [total]

    (total,) = k.loop(start, stop, I64(together * COLUMN_THREADS), [k.zero(4)], several)
    k.store(k.argument("parts"), b.add(b.mul(k.block(), I64(COLUMN_THREADS)), thread), total)
    return k


def column_combine(name: str, parts: int) -> Kernel:
    """out[c] = the sum of parts[p][c] for 1024 columns, always in one order; a grid of 32 blocks.

    Parameters: parts, out. Eight warps of a block take every eighth part, and their sums are added in order.
    """
    k = Kernel(name, [("parts", None), ("out", None)], 256)
    b = k.builder
    thread = k.thread()
    lane, warp = b.and_(thread, I64(31)), b.lshr(thread, I64(5))
    column = b.add(b.mul(k.block(), I64(32)), lane)
    scratch = k.shared(F32, 256)

    def one(index: Any, sums: list[V]) -> list[V]:
        return [sums[0] + k.load(k.argument("parts"), b.add(b.mul(index, I64(1024)), column))]

    (total,) = k.loop(warp, I64(parts), I64(8), [k.zero()], one)
    k.store(scratch, thread, total)
    k.barrier()
    with k.when(b.icmp_signed("<", thread, I64(32))):
        whole = k.load(scratch, lane)
        for other in range(1, 8):
            whole = whole + k.load(scratch, b.add(lane, I64(32 * other)))
        k.store(k.argument("out"), column, whole)
    return k


def add(x: V, y: V) -> V:
    """x + y."""
    return x + y


def maximum(x: V, y: V) -> V:
    """The greater of two."""
    return (x > y).where(x, y)


def fold_lanes(k: Kernel, value: V, combine: Callable[[V, V], V]) -> V:
    """The lanes of a vector combined in pairs."""
    parts = k.lanes(value)
    while len(parts) > 1:
        parts = [combine(a, c) for a, c in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def sum_parts(name: str) -> Kernel:
    """parts[block] = the sum of its share of x, n vectors of 4; a grid of SUM_BLOCKS blocks whatever the device.

    Parameters: x, parts, n.
    """
    k = Kernel(name, [("x", None), ("parts", None), ("n", I64)], SUM_THREADS)
    b = k.builder
    stride, together = SUM_BLOCKS * SUM_THREADS, 4
    scratch = k.shared(F32, SUM_THREADS // 32)
    start = b.add(b.mul(k.block(), I64(SUM_THREADS)), k.thread())
    n = k.argument("n")

    def several(index: Any, sums: list[V]) -> list[V]:
        loaded = [k.load(k.argument("x"), b.add(index, I64(j * stride)), F32, 4) for j in range(together)]
        return [s + value for s, value in zip(sums, loaded, strict=True)]

    whole = b.mul(b.sdiv(n, I64(together * stride)), I64(together * stride))
    sums = k.loop(start, b.add(start, whole), I64(together * stride), [k.zero(4)] * together, several)

    def rest(index: Any, state: list[V]) -> list[V]:
        return [state[0] + k.load(k.argument("x"), index, F32, 4)]

    (sums[0],) = k.loop(b.add(start, whole), n, I64(stride), [sums[0]], rest)
    total = fold_lanes(k, (sums[0] + sums[1]) + (sums[2] + sums[3]), add)
    total = k.fold_block(total, add, scratch)
    with k.when(b.icmp_signed("==", k.thread(), I64(0))):
        k.store(k.argument("parts"), k.block(), total)
    return k


def sum_combine(name: str) -> Kernel:
    """out[0] = the sum of the SUM_BLOCKS parts; one block. Parameters: parts, out."""
    k = Kernel(name, [("parts", None), ("out", None)], SUM_THREADS)
    b = k.builder
    scratch = k.shared(F32, SUM_THREADS // 32)

    def one(index: Any, sums: list[V]) -> list[V]:
        return [sums[0] + k.load(k.argument("parts"), index)]

    (total,) = k.loop(k.thread(), I64(SUM_BLOCKS), I64(SUM_THREADS), [k.zero()], one)
    total = k.fold_block(total, add, scratch)
    with k.when(b.icmp_signed("==", k.thread(), I64(0))):
        k.store(k.argument("out"), I64(0), total)
    return k


def adam(name: str) -> Kernel:
    """A step of Adam over all tensors in one launch; block c works on chunk c of 4096 elements.

    Parameters: chunks ([c] = address of parameter, gradient, both moments at the chunk, number of elements; int64 x 5),
    scalars (float32: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), beta1, beta2, epsilon), in device memory, so that
    a captured launch can see new ones.
    """
    k = Kernel(name, [("chunks", None), ("scalars", None)], ADAM_THREADS)
    b = k.builder
    base = b.mul(k.block(), I64(5))
    words = [k.load(k.argument("chunks"), b.add(base, I64(j)), I64).value for j in range(5)]
    p, g, m, v = (b.inttoptr(word, k.argument("chunks").type) for word in words[:4])
    rate, root, beta1, beta2, epsilon = (k.load(k.argument("scalars"), I64(j)) for j in range(5))

    def update(index: Any, lanes: int) -> None:
        def wide(x: V) -> V:
            return k.join([x] * lanes) if lanes > 1 else x

        old_p, grad, old_m, old_v = (k.load(buffer, index, F32, lanes) for buffer in (p, g, m, v))
        new_m = old_m * wide(beta1) + grad * wide(beta1.const(1.0) - beta1)
        new_v = old_v * wide(beta2) + grad * grad * wide(beta2.const(1.0) - beta2)
        new_p = old_p - wide(rate) * new_m / (new_v.sqrt() * wide(root) + wide(epsilon))
        for buffer, value in ((p, new_p), (m, new_m), (v, new_v)):
            k.store(buffer, index, value)

    vectors = b.lshr(words[4], I64(2))

    def one(index: Any, state: list[V]) -> list[V]:
        update(index, 4)
        return state

    k.loop(k.thread(), vectors, I64(ADAM_THREADS), [], one)
    rest = b.add(b.shl(vectors, I64(2)), k.thread())
    with k.when(b.icmp_signed("<", rest, words[4])):
        update(rest, 1)
    return k
