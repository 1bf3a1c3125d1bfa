"""Every record is complete, and its typing rule says what its NumPy function computes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.cases import ALL_CASES, LAYOUTS, Case, cases
from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops.record import Op, ops

KINDS = {dtypes.BOOL: "b", dtypes.INT: "i", dtypes.FLOAT: "f"}


def supported(case: Case) -> list[dtypes.dtype]:
    """The element types of a case, by its record's kinds and its own."""
    return [d for d in dtypes.ALL if KINDS[d.category] in case.op.kinds and KINDS[d.category] in case.types]


def aval(x: object) -> object:
    return Aval(x.shape, dtypes.from_numpy(x.dtype)) if isinstance(x, np.ndarray) else x


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_typing_rule_agrees_with_numpy(case: Case) -> None:
    for dtype in supported(case):
        for layout in LAYOUTS:
            operands = case.build(dtype, layout)
            with np.errstate(all="ignore"):
                out = case.op.on_arrays(tuple(operands), case.attr_values)
            expected = case.op.infer(*map(aval, operands), *case.attr_values)
            results = out if len(case.op.results) > 1 else (out,)
            found = tuple(Aval(np.shape(r), dtypes.from_numpy(np.asarray(r).dtype)) for r in results)
            assert found == (expected if len(case.op.results) > 1 else (expected,)), (dtype, layout)


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_layout_changes_no_bit(case: Case) -> None:
    for dtype in supported(case):
        with np.errstate(all="ignore"):
            plain, other = (
                np.asarray(case.op.on_arrays(tuple(case.build(dtype, layout)), case.attr_values)[0])
                if len(case.op.results) > 1
                else np.asarray(case.op.on_arrays(tuple(case.build(dtype, layout)), case.attr_values))
                for layout in ("contiguous", "strided")
            )
        if case.op.exact:
            assert plain.tobytes() == other.tobytes(), dtype
        else:
            wide = [x.astype(dtypes.widened(dtypes.from_numpy(x.dtype)).np) for x in (plain, other)]
            np.testing.assert_allclose(*wide, rtol=1e-2 if dtype in dtypes.HALVES else 1e-5)


@pytest.mark.parametrize("op", list(ops), ids=repr)
def test_record_is_complete(op: Op) -> None:
    assert op.doc.endswith((".", ":")) or "\n" in op.doc
    assert op.doc.split("\n")[0].endswith(".")
    assert cases(op)
    assert set(op.kinds) <= set("bif")
    assert op.sample[0] < op.sample[1]
    assert bool(op.rules) != bool(op.nograd), "a record has gradient rules, or says why it has none"
    assert set(op.rules) <= set(op.params)
    if op.family == "elementwise":
        assert op.compiled == (op.expr is not None)
    else:
        assert op.expr is None


@pytest.mark.parametrize("op", ops.family("elementwise"), ids=repr)
def test_text_uses_its_operands_only(op: Op) -> None:
    texts = op.expr.values() if isinstance(op.expr, dict) else [op.expr] if op.expr else []
    for text in texts:
        if text != "cast":
            text.format(**dict.fromkeys(op.params, "v"), t="f32")
            # Some numbers are for the gradient alone.
            asked = {op.params[i] for rule in op.rules.values() for kind, i in rule.needs if kind == "param"}
            assert all("{" + p + "}" in text or p in asked for p in op.params)


def test_kinds_of_texts_are_those_of_the_record() -> None:
    for op in ops.family("elementwise"):
        if isinstance(op.expr, dict):
            assert set(op.expr) == set(op.kinds), op


def test_a_rule_with_an_unknown_name_is_refused() -> None:
    def f(x: object) -> None:
        """Nothing."""

    with pytest.raises(TypeError, match="gradient rule of f for x: unknown name 'z'"):
        Op(f, "elementwise", lambda x: x, np.exp, vjp={"x": lambda ct, z: ct})
