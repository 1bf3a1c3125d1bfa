"""Attention kernels: splits, places at the edges of memory, strides, empty sizes, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.launching import fenced, launch, operand
from tracejit.kernels.attention import (
    plan_attention,
    plan_attention_grad,
    plan_masked_attention,
    plan_masked_attention_grad,
)
from tracejit.kernels.launch import Operand
from tracejit.ops import ops
from tracejit.tensor.functional import attention as functional

# Batch, heads, queries, keys, width, depth.
SIZES = [
    (2, 3, 5, 7, 3, 4),
    (1, 2, 50, 33, 17, 40),
    (1, 1, 49, 64, 32, 8),
    (1, 2, 1, 1, 1, 1),
    (1, 1, 3, 4100, 4, 5),
    (1, 2, 0, 4, 3, 2),
    (1, 2, 4, 0, 3, 2),
    (1, 2, 4, 5, 0, 2),
    (1, 2, 4, 5, 3, 0),
    (0, 2, 4, 5, 3, 2),
]
KINDS = ["plain", "causal", "flags", "added"]


def problem(sizes: tuple[int, ...], kind: str, dtype: str) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Operands as they come from one projection, a mask, and attributes; the last is a gradient of the result."""
    batch, heads, length, source, width, depth = sizes
    rng = np.random.default_rng(sum(sizes))

    def drawn(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((batch, rows, heads, columns)).astype(dtype).transpose(0, 2, 1, 3)

    arrays = [drawn(length, width), drawn(source, width), drawn(source, depth)]
    if kind == "flags":
        arrays.append(np.broadcast_to(rng.random((length, source)) > 0.5, (batch, heads, length, source)))
    elif kind == "added":
        added = rng.standard_normal((batch, 1, 1, source)).astype(dtype)
        arrays.append(np.broadcast_to(np.where(added > 1, -np.inf, added), (batch, heads, length, source)))
    attrs = {"scale": 0.3} if len(arrays) == 4 else {"scale": 0.3, "causal": kind == "causal"}
    return [*arrays, drawn(length, depth).transpose(0, 2, 1, 3)], attrs


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.full(shape, 77, dtype)


def attend(operands: list[np.ndarray], attrs: dict[str, Any], pieces: int = 1) -> list[np.ndarray]:
    """Result and stats, then the gradients of queries, keys and values."""
    *inputs, ct = operands
    q, k, v = inputs[:3]
    plan, plan_back = (
        (plan_attention, plan_attention_grad)
        if len(inputs) == 3
        else (plan_masked_attention, plan_masked_attention_grad)
    )
    kind = q.dtype.name
    found = [empty(ct.shape, kind), empty((*q.shape[:3], 2), kind)]
    assert launch(plan(*map(operand, [*inputs, *found]), **attrs), [*inputs, *found], pieces) == 0
    back = [ct, *inputs, found[1]]
    grads = [empty(x.transpose(0, 2, 1, 3).shape, kind) for x in (q, k, v)]
    assert launch(plan_back(*map(operand, [*back, *grads]), **attrs), [*back, *grads], pieces) == 0
    return [*found, *grads]


def oracle(operands: list[np.ndarray], attrs: dict[str, Any]) -> list[np.ndarray]:
    *inputs, ct = operands
    record, back = (
        (ops.attention, ops.attention_grad) if len(inputs) == 3 else (ops.masked_attention, ops.masked_attention_grad)
    )
    out, stats = record.numpy(*inputs, *record.pack(attrs))
    return [out, stats, *back.numpy(ct, *inputs, stats, *back.pack(attrs))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_agrees_with_numpy_however_it_is_split(sizes: tuple[int, ...], dtype: str, kind: str) -> None:
    operands, attrs = problem(sizes, kind, dtype)
    whole = attend(operands, attrs)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for found, expected in zip(whole, oracle(operands, attrs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 10)
    for pieces in (2, 3, 7):
        for found, again in zip(whole, attend(operands, attrs, pieces), strict=True):
            assert found.tobytes() == again.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [False, True])
def test_touches_nothing_beside_its_operands(kind: str, end: bool) -> None:
    operands, attrs = problem((1, 2, 29, 37, 19, 21), kind, "float32")
    expected = attend(operands, attrs)
    kept = [fenced(np.ascontiguousarray(x), end=end) for x in operands]
    for found, other in zip(attend(kept, attrs), expected, strict=True):
        assert found.tobytes() == other.tobytes()


def test_a_row_that_sees_nothing_is_zero_and_has_no_gradient() -> None:
    operands, attrs = problem((1, 1, 9, 6, 4, 3), "flags", "float32")
    operands[3] = np.zeros((1, 1, 9, 6), bool)
    operands[3][:, :, 4, 2] = True
    out, stats, dq, dk, dv = attend(operands, attrs)
    assert np.array_equal(stats[0, 0, :, 1], np.arange(9) == 4)
    assert np.array_equal(out[0, :, 0] != 0, np.repeat(np.arange(9)[:, None] == 4, 3, 1))
    assert np.array_equal(dv[0, :, 0] != 0, np.repeat(np.arange(6)[:, None] == 2, 3, 1))
    assert not dq.any()
    assert not dk.any()


def test_keys_that_no_row_sees_change_nothing() -> None:
    operands, attrs = problem((1, 1, 7, 20, 4, 3), "causal", "float32")
    whole = attend(operands, attrs)
    for x in operands[1:3]:
        x[:, :, 7:] = np.nan
    for found, expected in zip(attend(operands, attrs), whole, strict=True):
        assert found.tobytes() == expected.tobytes()


def of(shape: tuple[int, ...], strides: tuple[int, ...] | None = None, dtype: str = "float32") -> Operand:
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    return Operand(dtype, shape, strides)


def planned(q: Operand, k: Operand, v: Operand) -> tuple[Any, ...]:
    batch, heads, length, _ = q.shape
    out, stats = of((batch, length, heads, v.shape[3])), of((batch, heads, length, 2))
    return plan_attention(q, k, v, out, stats, 1.0, False)


def test_what_does_not_fit_is_refused() -> None:
    q = of((1, 2, 3, 4))
    with pytest.raises(ValueError, match="shapes do not fit"):
        planned(q, of((1, 2, 5, 3)), of((1, 2, 5, 4)))
    with pytest.raises(ValueError, match="dtypes differ"):
        planned(q, q, of((1, 2, 3, 4), dtype="float64"))
    with pytest.raises(ValueError, match="rows of an operand must be contiguous"):
        planned(of((1, 2, 3, 4), (24, 12, 1, 3)), q, q)
    with pytest.raises(NotImplementedError, match="no kernel for int32"):
        planned(*[of((1, 2, 3, 4), dtype="int32")] * 3)
    with pytest.raises(NotImplementedError, match="no kernel for 65521 keys"):
        planned(of((1, 1, 1, 1)), of((1, 1, 65521, 1)), of((1, 1, 65521, 1)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_front_knows_how_many_keys_have_a_kernel(dtype: str) -> None:
    def back(keys: int) -> tuple[Any, ...]:
        one, many, stats = (of((1, 1, *s), dtype=dtype) for s in ((1, 1), (keys, 1), (1, 2)))
        turned = of((1, keys, 1, 1), dtype=dtype)
        return plan_attention_grad(one, one, many, many, stats, one, turned, turned, 1.0, False)

    most = functional._MOST_KEYS[np.dtype(dtype).itemsize]
    assert back(most)
    with pytest.raises(NotImplementedError):
        back(most + 33)


def test_scratch_memory_grows_with_the_lengths_alone() -> None:
    def scratch(length: int) -> int:
        q, stats = of((1, 1, length, 64)), of((1, 1, length, 2))
        out = of((1, length, 1, 64))
        return max(item.scratch for item in plan_attention_grad(out, q, q, q, stats, out, out, out, 1.0, True))

    assert scratch(4096) == 2 * scratch(2048) == 4096 * 5 * 64 * 4
