"""Measures the elementary functions: largest error in ulp against a precise oracle, and nanoseconds an element.

Run: PYTHONPATH=src python benchmarks/ulp.py [--only NAME] [--points N] [--stride N] [--write]   (needs mpmath)
`--write` puts the table into docs/numerics.md between its markers.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numba
import numpy as np

from tracejit.kernels import vmath

Array = np.ndarray[Any, Any]
TABLE = Path(__file__).parent.parent / "docs" / "numerics.md"
START, END = "<!-- vector math table: benchmarks/ulp.py --write -->", "<!-- end of the table -->"

ORACLES_64: dict[str, Callable[..., Any]] = {
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.power(2, x),
    "expm1": mpmath.expm1,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "log": mpmath.log,
    "log2": lambda x: mpmath.log(x, 2),
    "log10": mpmath.log10,
    "log1p": mpmath.log1p,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "atan": mpmath.atan,
    "asin": mpmath.asin,
    "acos": mpmath.acos,
    "asinh": mpmath.asinh,
    "acosh": mpmath.acosh,
    "atanh": mpmath.atanh,
    "logit": lambda x: mpmath.log(x / (1 - x)),
    "erf": mpmath.erf,
    "erfc": mpmath.erfc,
    "erfinv": lambda x: erfinv_exact(x),  # noqa: PLW0108 - defined below
    "sqrt": mpmath.sqrt,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "pow": mpmath.power,
    "atan2": mpmath.atan2,
}
ORACLES_32: dict[str, Callable[..., Array]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.where(x < 0, np.exp(-np.abs(x)), 1.0) / (1.0 + np.exp(-np.abs(x))),
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "atan": np.arctan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "logit": lambda x: np.where(x < 0.25, np.log(x / (1.0 - x)), np.log1p((2.0 * x - 1.0) / (1.0 - x))),
    "erf": lambda x: np.array([math.erf(v) for v in x]),
    "erfc": lambda x: np.array([math.erfc(v) for v in x]),
    "erfinv": lambda x: np.array([float(erfinv_exact(mpmath.mpf(v))) for v in x]),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "pow": np.power,
    "atan2": np.arctan2,
}
# what a training step sees; the error is measured on this and on all magnitudes
USUAL = {"log": (0.0, 10.0), "log2": (0.0, 10.0), "log10": (0.0, 10.0), "log1p": (-1.0, 10.0), "sqrt": (0.0, 10.0),
         "rsqrt": (0.0, 10.0), "asin": (-1.0, 1.0), "acos": (-1.0, 1.0), "erfinv": (-1.0, 1.0), "pow": (0.0, 10.0),
         "acosh": (1.0, 10.0), "atanh": (-1.0, 1.0), "logit": (0.0, 1.0),
         "sin": (-30.0, 30.0), "cos": (-30.0, 30.0), "tan": (-30.0, 30.0)}  # fmt: skip


def erfinv_exact(x: Any) -> Any:
    """Newton on erf, or on log(erfc) where x is near one, from an asymptotic start."""
    sign, x = mpmath.sign(x), abs(mpmath.mpf(x))
    if x == 0 or x == 1:
        return sign * (mpmath.inf if x == 1 else 0)
    rest = 1 - x
    w = -mpmath.log(rest * (1 + x))
    y = mpmath.sqrt(w) * mpmath.mpf("0.9") if w > 1 else x * mpmath.mpf("0.886")
    for _ in range(12):
        slope = 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-y * y)
        if x < 0.5:
            step = (x - mpmath.erf(y)) / slope
        else:
            complement = mpmath.erfc(y)
            step = complement * mpmath.log(complement / rest) / slope
        y += step
        if abs(step) < y * mpmath.mpf(2) ** -70:
            break
    return sign * y


def samples(name: str, dtype: Any, count: int, rng: np.random.Generator) -> Array:
    """A third the usual range, a third every magnitude, a third near the edges of the format's useful range."""
    low, high = USUAL.get(name, (-10.0, 10.0))
    part = count // 3
    usual = rng.uniform(low, high, part)
    bits = np.uint32 if dtype == np.float32 else np.uint64
    anything = rng.integers(0, np.iinfo(bits).max, part, dtype=bits, endpoint=True).view(dtype)
    if name in ("erfinv", "asin", "acos", "atanh"):
        edges = (1.0 - 2.0 ** rng.uniform(-53.0, 0.0, part)) * rng.choice([-1.0, 1.0], part)
    elif name in ("sin", "cos", "tan"):
        turns = rng.integers(0, 2 ** int(rng.integers(4, 20)), part) * (math.pi / 2)
        edges = np.where(rng.random(part) < 0.5, turns, 2.0 ** rng.uniform(0.0, 44.9, part))
    elif name == "logit":
        edges = 0.5 + rng.choice([-0.5, 0.5], part) * (1.0 - 2.0 ** rng.uniform(-53.0, 0.0, part))
    elif name.startswith("log") or name == "acosh":
        edges = 1.0 + rng.uniform(-1.0, 1.0, part) * 2.0 ** rng.uniform(-20.0, 0.0, part)
        if name == "log1p":
            edges = edges - 1.0
    elif name == "erfc":
        edges = rng.uniform(-1.0, 1.0, part) * (10.1 if dtype == np.float32 else 27.3)
    else:
        edges = rng.uniform(-1.0, 1.0, part) * (105.0 if dtype == np.float32 else 750.0)
        if name == "exp2":
            edges = edges * 1.45
    return np.concatenate([usual.astype(dtype), anything, edges.astype(dtype)])


def pow_exponents(x: Array, rng: np.random.Generator) -> Array:
    """Exponents that keep x**y inside the range of the format, near its edges, or small integers."""
    limit = 104.0 if x.dtype == np.float32 else 745.0
    with np.errstate(all="ignore"):
        largest = limit / np.maximum(np.abs(np.log(np.abs(x.astype(np.float64)))), 1e-30)
    inside = rng.uniform(-1.0, 1.0, x.size) * np.nan_to_num(largest, nan=1.0, posinf=1.0)
    return np.where(x > 0, inside, rng.integers(-9, 9, x.size)).astype(x.dtype)


def looped(name: str, dtype: Any) -> Callable[..., None]:
    """A compiled loop over arrays that calls the function."""
    function = getattr(vmath, f"{name}_{'f32' if dtype == np.float32 else 'f64'}")
    array = numba.from_dtype(np.dtype(dtype))[::1]
    if name in vmath.BINARY:

        @numba.njit(numba.void(array, array, array), error_model="numpy")
        def binary(x: Any, y: Any, out: Any) -> None:
            for i in range(x.size):
                out[i] = function(x[i], y[i])

        return binary

    @numba.njit(numba.void(array, array), error_model="numpy")
    def unary(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = function(x[i])

    return unary


def ulp_errors(name: str, args: tuple[Array, ...], got: Array) -> Array:
    """Errors in units of the last place of the exact result; nan or infinite results must be so exactly."""
    dtype = got.dtype
    with np.errstate(all="ignore"):
        if dtype == np.float32:
            exact = ORACLES_32[name](*(a.astype(np.float64) for a in args))
            nearest = exact.astype(np.float32)
            ulp = np.spacing(np.minimum(np.abs(nearest), np.float32(2.0**127))).astype(np.float64)
            # an overflow within one ulp beyond the largest number counts as that distance
            shown = got.astype(np.float64)
            shown = np.where(np.isinf(shown), np.copysign(2.0**128, shown), shown)
            exact = np.where(np.abs(exact) > 2.0**128, np.copysign(2.0**128, exact), exact)
            errors = np.abs(shown - exact) / ulp
            both_nan = np.isnan(got) & np.isnan(exact)
            return np.where(both_nan, 0.0, np.where(np.isnan(errors), np.inf, errors))
    out = np.empty(got.size)
    with mpmath.workprec(120):
        top = mpmath.mpf(2) ** 1024
        for i, value in enumerate(got):
            exact_one = ORACLES_64[name](*(mpmath.mpf(float(a[i])) for a in args))
            exact_one = max(-top, min(top, exact_one))
            shown_one = mpmath.mpf(float(value)) if math.isfinite(value) else mpmath.sign(value) * top
            unit = math.ulp(min(abs(float(exact_one)), float(np.finfo(np.float64).max)))
            out[i] = float(abs(shown_one - exact_one) / unit)
    return out


def in_domain(name: str, args: tuple[Array, ...]) -> Array:
    """Where the oracle is defined and the documented bound holds."""
    x = args[0]
    with np.errstate(all="ignore"):
        keep = np.isfinite(x)
        if name in ("log", "log2", "log10", "rsqrt"):
            keep &= x > 0
        elif name == "sqrt":
            keep &= x >= 0
        elif name == "log1p":
            keep &= x > -1
        elif name == "acosh":
            keep &= x >= 1
        elif name == "atanh":
            keep &= np.abs(x) < 1
        elif name == "logit":
            keep &= (x > 0) & (x < 1)
        elif name in ("asin", "acos"):
            keep &= np.abs(x) <= 1
        elif name == "erfinv":
            keep &= np.abs(x) < 1
        elif name in ("sin", "cos", "tan") and x.dtype == np.float64:
            keep &= np.abs(x) < 2.0**45
        elif name in ("exp", "expm1", "sinh", "cosh", "sigmoid", "exp2", "erfc") and x.dtype == np.float64:
            keep &= np.abs(x) < 1e5  # beyond it the oracle takes minutes and the result is 0, 1 or inf
        elif name == "pow":
            keep &= (x != 0) & np.isfinite(args[1])
            keep &= np.abs(args[1].astype(np.float64) * np.log(np.abs(x.astype(np.float64)))) < 760
    return keep


def arguments(name: str, dtype: Any, points: int, rng: np.random.Generator) -> tuple[Array, ...]:
    """Random arguments in the function's domain: at most `points` of them."""
    x = samples(name, dtype, points, rng)
    args: tuple[Array, ...] = (x,)
    if name == "pow":
        args = (x, pow_exponents(x, rng))
    elif name == "atan2":
        args = (x, rng.permutation(x))
    keep = in_domain(name, args)
    for extra in args[1:]:
        keep &= np.isfinite(extra)
    return tuple(np.ascontiguousarray(a[keep]) for a in args)


def measure(name: str, dtype: Any, points: int) -> tuple[float, int, float, tuple[float, ...]]:
    """(largest ulp error, points, nanoseconds an element, the worst argument)."""
    rng = np.random.default_rng(7)
    loop = looped(name, dtype)
    args = arguments(name, dtype, points, rng)
    out = np.empty_like(args[0])
    loop(*args, out)
    errors = ulp_errors(name, args, out)
    worst = int(np.argmax(errors))
    low, high = USUAL.get(name, (-10.0, 10.0))
    timed = tuple(
        rng.uniform(max(low, -1.0) if i else low, min(high, 5.0) if i else high, 65536).astype(dtype)
        for i in range(len(args))
    )
    target = np.empty(65536, dtype)
    best = math.inf
    for _ in range(30):
        begin = time.perf_counter()
        loop(*timed, target)
        best = min(best, time.perf_counter() - begin)
    return float(errors[worst]), int(errors.size), best / 65536 * 1e9, tuple(float(a[worst]) for a in args)


def sweep(name: str, stride: int) -> tuple[float, int, float]:
    """(largest ulp error, points, worst argument) over every stride-th float32, against the float64 function."""
    single, double = looped(name, np.float32), looped(name, np.float64)
    size = 1 << 16
    worst, at, count = 0.0, 0.0, 0
    got, want = np.empty(size, np.float32), np.empty(size)
    top = 2.0**128
    for start in range(0, 1 << 32, size * stride):
        patterns = np.arange(start, start + size * stride, stride, dtype=np.uint64)
        x = (patterns & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
        with np.errstate(invalid="ignore"):  # signalling nans
            wide = x.astype(np.float64)
        single(x, got)
        double(wide, want)
        if name in ("sin", "cos", "tan"):
            far = np.abs(wide) >= 2.0**45
            want[far] = ORACLES_32[name](wide[far])
        with np.errstate(all="ignore"):
            unit = (want.astype(np.float32).view(np.uint32) & 0x7F800000).view(np.float32).astype(np.float64)
            unit = np.clip(unit * 2.0**-23, 2.0**-149, 2.0**104)
            errors = np.abs(np.clip(got.astype(np.float64), -top, top) - np.clip(want, -top, top)) / unit
        errors[np.isnan(got) & np.isnan(want)] = 0.0
        errors[np.isnan(errors)] = np.inf
        count += size
        index = int(np.argmax(errors))
        if errors[index] > worst:
            worst, at = float(errors[index]), float(x[index])
    return worst, count, at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*vmath.UNARY, *vmath.BINARY])
    parser.add_argument("--points", type=int, default=300_000, help="for float32; float64 takes a twentieth")
    parser.add_argument("--stride", type=int, default=0, help="also sweep every n-th float32 of the unary functions")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = ["| function | f32 ulp | points | f32 ns | f64 ulp | points | f64 ns |", "|---|---|---|---|---|---|---|"]
    for name in options.only:
        few = options.points // (100 if name == "erfinv" else 1)
        ulp_32, count_32, ns_32, at_32 = measure(name, np.float32, few)
        if options.stride and name in vmath.UNARY:
            swept, count_32, swept_at = sweep(name, options.stride)
            if swept > ulp_32:
                ulp_32, at_32 = swept, (swept_at,)
        ulp_64, count_64, ns_64, at_64 = measure(name, np.float64, options.points // (60 if name == "erfinv" else 20))
        lines.append(
            f"| {name} | {ulp_32:.2f} | {count_32:,} | {ns_32:.2f} | {ulp_64:.2f} | {count_64:,} | {ns_64:.2f} |"
        )
        print(f"{lines[-1]}  worst at {at_32} {at_64}", flush=True)
    if options.write:
        text = TABLE.read_text()
        before, rest = text.split(START)
        TABLE.write_text(before + START + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
