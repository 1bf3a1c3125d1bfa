"""Library operations that are a unit a thread on a GPU: gathers, scatters and the like, with the CPU's bits."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.running import Execution, check, kernels_of
from tests.ops.cases import FOR_CPUS, cases
from tests.programs import graph_of, make
from tracejit import dtypes
from tracejit.ir.node import Node, item
from tracejit.ops import Op, ops
from tracejit.runtime import ptx

UNIT_BY_UNIT = (
    "take", "gather", "scatter", "scatter_add", "index_add", "index_copy", "wrap_index", "cumsum", "cumprod",
    "linear_recurrence", "argmax", "argmin",
)  # fmt: skip


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("name", UNIT_BY_UNIT)
def test_operations_have_the_bits_of_the_cpu(name: str, layout: str) -> None:
    op = getattr(ops, name)
    if layout == "strided":
        kinds = [dtypes.float32]
    else:
        other = dtypes.int32 if name.startswith("cum") else dtypes.bool
        kinds = [dtypes.float16, other if "i" in op.kinds else dtypes.float64]
    for case in cases(op):
        for kind in kinds:
            arrays = case.build(kind, layout)
            graph = graph_of(lambda *nodes, case=case: make(name, *nodes, **case.attrs), *arrays)
            execution = check(graph, arrays)
            assert execution.kernels or not graph.outputs[0].tensor.numel


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_the_first_of_equal_elements_is_found(name: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-2, 3, (6, 700)).astype(np.float32)
    x[1, 600], x[2, 5], x[2, 699], x[3], x[4] = np.nan, np.nan, np.nan, -0.0, np.inf
    x[3, 300] = 0.0
    least = np.full((2, 300), np.iinfo(np.int64).min)
    for dim in (0, 1):
        for array in (x, least):
            check(graph_of(lambda x, dim=dim: make(name, x, dim=dim), array), [array])


def test_additions_to_one_place_go_in_order() -> None:
    rng = np.random.default_rng(3)
    x, index = np.zeros((5, 40), np.float32), rng.integers(0, 5, (64, 40))
    source = rng.standard_normal((64, 40)).astype(np.float32)
    graph = graph_of(lambda x, i, s: make("scatter_add", x, i, s, dim=0), x, index, source)
    (result,) = Execution(graph, [x, index, source], (), True).run()
    expected = x.copy()
    for row in range(64):
        for column in range(40):
            expected[index[row, column], column] += source[row, column]
    assert result.tobytes() == expected.tobytes()


def test_an_index_out_of_range_is_reported_and_nothing_is_read_there() -> None:
    x, index = np.ones((4, 3), np.float32), np.array([0, 4, 1])
    graph = graph_of(lambda x, i: make("take", x, i, dim=0), x, index)
    execution = Execution(graph, [x, index], (), True)
    with pytest.raises(IndexError):
        execution.run()
    assert len(execution.kernels) == 2


@pytest.mark.parametrize("op", ops.family("library"), ids=lambda op: op.name)
def test_every_operation_has_gpu_kernels(op: Op) -> None:
    def build(*operands: Node) -> tuple[Node, ...]:
        made = make(op.name, *operands, **cases(op)[0].attrs)
        return tuple(item(made, k) for k in range(len(op.results))) if len(op.results) > 1 else (made,)

    for kind in (dtypes.float32, dtypes.float16, dtypes.float64):
        arrays = cases(op)[0].build(kind)
        if op.name in FOR_CPUS:
            with pytest.raises(NotImplementedError, match=f"'{op.name}'"):
                kernels_of(graph_of(build, *arrays))
            continue

        found = kernels_of(graph_of(build, *arrays), library=True)
        assert any(kernel.doc == f"Library: {op.name}." for kernel in found)


def test_ptx_of_a_library_kernel_has_a_status() -> None:
    x, index = np.ones((4, 3), np.float32), np.array([0, 1, 1])
    kernels = kernels_of(graph_of(lambda x, i: make("take", x, i, dim=0), x, index), library=True)
    assert [k.function.__name__ for k in kernels if k.function] == ["check_index_i64", "take_i32_i64"]
    for kernel in kernels:
        for capability in ptx.CAPABILITIES:
            text = ptx.translate(kernel, capability)
            assert f"{kernel.name}_param_2" in text
            assert ".extern" not in text
            assert ".local" not in text


@pytest.mark.parametrize("inner", [3, 40, 150])
@pytest.mark.parametrize("name", ["index_add", "index_copy"])
def test_rows_that_are_named_several_times(name: str, inner: int) -> None:
    rng = np.random.default_rng(inner)
    for outer in (1, 2):
        x = rng.standard_normal((outer, 5, inner)).astype(np.float32)
        index, src = rng.integers(0, 5, 70), rng.standard_normal((outer, 70, inner)).astype(np.float32)
        graph = graph_of(lambda x, i, s: make(name, x, i, s, dim=1), x, index, src)
        execution = check(graph, [x, index, src])
        assert execution.kernels[-1].name.startswith(f"cuda_{name}_f32_i64_")


def test_long_lines_are_a_threads_and_short_ones_a_blocks() -> None:
    rng = np.random.default_rng(7)
    for n in (300, 600):
        x, index = np.zeros((2, 9), np.float32), rng.integers(0, 9, (2, n))
        source = rng.standard_normal((2, n)).astype(np.float32)
        graph = graph_of(lambda x, i, s: make("scatter_add", x, i, s, dim=1), x, index, source)
        kernel = check(graph, [x, index, source]).kernels[-1]
        assert (kernel.function is None) == (n == 300)


@pytest.mark.parametrize("wrong", [-1, 4])
@pytest.mark.parametrize("name", ["index_add", "index_copy", "scatter_add"])
def test_nothing_is_done_at_an_index_out_of_range(name: str, wrong: int) -> None:
    x, index, source = np.ones((4, 3), np.float32), np.array([0, wrong, 1]), np.ones((3, 3), np.float32)
    index = np.repeat(index[:, None], 3, axis=1) if name == "scatter_add" else index
    graph = graph_of(lambda x, i, s: make(name, x, i, s, dim=0), x, index, source)
    execution = Execution(graph, [x, index, source], (), True)
    with pytest.raises(IndexError):
        execution.run()
    assert any(kernel.name.startswith(f"cuda_{name}") and kernel.function is None for kernel in execution.kernels)
