"""Elementary functions for kernels: branch-free straight-line code (but for remainders of float64, which take as many
steps as they need), one definition for eager and compiled.

In: scalars of a kernel. Out: the same bits in every lane, tail, thread and target with a correct fma.
Each name is a numba intrinsic that emits its formula as LLVM code, so loops that call it vectorise.
Knows nothing of arrays, tensors or graphs. Measured errors: docs/numerics.md.

>>> import numba
>>> @numba.njit
... def call(x):
...     return exp2_f64(x)
>>> call(10.0)
1024.0
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from tracejit.kernels.vmath import division, exponential, inverse, logarithm, special, trigonometric
from tracejit.kernels.vmath.expression import V
from tracejit.kernels.vmath.strips import replace_by

_TYPES: dict[str, Any] = {"f32": types.float32, "f64": types.float64}


def _require(name: str, expected: Any, *given: Any) -> None:
    if any(ty != expected for ty in given):
        raise TypingError(f"{name} takes {expected} only, got {', '.join(map(str, given))}")


def _define(formula: Callable[..., V], suffix: str, arity: int) -> Any:
    ty = _TYPES[suffix]
    name = f"{formula.__name__}_{suffix}"

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return formula(*(V(builder, arg) for arg in args)).value

    def one(typingctx: Any, x: Any) -> Any:
        _require(name, ty, x)
        return ty(ty), codegen

    def two(typingctx: Any, x: Any, y: Any) -> Any:
        _require(name, ty, x, y)
        return ty(ty, ty), codegen

    def three(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
        _require(name, ty, x, y, z)
        return ty(ty, ty, ty), codegen

    typed = (one, two, three)[arity - 1]
    typed.__name__ = typed.__qualname__ = name
    typed.__doc__ = f"{formula.__doc__} DType: {ty} only."
    return intrinsic(typed)


def _define_strip(formula: Callable[..., V], suffix: str) -> Any:
    name = f"{formula.__name__}_strip_{suffix}"
    kind, size = (ir.FloatType(), 4) if suffix == "f32" else (ir.DoubleType(), 8)
    write = partial(replace_by, formula, name, kind, size)

    def strip(typingctx: Any, address: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            write(builder, args)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    strip.__name__ = strip.__qualname__ = name
    strip.__doc__ = (
        f"Replaces `count` adjacent {_TYPES[suffix]} from `address` on by their {formula.__name__}, and all of their "
        f"last 64 bytes with them, which must be memory for the kernel to write."
    )
    return intrinsic(strip)


def rsqrt(x: V) -> V:
    """1 / sqrt(x), both rounded correctly."""
    return 1.0 / x.sqrt()


def sqrt(x: V) -> V:
    """Correctly rounded square root."""
    return x.sqrt()


def fma(x: V, y: V, z: V) -> V:
    """x * y + z, rounded once."""
    return x.fma(y, z)


exp_f32, exp_f64 = (_define(exponential.exp, s, 1) for s in _TYPES)
exp2_f32, exp2_f64 = (_define(exponential.exp2, s, 1) for s in _TYPES)
expm1_f32, expm1_f64 = (_define(exponential.expm1, s, 1) for s in _TYPES)
sinh_f32, sinh_f64 = (_define(exponential.sinh, s, 1) for s in _TYPES)
cosh_f32, cosh_f64 = (_define(exponential.cosh, s, 1) for s in _TYPES)
tanh_f32, tanh_f64 = (_define(exponential.tanh, s, 1) for s in _TYPES)
sigmoid_f32, sigmoid_f64 = (_define(exponential.sigmoid, s, 1) for s in _TYPES)
log_f32, log_f64 = (_define(logarithm.log, s, 1) for s in _TYPES)
log2_f32, log2_f64 = (_define(logarithm.log2, s, 1) for s in _TYPES)
log10_f32, log10_f64 = (_define(logarithm.log10, s, 1) for s in _TYPES)
log1p_f32, log1p_f64 = (_define(logarithm.log1p, s, 1) for s in _TYPES)
pow_f32, pow_f64 = (_define(logarithm.pow, s, 2) for s in _TYPES)
sin_f32, sin_f64 = (_define(trigonometric.sin, s, 1) for s in _TYPES)
cos_f32, cos_f64 = (_define(trigonometric.cos, s, 1) for s in _TYPES)
tan_f32, tan_f64 = (_define(trigonometric.tan, s, 1) for s in _TYPES)
atan_f32, atan_f64 = (_define(trigonometric.atan, s, 1) for s in _TYPES)
asin_f32, asin_f64 = (_define(trigonometric.asin, s, 1) for s in _TYPES)
acos_f32, acos_f64 = (_define(trigonometric.acos, s, 1) for s in _TYPES)
atan2_f32, atan2_f64 = (_define(trigonometric.atan2, s, 2) for s in _TYPES)
float_fmod_f32, float_fmod_f64 = (_define(division.float_fmod, s, 2) for s in _TYPES)
float_remainder_f32, float_remainder_f64 = (_define(division.float_remainder, s, 2) for s in _TYPES)
float_floor_divide_f32, float_floor_divide_f64 = (_define(division.float_floor_divide, s, 2) for s in _TYPES)
asinh_f32, asinh_f64 = (_define(inverse.asinh, s, 1) for s in _TYPES)
acosh_f32, acosh_f64 = (_define(inverse.acosh, s, 1) for s in _TYPES)
atanh_f32, atanh_f64 = (_define(inverse.atanh, s, 1) for s in _TYPES)
logit_f32, logit_f64 = (_define(inverse.logit, s, 1) for s in _TYPES)
erf_f32, erf_f64 = (_define(special.erf, s, 1) for s in _TYPES)
erfc_f32, erfc_f64 = (_define(special.erfc, s, 1) for s in _TYPES)
gelu_f32, gelu_f64 = (_define(special.gelu, s, 1) for s in _TYPES)
erfinv_f32, erfinv_f64 = (_define(special.erfinv, s, 1) for s in _TYPES)
sqrt_f32, sqrt_f64 = (_define(sqrt, s, 1) for s in _TYPES)
rsqrt_f32, rsqrt_f64 = (_define(rsqrt, s, 1) for s in _TYPES)
fma_f32, fma_f64 = (_define(fma, s, 3) for s in _TYPES)

exp_strip_f32, exp_strip_f64 = (_define_strip(exponential.exp, s) for s in _TYPES)
exp2_strip_f32, exp2_strip_f64 = (_define_strip(exponential.exp2, s) for s in _TYPES)
expm1_strip_f32, expm1_strip_f64 = (_define_strip(exponential.expm1, s) for s in _TYPES)
sinh_strip_f32, sinh_strip_f64 = (_define_strip(exponential.sinh, s) for s in _TYPES)
cosh_strip_f32, cosh_strip_f64 = (_define_strip(exponential.cosh, s) for s in _TYPES)
tanh_strip_f32, tanh_strip_f64 = (_define_strip(exponential.tanh, s) for s in _TYPES)
sigmoid_strip_f32, sigmoid_strip_f64 = (_define_strip(exponential.sigmoid, s) for s in _TYPES)

UNARY = (
    "exp", "exp2", "expm1", "sinh", "cosh", "tanh", "sigmoid", "log", "log2", "log10", "log1p", "sin", "cos", "tan",
    "atan", "asin", "acos", "asinh", "acosh", "atanh", "logit", "erf", "erfc", "erfinv", "sqrt",
    "rsqrt",
)  # fmt: skip
BINARY = ("pow", "atan2")
IN_PLACE = ("exp", "exp2", "expm1", "sinh", "cosh", "tanh", "sigmoid")
"""Those with a function over memory that is as fast as a loop of its own; others compare more, which costs wide vectors
much."""
