"""What eager computes of operands whose sizes change from call to call: the bits of programs for single layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.cases import ALL_CASES, LAYOUTS, WITHOUT, Case
from tests.ops.test_eager_values import results
from tests.trace import test_sizes_of_operations as sizes
from tracejit import dtypes, eager, eager_open
from tracejit.eager import run_op
from tracejit.eager_open import kind_of
from tracejit.ops import Op, ops

BY_PROGRAMS = ("library", "reduction", "contraction", "random", "place")
CASES = [case for case in ALL_CASES if case.op not in WITHOUT and case.op.family in BY_PROGRAMS]
TIMES = (1, 2, 3, 5, 9)
WITHOUT_PLAN = ("conv2d_input_grad", "uniform", "unslice")
"""What has sizes among its attributes, or needs more launches than are made one by one."""

@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layout has a program of its own."""
    monkeypatch.setattr(eager, "_NUMPY_WORK", 0)
    monkeypatch.setattr(eager, "LARGE", 0)
    monkeypatch.setattr(eager, "programs", {})
    monkeypatch.setattr(eager_open, "_kinds", {})
    monkeypatch.setattr(eager_open, "_PROGRAMS", 1 << 30)
    monkeypatch.setattr(eager_open, "_LAYOUTS", 1 << 30)


def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second layout on they have what is planned once for all."""
    monkeypatch.setattr(eager, "programs", {})
    monkeypatch.setattr(eager_open, "_kinds", {})
    monkeypatch.setattr(eager_open, "_PROGRAMS", 1)


def longer(operands: list[Any], axis: int, times: int, layout: str) -> list[Any]:
    """Operands that repeat themselves along an axis, if they have it; in memory they lie as before."""
    found = []
    for a in operands:
        if isinstance(a, np.ndarray) and -a.ndim <= axis < a.ndim:
            order = "F" if layout != "contiguous" and not a.flags.c_contiguous and a.T.flags.c_contiguous else "C"
            a = np.asarray(np.concatenate([a] * times, axis), order=order)
        found.append(a)
    return found


def growing(case: Case, layout: str) -> list[list[tuple[Any, ...]]]:
    """Lists of calls with operands of more and more elements along one axis, for each axis that there is."""
    found = []
    for axis in (0, -1, 1):
        calls = [tuple(longer(case.build(dtypes.float32, layout), axis, n, layout)) for n in TIMES]
        try:
            for call in calls:
                with np.errstate(all="ignore"):
                    case.op.on_arrays(call, case.attr_values)
        except (ValueError, IndexError):
            continue
        found.append(calls)
    return found


def planned(case: Case, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether any calls of a case had one plan, whose bits were those of programs."""
    any_plan = False
    for layout in LAYOUTS:
        for calls in growing(case, layout):
            with monkeypatch.context() as single:
                single.setattr(eager, "programs", {})
                try:
                    expected = [results(run_op(case.op, call, case.attr_values)) for call in calls]
                except ValueError:
                    # Sizes among the attributes do not fit, which the oracle does not look at.
                    continue
            with monkeypatch.context() as several:
                opened(several)
                found = [results(run_op(case.op, call, case.attr_values)) for call in calls]
                any_plan |= bool(kind_of(case.op, calls[-1], case.attr_values)[0].ways)
            for one, other in zip(found, expected, strict=True):
                for f, e in zip(one, other, strict=True):
                    assert f.flags.c_contiguous
                    assert (f.dtype, f.shape, f.tobytes()) == (e.dtype, e.shape, e.tobytes())
    return any_plan


@pytest.mark.parametrize("op", dict.fromkeys(case.op for case in CASES), ids=lambda op: op.name)
@pytest.mark.usefixtures("one_by_one")
def test_one_plan_has_the_bits_of_programs(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [planned(case, monkeypatch) for case in CASES if case.op is op]
    assert any(found) is (op.name not in WITHOUT_PLAN)


@pytest.mark.parametrize(
    "function", [sizes.rows, sizes.columns, sizes.views, sizes.products, sizes.places, sizes.picks]
)
@pytest.mark.usefixtures("one_by_one")
def test_functions_at_changing_sizes(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes meet one another, and shrink to 1 and 0."""
    every = [*sizes.SIZES, *reversed(sizes.SIZES)]
    expected = [sizes.outcome(function, sizes.given(i, *size)) for i, size in enumerate(every)]
    opened(monkeypatch)
    assert [sizes.outcome(function, sizes.given(i, *size)) for i, size in enumerate(every)] == expected
    assert any(kind.ways for kind in eager_open._kinds.values())


def test_an_index_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_NUMPY_WORK", 0)
    opened(monkeypatch)
    for n in (4, 5, 6, 7):
        x = np.arange(2.0 * n, dtype=np.float32).reshape(n, 2)
        np.testing.assert_array_equal(run_op(ops.take, (x, np.array([n - 1])), (0,)), x[-1:])
        with pytest.raises(IndexError):
            run_op(ops.take, (x, np.array([n])), (0,))
