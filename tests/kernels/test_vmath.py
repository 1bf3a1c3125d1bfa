"""The elementary functions: accuracy against a precise oracle, special values, and the same bits however they run."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from llvmlite import ir
from numba.core.errors import TypingError
from numba.extending import intrinsic

from benchmarks import ulp
from tracejit.kernels import vmath
from tracejit.kernels.vmath import exponential, in_numpy, inverse, logarithm, special, trigonometric
from tracejit.kernels.vmath.expression import V

Array = np.ndarray[Any, Any]
DTYPES = (np.float32, np.float64)
NAMES = (*vmath.UNARY, *vmath.BINARY)
LIMITS = {np.float32: 2.0, np.float64: 4.0}
FORMULAS: dict[str, Callable[[V], V]] = {
    name: getattr(module, name)
    for module in (exponential, inverse, logarithm, special, trigonometric)
    for name in vmath.UNARY
    if hasattr(module, name) and getattr(module, name).__module__ == module.__name__
}

_LOOPS: dict[tuple[str, Any], Callable[..., None]] = {}


def run(name: str, *args: Array) -> Array:
    """The function over arrays, through a compiled loop."""
    key = (name, args[0].dtype.type)
    if key not in _LOOPS:
        _LOOPS[key] = ulp.looped(name, args[0].dtype.type)
    out = np.empty_like(args[0])
    _LOOPS[key](*args, out)
    return out


def bits(x: Array) -> Array:
    """Bits with every nan alike."""
    canonical = np.where(np.isnan(x), np.array(np.nan, x.dtype), x)
    return canonical.view(np.uint32 if x.dtype == np.float32 else np.uint64)


def edge_values(dtype: Any) -> Array:
    info = np.finfo(dtype)
    some = [0.0, np.inf, np.nan, 1, 2, 3, 0.5, 2.5, 1 / 3, info.smallest_subnormal, info.tiny, 0.7 * float(info.tiny),
            info.max, info.eps, info.eps / 4, 1 - info.eps / 2, 1 + info.eps, 88.7, 89.2, 103.0, 709.7, 710.2, 745.0,
            1e5, 1e10]  # fmt: skip
    positive = np.array(some, dtype)
    return np.concatenate([positive, -positive])


def numpy_function(name: str) -> Callable[..., Array]:
    if name == "erfinv":
        return lambda x: np.array([special_erfinv(v) for v in x])
    return ulp.ORACLES_32[name]


def special_erfinv(x: float) -> float:
    if math.isnan(x) or abs(x) > 1:
        return math.nan
    return math.copysign(float(ulp.erfinv_exact(abs(x))), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_error_stays_within_the_limit(name: str, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    count = 30_000 if dtype == np.float32 else 900
    if name == "erfinv":
        count = 600
    args = ulp.arguments(name, dtype, count, rng)
    assert args[0].size > count // 2
    errors = ulp.ulp_errors(name, args, run(name, *args))
    worst = int(np.argmax(errors))
    assert errors[worst] <= LIMITS[dtype], (errors[worst], [a[worst] for a in args])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_edges_are_those_of_c(name: str, dtype: Any) -> None:
    values = edge_values(dtype)
    if dtype == np.float64 and name in ("sin", "cos", "tan"):
        values = values[~(np.abs(values) >= trigonometric.FLOAT64_BOUND) | np.isinf(values)]
    args = (values,)
    if name in vmath.BINARY:
        args = tuple(np.ascontiguousarray(grid.ravel()) for grid in np.meshgrid(values, values))
    got = run(name, *args)
    with np.errstate(all="ignore"):
        want = numpy_function(name)(*(a.astype(np.float64) for a in args)).astype(dtype)
        close = np.abs(got - want) <= 4 * np.spacing(np.minimum(np.abs(want), np.finfo(dtype).max / 2))
    same = np.isnan(got) & np.isnan(want)
    same |= ((got == want) | close) & (np.signbit(got) == np.signbit(want))
    wrong = np.nonzero(~same)[0]
    assert not wrong.size, [([a[i] for a in args], got[i], want[i]) for i in wrong[:5]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_huge_angles_stay_on_the_circle(name: str, dtype: Any) -> None:
    x = (2.0 ** np.linspace(40.0, 127.9, 1001)).astype(dtype)
    got = run(name, x)
    assert np.all(np.abs(got) <= 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_lane_has_the_bits_of_a_scalar(name: str, dtype: Any) -> None:
    rng = np.random.default_rng(5)
    x = np.concatenate([ulp.samples(name, dtype, 300, rng), edge_values(dtype)])
    args = (x, rng.permutation(x))[: 2 if name in vmath.BINARY else 1]
    whole = run(name, *args)
    single = np.concatenate([run(name, *(a[i : i + 1].copy() for a in args)) for i in range(x.size)])
    assert np.array_equal(bits(whole), bits(single))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_a_vector_value_has_the_bits_of_a_scalar(name: str, dtype: Any) -> None:
    formula = FORMULAS[name]

    @intrinsic
    def in_lane_two(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = ir.Constant(ir.VectorType(args[0].type, 4), [1.0] * 4)
            lane = ir.IntType(32)(2)
            filled = builder.insert_element(vector, args[0], lane)
            return builder.extract_element(formula(V(builder, filled)).value, lane)

        return x(x), codegen

    @numba.njit
    def loop(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = in_lane_two(x[i])

    x = np.concatenate([ulp.samples(name, dtype, 60, np.random.default_rng(6)), edge_values(dtype)])
    out = np.empty_like(x)
    loop(x, out)
    assert np.array_equal(bits(out), bits(run(name, x)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", vmath.IN_PLACE)
def test_a_strip_has_the_bits_of_scalars(name: str, dtype: Any) -> None:
    strip = getattr(vmath, f"{name}_strip_{'f32' if dtype is np.float32 else 'f64'}")

    @numba.njit
    def replace(address: int, count: int) -> None:
        strip(address, count)

    x = np.concatenate([ulp.samples(name, dtype, 150, np.random.default_rng(8)), edge_values(dtype)])
    expected = bits(run(name, x))
    for count in (0, 1, 5, 31, 32, 33, 64, 65, 100, 180):
        # Whole vectors are written, and nothing behind them.
        written = -(-count * x.itemsize // 64) * 64 // x.itemsize
        out = x.copy()
        replace(out.ctypes.data, count)
        assert np.array_equal(bits(out[:count]), expected[:count])
        assert np.array_equal(bits(out[written:]), bits(x[written:]))


@pytest.mark.parametrize("name", sorted(in_numpy.FORMULAS))
def test_numpy_gets_the_bits_of_scalars(name: str) -> None:
    rng = np.random.default_rng(9)
    any_bits = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    usual = np.concatenate([rng.standard_normal(1 << 15), rng.uniform(-105, 95, 1 << 15), rng.uniform(-1, 1, 1 << 15)])
    x = np.concatenate([edge_values(np.float32), any_bits, usual.astype(np.float32)])
    got = in_numpy.by_formula(name, x)
    assert got.dtype == np.float32
    assert np.array_equal(bits(got), bits(run(name, x)))


def test_numpy_rounds_a_product_and_a_sum_once() -> None:
    @numba.njit(numba.void(*[numba.float32[::1]] * 4))
    def loop(x: Any, y: Any, z: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = vmath.fma_f32(x[i], y[i], z[i])

    rng = np.random.default_rng(10)
    edges = edge_values(np.float32)
    every = [grid.ravel() for grid in np.meshgrid(edges, edges, edges)]
    # Few digits, which are far apart: many sums are in the middle between two numbers, or next to it.
    few = [np.ldexp(rng.integers(-9, 10, 1 << 16), rng.integers(-80, 80, 1 << 16)) for _ in range(2)]
    near = few[0] * few[1] * np.ldexp(rng.integers(-9, 10, 1 << 16), rng.integers(-30, 30, 1 << 16))
    with np.errstate(all="ignore"):
        x, y, z = (
            np.concatenate([a, b, rng.standard_normal(1 << 16)]).astype(np.float32)
            for a, b in zip(every, (*few, near), strict=True)
        )
        twice = x * y + z
        got = in_numpy.multiply_add(x, y, z)
    want = np.empty_like(x)
    loop(x, y, z, want)
    assert np.array_equal(bits(got), bits(want))
    assert np.count_nonzero(bits(twice) != bits(want)) > 1000


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_loops_vectorise(name: str, dtype: Any) -> None:
    run(name, *[np.ones(1, dtype)] * (2 if name in vmath.BINARY else 1))
    loop: Any = _LOOPS[name, dtype]
    assembly = "".join(loop.inspect_asm().values())
    # float32's tan and pow compute in packed float64
    assert re.search(r"\tv?(?:mul|add|sub|div|sqrt|fn?m(?:add|sub)\d+)p[sd]\s", assembly)
    assert not re.search(r"\b(expf?|logf?|sinf?|cosf?|tanhf?|powf?|fmaf?)@PLT", assembly)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", ["exp", "exp2", "expm1", "sinh", "tanh", "sigmoid", "erf", "atan", "erfinv", "asin", "asinh", "atanh"]
)
def test_rising_functions_rise(name: str, dtype: Any) -> None:
    reach = 0.999 if name in ("erfinv", "asin", "atanh") else 6.0 if dtype == np.float64 else 4.0
    got = run(name, np.linspace(-reach, reach, 20_001).astype(dtype))
    assert np.all(np.diff(got) >= 0)


@pytest.mark.parametrize("name", ["sin", "tan", "tanh", "sinh", "atan", "asin", "asinh", "atanh", "erf", "erfinv"])
def test_odd_functions_are_odd_to_the_bit(name: str) -> None:
    x = np.linspace(0.0, 1.0, 5001)
    for dtype in DTYPES:
        assert np.array_equal(bits(run(name, -x.astype(dtype))), bits(-run(name, x.astype(dtype))))


def test_log2_and_exp2_are_exact_at_powers_of_two() -> None:
    for dtype, low, high in ((np.float32, -149, 127), (np.float64, -1074, 1023)):
        exponents = np.arange(low, high + 1).astype(dtype)
        powers = np.ldexp(dtype(1), exponents.astype(np.int32)).astype(dtype)
        assert np.array_equal(run("exp2", exponents), powers)
        assert np.array_equal(run("log2", powers), exponents)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_whole_powers_are_exact(dtype: Any) -> None:
    base, power = np.meshgrid(np.arange(-9, 10), np.arange(0, 8))
    args = (base.ravel().astype(dtype), power.ravel().astype(dtype))
    want = np.array([float(int(b) ** int(p)) for b, p in zip(*args, strict=True)])
    # 9**7 and others fit float32; within its format every one of these has an exact result
    exact = np.abs(want) < 2.0**24
    assert np.array_equal(run("pow", *args)[exact], want[exact].astype(dtype))


def test_fma_rounds_once() -> None:
    @numba.njit
    def call(x: Any, y: Any, z: Any) -> Any:
        return vmath.fma_f64(x, y, z)

    x = 1.0 + 2.0**-30
    assert call(x, x, -(1.0 + 2.0**-29)) == 2.0**-60
    assert x * x - (1.0 + 2.0**-29) == 0.0


def test_another_type_is_refused() -> None:
    @numba.njit
    def call(x: Any) -> Any:
        return vmath.exp_f32(x)

    with pytest.raises(TypingError, match="exp_f32 takes float32 only, got float64"):
        call(1.0)
