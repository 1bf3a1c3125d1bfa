"""Trial kernels that compute one operation an element, to compare their bits with the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu.emit import F32, F64, I32, I64, Kernel
from tracejit.kernels import philox
from tracejit.kernels.vmath import exponential, logarithm
from tracejit.kernels.vmath.expression import V

THREADS = 256
TYPES: dict[str, Any] = {"f32": F32, "f64": F64}
FORMULAS: dict[str, Callable[[V, V], V]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "sqrt": lambda x, y: x.sqrt(),
    "multiply then add": lambda x, y: x * y + x,
    "exp": lambda x, y: exponential.exp(x),
    "tanh": lambda x, y: exponential.tanh(x),
    "sigmoid": lambda x, y: exponential.sigmoid(x),
    "log": lambda x, y: logarithm.log(x),
}


def pointwise(name: str, formula: Callable[[V, V], V], ty: Any) -> Kernel:
    """out = formula(x, y), an element a thread. Parameters: x, y, out, n."""
    k = Kernel(name, [("x", None), ("y", None), ("out", None), ("n", I64)], THREADS)
    b = k.builder
    index = b.add(b.mul(k.block(), I64(THREADS)), k.thread())
    with k.when(b.icmp_signed("<", index, k.argument("n"))):
        x, y = (k.load(k.argument(label), index, ty) for label in ("x", "y"))
        k.store(k.argument("out"), index, formula(x, y), ty)
    return k


def philox_words(name: str) -> Kernel:
    """out[i] = word 0 of Philox block (seed, offset, i), as int32. Parameters: out, seed, offset, n."""
    k = Kernel(name, [("out", None), ("seed", I64), ("offset", I64), ("n", I64)], THREADS)
    b = k.builder
    index = b.add(b.mul(k.block(), I64(THREADS)), k.thread())
    with k.when(b.icmp_signed("<", index, k.argument("n"))):
        # The same emission as the CPU's kernels.
        word = philox._philox(b, k.argument("seed"), k.argument("offset"), index)[0]
        k.store(k.argument("out"), index, V(b, b.trunc(word, I32)), I32)
    return k
