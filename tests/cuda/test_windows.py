"""Convolutions as GPU kernels: the CPU's bits where the order of additions is its own, else near float64."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.cuda.running import Execution, check, kernels_of
from tests.ops.cases import cases
from tests.programs import graph_of, make
from tracejit import dtypes
from tracejit.eager import run_op
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.kernels.cuda import conv, product
from tracejit.ops import ops
from tracejit.runtime import ptx

RNG = np.random.default_rng(23)
PLAIN: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}


def array(*shape: int, kind: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(kind)


def near(graph: Graph, arrays: list[np.ndarray], vectors: bool = True) -> Execution:
    """Asserts that the kernels of one operation are near it in float64: what each term adds to a result may be off by
    16 roundings of its own size.
    """
    execution = Execution(graph, arrays, (), vectors)
    (output,) = graph.outputs
    wide = [a.astype(np.float64) for a in arrays]
    exact, terms = (run_op(output.op, tuple(given), output.attrs) for given in (wide, map(np.abs, wide)))
    (result,) = execution.run()
    allowed = 16 * np.finfo(result.dtype).eps * terms
    assert (np.abs(result - exact) <= allowed).all()
    return execution


CONVOLUTIONS = [
    # images, channels, sides, output channels, taps, attributes
    ((2, 5, 9, 8), (6, 5, 3, 3), PLAIN),
    ((2, 8, 7, 6), (12, 4, 3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}),
    ((1, 16, 1, 40), (8, 16, 1, 5), {**PLAIN, "padding": (0, 2), "stride": (1, 3)}),
    ((3, 8, 4, 4), (8, 8, 1, 1), PLAIN),
    ((2, 6, 8, 8), (6, 1, 3, 3), {**PLAIN, "padding": (1, 1), "groups": 6}),
    ((2, 4, 7, 7), (8, 1, 3, 3), {**PLAIN, "padding": (1, 1), "stride": (2, 2), "groups": 4}),
]


def graphs(x: np.ndarray, w: np.ndarray, attrs: dict[str, Any]) -> dict[str, tuple[Graph, list[np.ndarray]]]:
    """A convolution and its two gradients."""
    y = run_op(ops.conv2d, (x, w), ops.conv2d.pack(attrs))
    ct = array(*np.shape(y), kind=x.dtype.name)
    size, kernel = x.shape[2:], w.shape[2:]
    return {
        "conv2d": (graph_of(lambda x, w: make("conv2d", x, w, **attrs), x, w), [x, w]),
        "conv2d_input_grad": (
            graph_of(lambda ct, w: make("conv2d_input_grad", ct, w, size=size, **attrs), ct, w),
            [ct, w],
        ),
        "conv2d_weight_grad": (
            graph_of(lambda ct, x: make("conv2d_weight_grad", ct, x, kernel=kernel, **attrs), ct, x),
            [ct, x],
        ),
    }


@pytest.mark.parametrize("number", range(len(CONVOLUTIONS)))
def test_convolutions(number: int) -> None:
    image, weight, attrs = CONVOLUTIONS[number]
    for name, (graph, arrays) in graphs(array(*image), array(*weight), attrs).items():
        vectors = number % 2 == 0
        if name == "conv2d_weight_grad" and attrs["groups"] in image:
            near(graph, arrays, vectors)
        else:
            check(graph, arrays, vectors=vectors)


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_element_types(kind: str) -> None:
    image, weight, attrs = (1, 4, 3, 2), (4, 4, 2, 2), {**PLAIN, "padding": (1, 0)}
    for graph, arrays in graphs(array(*image, kind=kind), array(*weight, kind=kind), attrs).values():
        check(graph, arrays)


@pytest.mark.parametrize("name", ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"])
def test_cases_of_the_records(name: str) -> None:
    for case in cases(getattr(ops, name)):
        for layout in ("contiguous", "transposed"):
            arrays = case.build(dtypes.float32, layout)
            graph = graph_of(lambda *nodes, case=case: make(name, *nodes, **case.attrs), *arrays)
            (near if name == "conv2d_weight_grad" else check)(graph, arrays)


@pytest.mark.parametrize("tile", [product.LARGE, product.MEDIUM], ids=lambda tile: str(tile.side))
def test_tiles(tile: product.Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "tile_for", lambda *args: tile)
    found = graphs(array(2, 4, 4, 10), array(6, 4, 3, 2), {**PLAIN, "padding": (1, 1)})
    for name in ["conv2d"] if tile is product.LARGE else found:
        check(*found[name])


def test_a_weights_gradient_is_summed_in_parts() -> None:
    graph, arrays = graphs(array(2, 4, 20, 20), array(5, 4, 1, 1), PLAIN)["conv2d_weight_grad"]
    execution = near(graph, arrays)
    assert [k.name.rpartition("_")[0] for k in execution.kernels] == [
        "cuda_conv2d_weight_grad_f32_32",
        "cuda_add_parts_f32",
    ]


def test_nothing_to_do_and_nothing_to_add() -> None:
    for image, weight in (((0, 4, 5, 5), (4, 4, 3, 3)), ((2, 0, 5, 5), (4, 0, 3, 3))):
        for graph, arrays in graphs(array(*image), array(*weight), PLAIN).values():
            check(graph, arrays)


def test_ptx() -> None:
    for shape in ((64, 32, 32, 32), (1, 32, 4, 4)):
        for graph, _ in graphs(array(*shape), array(32, 32, 3, 3), PLAIN).values():
            for kernel in kernels_of(graph, library=True):
                for capability in ptx.CAPABILITIES if shape[0] == 1 and "grad" not in kernel.name else (75,):
                    text = ptx.translate(kernel, capability)
                    assert ".local" not in text
                    assert ".extern" not in text
                    # Sizes are divided by with products and shifts.
                    assert not re.search(r"^\s*(?:div|rem)\.", text, re.MULTILINE)


def pooled(name: str, given: list[np.ndarray], attrs: dict[str, Any]) -> Graph:
    """The graph of a pooling; of a maximum both results."""
    if name != "max_pool2d":
        return graph_of(lambda *of: make(name, *of, **attrs), *given)

    def both(x: nodes.Node) -> tuple[nodes.Node, nodes.Node]:
        made = make(name, x, **attrs)
        return nodes.item(made, 0), nodes.item(made, 1)

    return graph_of(both, *given)


@pytest.mark.parametrize("name", ["max_pool2d", "max_pool2d_grad", "avg_pool2d", "avg_pool2d_grad"])
def test_pooling(name: str) -> None:
    for case in cases(getattr(ops, name)):
        for kind in (dtypes.float32, dtypes.float16, dtypes.float64):
            arrays = case.build(kind, "transposed" if kind is dtypes.float32 else "contiguous")
            check(pooled(name, arrays, case.attrs), arrays)


@pytest.mark.parametrize("name", ["resample", "resample_grad"])
def test_resampling(name: str) -> None:
    for case in cases(getattr(ops, name)):
        for kind in (dtypes.float32, dtypes.float64):
            arrays = case.build(kind, "transposed" if kind is dtypes.float32 else "contiguous")
            check(graph_of(lambda x, case=case: make(name, x, **case.attrs), *arrays), arrays)


def test_maxima_of_nothing_greater_and_of_nan() -> None:
    x = RNG.integers(-2, 3, (2, 2, 9, 8)).astype(np.float32)
    x[0, 0, 3:6, 2:5], x[0, 1, 4], x[1, 0] = np.nan, -np.inf, -np.inf
    attrs = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 1), "dilation": (1, 2), "ceil_mode": True}
    check(pooled("max_pool2d", [x], attrs), [x])
