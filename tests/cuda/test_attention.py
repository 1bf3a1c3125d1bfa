"""Attention and its gradients as GPU kernels: near the operation in float64, and the same bits each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.cuda.running import Execution, kernels_of
from tests.ops.cases import cases
from tests.programs import graph_of, make
from tracejit import dtypes
from tracejit.eager import run_op
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.ops import ops
from tracejit.runtime import ptx

RNG = np.random.default_rng(29)
RESULTS = {"attention": 2, "masked_attention": 2, "attention_grad": 3, "masked_attention_grad": 3}


def graph_with_results(name: str, arrays: list[np.ndarray], attrs: dict[str, Any]) -> Graph:
    """The graph of an operation with all its results."""

    def build(*operands: nodes.Node) -> tuple[nodes.Node, ...]:
        made = make(name, *operands, **attrs)
        return tuple(nodes.item(made, k) for k in range(RESULTS[name]))

    return graph_of(build, *arrays)


def near(name: str, arrays: list[np.ndarray], attrs: dict[str, Any], vectors: bool = True) -> Execution:
    """Asserts that results are within 64 roundings of the greatest of them in float64."""
    execution = Execution(graph_with_results(name, arrays, attrs), arrays, (), vectors)
    op = getattr(ops, name)
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    exact = run_op(op, tuple(wide), op.pack(attrs))
    for result, wanted in zip(execution.run(), exact, strict=True):
        assert result.shape == wanted.shape
        if not wanted.size:
            continue
        kind = np.finfo(np.float32 if result.dtype == np.float16 else result.dtype)
        allowed = 64 * kind.eps * np.abs(wanted).max() + np.finfo(result.dtype).eps * np.abs(wanted)
        assert (np.abs(result - wanted) <= allowed).all(), np.abs(result - wanted).max()
    return execution


def array(*shape: int, kind: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(kind)


def operands(batch: int, heads: int, length: int, source: int, width: int, depth: int, kind: str) -> list[np.ndarray]:
    """Queries, keys and values."""
    sizes = ((length, width), (source, width), (source, depth))
    return [array(batch, heads, *size, kind=kind) for size in sizes]


def with_gradients(arrays: list[np.ndarray], mask: np.ndarray | None, attrs: dict[str, Any]) -> list[Execution]:
    """Attention and its gradients, each near the operation."""
    q, k, v = arrays
    masks = [] if mask is None else [mask]
    name = "attention" if mask is None else "masked_attention"
    op = getattr(ops, name)
    _, stats = run_op(op, (q, k, v, *masks), op.pack(attrs))
    ct = array(q.shape[0], q.shape[2], q.shape[1], v.shape[3], kind=q.dtype.name)
    return [
        near(name, [q, k, v, *masks], attrs),
        near(f"{name}_grad", [ct, q, k, v, *masks, np.asarray(stats)], attrs),
    ]


@pytest.mark.parametrize("name", ["attention", "attention_grad", "masked_attention"])
def test_cases_of_the_records(name: str) -> None:
    for case in cases(getattr(ops, name)):
        near(name, case.build(dtypes.float32), case.attrs)


def test_several_tiles() -> None:
    near("attention", operands(1, 1, 66, 40, 40, 36, "float32"), {"scale": 0.25, "causal": False})
    first, second = with_gradients(operands(1, 1, 70, 70, 36, 36, "float32"), None, {"scale": -0.25, "causal": True})
    assert len(first.kernels) == 1
    assert len(second.kernels) == 4


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_element_types(kind: str) -> None:
    near("attention", operands(1, 1, 3, 34, 4, 2, kind), {"scale": 0.5, "causal": False})


@pytest.mark.parametrize("taking", [True, False], ids=["flags", "added"])
def test_masks(taking: bool) -> None:
    arrays = operands(2, 1, 6, 37, 6, 5, "float32")
    mask = RNG.random((2, 1, 6, 37)) < 0.4
    mask[0, 0, 2] = False
    with_gradients(arrays, mask if taking else array(2, 1, 6, 37), {"scale": 0.4})


def test_longer_rows_than_a_strip() -> None:
    with_gradients(operands(1, 1, 3, 4, 68, 66, "float32"), None, {"scale": 0.1, "causal": False})


def test_a_nan_is_seen_and_only_where_it_is() -> None:
    q, k, v = operands(1, 1, 4, 5, 4, 4, "float32")
    q[0, 0, 2, 1] = np.nan
    graph = graph_with_results("attention", [q, k, v], {"scale": 1.0, "causal": False})
    out, stats = Execution(graph, [q, k, v], (), True).run()
    assert np.isnan(out[0, 2]).all()
    assert np.isnan(stats[0, 0, 2, 1])
    assert np.isfinite(np.delete(out, 2, axis=1)).all()


def test_ptx() -> None:
    arrays = operands(2, 2, 64, 64, 32, 32, "float32")
    attrs = {"scale": 0.25, "causal": True}
    back = [array(2, 64, 2, 32), *arrays, array(2, 2, 64, 2)]
    (forward,) = kernels_of(graph_with_results("attention", arrays, attrs), library=True)
    backward = kernels_of(graph_with_results("attention_grad", back, attrs), library=True)
    # Each takes a second to compile; the others are like them.
    for kernel, capability in ((forward, 75), (forward, 80), (backward[2], 75)):
        text = ptx.translate(kernel, capability)
        assert ".local" not in text
        assert ".extern" not in text
        assert "ld.global.v4.b32" in text
        assert "ld.shared.v4.b32" in text
