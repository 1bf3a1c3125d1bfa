"""Long rows of arithmetic are folded where they are computed, in the order of every fold."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.programs import check, graph_of, make, run_compiled
from tracejit.compiler import compile_graph
from tracejit.ir.node import Node
from tracejit.kernels.fold import LANES
from tracejit.runtime import frontend
from tracejit.runtime.build import build, function_of
from tracejit.runtime.team import launch
from tracejit.schedule import cost

RNG = np.random.default_rng(8)
LONG = 3 * cost.BLOCK
IN_LANES = "load_lanes_"


def is_in_lanes(compute: Callable[..., Node], *arrays: np.ndarray) -> bool:
    """Checks the bits of a program; says whether its first kernel loads lanes."""
    compiled = check(graph_of(compute, *arrays), list(arrays))
    return IN_LANES in compiled.kernels[0].text


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rest", [0, 1, LANES - 1, LANES, 5 * LANES + 3])
def test_squares(dtype: type, rest: int) -> None:
    x = RNG.standard_normal(LONG + rest).astype(dtype)
    assert is_in_lanes(lambda x: make("sum", make("mul", x, x), dim=0), x)


@pytest.mark.parametrize("what", ["sum", "prod", "amax", "amin"])
def test_every_fold(what: str) -> None:
    x = (1 + RNG.standard_normal((2, LONG + 7)) / 1000).astype(np.float32)
    x[1, 100], x[1, 5000] = np.nan, np.inf
    assert is_in_lanes(lambda x: make(what, make("neg", x), dim=1), x)


def test_minus_zeros_stay() -> None:
    x = np.zeros(LONG + 1, np.float32)
    graph = graph_of(lambda x: make("sum", make("neg", x), dim=0), x)
    compiled = check(graph, [x])
    (result,) = run_compiled(compiled, graph, [x], ())
    assert IN_LANES in compiled.kernels[0].text
    assert np.signbit(result)


def test_numbers_and_operands_of_a_row() -> None:
    x, y = (RNG.standard_normal((3, LONG + 40)).astype(np.float32) for _ in range(2))
    mean = RNG.standard_normal((3, 1)).astype(np.float32)

    def distance(x: Node, y: Node, mean: Node) -> Node:
        apart = make("sub", make("mul", make("sub", x, mean), 1.5), make("div", y, -0.0))
        return make("sum", make("mul", apart, make("add", apart, 0.0)), dim=1)

    with np.errstate(all="ignore"):
        assert is_in_lanes(distance, x, y, mean)


def test_more_than_arithmetic_is_not_done_in_lanes() -> None:
    x = RNG.standard_normal(LONG + 7).astype(np.float32)
    assert not is_in_lanes(lambda x: make("sum", make("exp", x), dim=0), x)
    assert not is_in_lanes(lambda x: make("sum", make("mul", x, x), dim=0), x.astype(np.float16))
    # Every other element.
    pairs = RNG.standard_normal((LONG, 2)).astype(np.float32)
    assert not is_in_lanes(lambda x: make("sum", make("mul", x, x), dim=0), pairs[:, 0])


def test_nothing_beyond_a_row_is_asked_for() -> None:
    x = np.ones(LONG + 7, np.float32)
    text = check(graph_of(lambda x: make("sum", make("mul", x, x), dim=0), x), [x]).kernels[0].text
    assert text.count("prefetch_to_read") == LANES * 4 // cost.LINE
    assert f"min(first + {cost.BLOCK}, " in text


@pytest.mark.parametrize("rest", [0, 1, LANES - 1])
@pytest.mark.parametrize("short", ["f32", "f64"])
@pytest.mark.parametrize("what", ["sum", "prod", "amax", "amin"])
def test_lanes_in_parts_are_those_of_the_whole(what: str, short: str, rest: int) -> None:
    dtype = {"f32": np.float32, "f64": np.float64}[short]
    x = RNG.standard_normal(2 * LANES + rest).astype(dtype)
    name = f"lanes_in_parts_{what}_{short}"
    text = f"def {name}(p, lo, hi):\n"
    text += "    x = load_arg(p, 0)\n"
    text += f"    lanes = start_lanes_{what}_{short}()\n"
    text += "    for k in range(lo, hi):\n"
    text += f"        lanes = {what}_into_lanes_{short}(lanes, load_lanes_{short}(x + k * {LANES * x.itemsize}))\n"
    text += f"    lanes = {what}_rest_lanes_{short}(lanes, x + {2 * LANES * x.itemsize}, load_arg(p, 2))\n"
    text += f"    store_{short}(load_arg(p, 1), 0, {what}_of_lanes_{short}(lanes))\n"
    text += f"    store_{short}(load_arg(p, 1), 1, fold_{what}_{short}(x, {2 * LANES} + load_arg(p, 2)))\n"
    text += "    return 0\n"
    out = np.zeros(2, dtype)
    assert launch(build(text, name).address, 2, 1.0, x, out, rest) == 0
    assert out[0] == out[1] != 0


def test_lanes_of_a_loop_are_in_registers() -> None:
    x = RNG.standard_normal(LONG).astype(np.float32)
    text = check(graph_of(lambda x: make("sum", make("mul", x, x), dim=0), x), [x]).kernels[0].text
    loop = text[text.index("for first in") : text.index("for j in")]
    assert "sum_into_lanes_f32" in loop
    assert "store_" not in loop
    # Without numba, whose front half alone takes longer than all else.
    name = text[len("def ") : text.index("(")]
    assert f"fadd <{LANES} x float>" in frontend.lower_directly(function_of(text, name), text).text


def test_numba_knows_lanes() -> None:
    text = "def lanes_by_numba(p, lo, hi):\n"
    text += "    x = load_lanes_f32(load_arg(p, 0))\n"
    text += "    x = sum_into_lanes_f32(x, add_lanes_f32(neg_lanes_f32(x), spread_lanes_f32(float32(2.0))))\n"
    text += "    store_f32(load_arg(p, 1), 0, sum_of_lanes_f32(x))\n"
    text += "    return 0\n"
    lowered = frontend.lower_by_numba(function_of(text, "lanes_by_numba"))
    assert f"fadd <{LANES} x float>" in lowered.text


@pytest.mark.parametrize("what", ["amax", "amin"])
def test_extremes_of_columns_are_stored_whole(what: str) -> None:
    """LLVM would make a choice between what is stored and what is there a masked store, which is slow on some CPUs."""
    x = np.zeros((300, 200), np.float32)
    kernels = compile_graph(graph_of(lambda x: make(what, x, dim=0), x)).kernels
    (kernel,) = [kernel.kernel for kernel in kernels if kernel.name.startswith(f"column_{what}")]
    assert not re.search(r"maskmov\w+\s+%[yx]mm\d+, %[yx]mm\d+, [^%]", kernel.assembly())
