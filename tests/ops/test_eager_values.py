"""What eager computes with kernels against the NumPy functions of the records: all samples, types and layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.cases import ALL_CASES, LAYOUTS, WITHOUT, Case
from tests.ops.test_records import supported
from tracejit import dtypes, eager, eager_open
from tracejit.eager import run_op
from tracejit.ops import ops
from tracejit.runtime.blocks import Lease
from tracejit.runtime.build import build

CASES = [case for case in ALL_CASES if case.op not in WITHOUT]
TOLERANCE = {"bfloat16": 1e-1, "float16": 2e-2, "float32": 1e-5, "float64": 1e-12}


def results(value: Any) -> tuple[Any, ...]:
    return tuple(map(np.asarray, value)) if isinstance(value, tuple) else (np.asarray(value),)


def layouts(dtype: dtypes.dtype) -> tuple[str, ...]:
    """All of them for one type: kernels are built for each, which takes its time."""
    return LAYOUTS if dtype is dtypes.float32 else LAYOUTS[:1]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_eager_agrees_with_the_oracle(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """All operands count as large ones, whose exact operations kernels do, too."""
    monkeypatch.setattr(eager, "_NUMPY_WORK", 0)
    monkeypatch.setattr(eager, "LARGE", 0)
    for dtype in supported(case):
        for layout in layouts(dtype):
            operands = case.build(dtype, layout)
            with np.errstate(all="ignore"):
                expected = results(case.op.on_arrays(tuple(operands), case.attr_values))
            found = results(run_op(case.op, tuple(operands), case.attr_values))
            assert [f.dtype for f in found] == [e.dtype for e in expected]
            for f, e in zip(found, expected, strict=True):
                if case.op.exact:
                    np.testing.assert_array_equal(f, e)
                else:
                    tolerance = TOLERANCE.get(e.dtype.name, 0)
                    f, e = (x.astype(dtypes.widened(dtypes.from_numpy(x.dtype)).np) for x in (f, e))
                    np.testing.assert_allclose(f, e, rtol=tolerance, atol=tolerance, err_msg=f"{dtype} {layout}")


@pytest.mark.parametrize("case", [c for c in CASES if c.op.family in ("library", "reduction", "contraction")], ids=str)
def test_the_first_uses_have_the_bits_of_later_ones(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in supported(case):
        for layout in layouts(dtype):
            operands = tuple(case.build(dtype, layout))
            monkeypatch.setattr(eager, "_NUMPY_WORK", 0)
            later = results(run_op(case.op, operands, case.attr_values))
            monkeypatch.setattr(eager, "_NUMPY_WORK", 1 << 24)
            monkeypatch.setattr(eager, "_uses", {})
            monkeypatch.setattr(eager, "programs", {})
            first = results(run_op(case.op, operands, case.attr_values))
            for f, e in zip(first, later, strict=True):
                assert f.flags.c_contiguous
                assert (f.dtype, f.shape, f.tobytes()) == (e.dtype, e.shape, e.tobytes())


@pytest.mark.parametrize("kind", [dtypes.bfloat16, dtypes.float16, dtypes.float32, dtypes.float64], ids=repr)
@pytest.mark.parametrize("name", ["sum", "prod", "amax", "amin"])
def test_reductions_in_numpy_keep_the_order_of_kernels(name: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager_open, "_kinds", {})
    monkeypatch.setattr(eager_open, "_PROGRAMS", 1 << 30)
    rng = np.random.default_rng(0)
    for shape, dim in (((3, 1), 1), ((5, 31), 1), ((5, 97), 1), ((2, 4096), 1), ((200, 7), 0), ((2, 256, 3), 1)):
        x = (1 + 0.1 * rng.standard_normal(shape)).astype(kind.np)
        x.ravel()[:3] = (np.nan, -0.0, 0.0)[: x.size]
        x.ravel()[-3:] = (0.0, -0.0, np.inf)
        found = []
        for work in (0, 1 << 24):
            monkeypatch.setattr(eager, "_NUMPY_WORK", work)
            monkeypatch.setattr(eager, "_uses", {})
            monkeypatch.setattr(eager, "programs", {})
            found.append(run_op(getattr(ops, name), (x,), (dim,)))
            assert bool(eager.programs) == (work == 0)
        later, first = found
        missing = np.isnan(first)
        np.testing.assert_array_equal(missing, np.isnan(later))
        assert first[~missing].tobytes() == later[~missing].tobytes()


@pytest.mark.parametrize("case", [c for c in CASES if "f" in c.op.kinds and "f" in c.types], ids=str)
def test_layout_changes_no_bit_in_eager(case: Case) -> None:
    plain, transposed = (
        results(run_op(case.op, tuple(case.build(dtypes.float32, layout)), case.attr_values))
        for layout in ("contiguous", "transposed")
    )
    assert [p.tobytes() for p in plain] == [np.ascontiguousarray(t).tobytes() for t in transposed]


@pytest.mark.parametrize("sizes", [(200, 300), (20, 30)])
def test_small_operands_that_are_spread_far_are_a_program_s(sizes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_NUMPY_WORK", 0)
    monkeypatch.setattr(eager, "programs", {})
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(n).astype(np.float32) for n in sizes)
    for op in (ops.mul, ops.add):
        found = run_op(op, (x[:, None], y), ())
        assert found.tobytes() == op.numpy(x[:, None], y).tobytes()
    assert len(eager.programs) == (2 if sizes[0] * sizes[1] >= eager.LARGE else 0)


def test_made_tensors_have_blocks() -> None:
    found = run_op(ops.full, (1.5,), ((1 << 17,), dtypes.float32))
    assert (found == 1.5).all()
    assert isinstance(found.base, Lease)
    assert run_op(ops.full, (1e40,), ((2,), dtypes.float32)).tolist() == [np.inf, np.inf]
    with pytest.raises(OverflowError):
        run_op(ops.full, (300,), ((2,), dtypes.uint8))


def test_exact_operations_build_a_kernel_only_when_they_are_used_often(monkeypatch: pytest.MonkeyPatch) -> None:
    built, uses = [], 16
    x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)
    x[0, 0] = np.nan
    monkeypatch.setattr(eager, "flat_kernels", {})
    monkeypatch.setattr(eager, "_uses", {})
    monkeypatch.setattr(eager, "_NUMPY_WORK", uses * (2 * x.size + eager._USE_WORK))
    monkeypatch.setattr(eager, "build", lambda text, name: built.append(name) or build(text, name))
    for operand in (x, x.T):
        arrays = [run_op(ops.where, (operand > 0, operand, 0.5), ()) for _ in range(uses)]
        assert {a.tobytes() for a in arrays} == {np.where(operand > 0, operand, np.float32(0.5)).tobytes()}
        assert all(a.flags.c_contiguous and a.dtype == np.float32 for a in arrays)
    # Both layouts are one kernel's.
    assert len(built) == 1
    assert run_op(ops.where, (x > 0, x, 0.5), ()).tobytes() == np.where(x > 0, x, np.float32(0.5)).tobytes()
    assert len(built) == 1


CASTABLE = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 127.5, 128, -129, 255.9, 256, 32768, 2.0**31, 2.0**63, -(2.0**63), 65504]
ROUNDED = [65519.99, 65520, 2.0**-24, 2.0**-25, 3 * 2.0**-25, 2049, 2051, 1e-45, 1e300]


@pytest.mark.parametrize("given", CASTABLE)
@pytest.mark.parametrize("wanted", CASTABLE)
def test_many_elements_are_cast_by_a_kernel_to_the_bits_of_few(
    given: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "flat_kernels", {})
    monkeypatch.setattr(eager, "_uses", {})
    monkeypatch.setattr(eager, "_NUMPY_WORK", 0)
    rng = np.random.default_rng(6)
    values = rng.standard_normal(eager.LARGE) * rng.choice([1e-8, 1, 1e2, 1e5, 1e10, 1e300], eager.LARGE)
    values[: len(SPECIAL) + len(ROUNDED)] = SPECIAL + ROUNDED
    source = values if given.startswith("f") else rng.integers(-(2**62), 2**62, eager.LARGE)
    with np.errstate(all="ignore"):
        x = source.astype(given)
    kind = (getattr(dtypes, wanted),)
    few = np.concatenate([run_op(ops.cast, (part,), kind) for part in np.split(x, 2)])
    assert not eager.flat_kernels
    many = run_op(ops.cast, (x,), kind)
    assert len(eager.flat_kernels) == (given != wanted)
    assert (many.dtype, many.tobytes()) == (few.dtype, few.tobytes())
    across = run_op(ops.cast, (x.reshape(2, -1).T,), kind)
    assert across.flags.c_contiguous or given == wanted
    assert across.tobytes() == few.reshape(2, -1).T.tobytes()


def test_elementary_functions_of_few_elements_build_a_kernel_only_when_they_are_used_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[str] = []
    monkeypatch.setattr(eager, "flat_kernels", {})
    monkeypatch.setattr(eager, "_uses", {})
    monkeypatch.setattr(eager, "_NUMPY_WORK", 3 * (eager._FORMULA_WORK + eager._USE_WORK))
    monkeypatch.setattr(eager, "build", lambda text, name: built.append(name) or build(text, name))
    x = np.linspace(-3, 3, 30, dtype=np.float32).reshape(5, 6)
    for operand in (x, x.T, x[::2], x[0, 0], x[:0]):
        monkeypatch.setattr(eager, "flat_kernels", {})
        monkeypatch.setattr(eager, "_uses", {})
        built.clear()
        arrays = []
        for use in range(5):
            arrays.append(run_op(ops.exp, (np.asarray(operand),), ()))
            assert len(built) == (use >= 3)
        plain = np.empty(operand.shape, np.float32)
        assert {(a.shape, a.strides, a.dtype) for a in arrays} == {(plain.shape, plain.strides, plain.dtype)}
        assert len({a.tobytes() for a in arrays}) == 1


@pytest.mark.parametrize(("name", "x"), [
    ("exp", np.float32([1, np.nan])),  # which nan it is, the kernel says
    ("log", np.float32([-1])),
    ("exp", np.zeros(eager._FORMULA_ELEMENTS + 1, np.float32)),
    ("exp", np.zeros(3, np.float64)),
    ("sin", np.zeros(3, np.float32)),
])  # fmt: skip
def test_what_a_formula_cannot_do_is_for_a_kernel(name: str, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "flat_kernels", {})
    monkeypatch.setattr(eager, "_uses", {})
    run_op(getattr(ops, name), (x,), ())
    assert len(eager.flat_kernels) == 1


def test_the_last_of_several_values_for_one_place_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    x, index = np.zeros((4, 3), np.float32), np.array([[1, 0, 1], [1, 0, 3], [1, 2, 3]])
    src = np.arange(9, dtype=np.float32).reshape(3, 3)
    expected = np.array([[0, 4, 0], [6, 0, 2], [0, 7, 0], [0, 0, 8]], np.float32)
    for work in (0, 1 << 24):
        monkeypatch.setattr(eager, "_NUMPY_WORK", work)
        monkeypatch.setattr(eager, "_uses", {})
        monkeypatch.setattr(eager, "programs", {})
        np.testing.assert_array_equal(run_op(ops.scatter, (x, index, src), (0,)), expected)
