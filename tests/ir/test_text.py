"""Graphs print as Python and parse back to the same graph."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from tests.ir.random_graphs import random_graph
from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.graph import Graph
from tracejit.ir.node import apply, const, const_value, input, item, scalar
from tracejit.ir.text import number_text, parse_graph, print_graph, value_text
from tracejit.ops.record import ops

F32 = dtypes.float32


@pytest.mark.parametrize("seed", range(100))
def test_any_graph_comes_back(seed: int) -> None:
    graph = random_graph(seed)
    assert parse_graph(print_graph(graph)) == graph
    bare = parse_graph(print_graph(graph, lines=False))
    assert (bare.outputs, bare.inputs, bare.homes) == (graph.outputs, graph.inputs, graph.homes)
    assert not bare.lines
    assert not bare.labels


def test_the_text_reads_well() -> None:
    x, y = input(0, Aval((2, 3), F32)), input(1, Aval((3,), dtypes.float32), (2,))
    t = apply(ops.tanh, apply(ops.add, x, y))
    graph = Graph((x, y), ("f",), (apply(ops.mul, t, scalar(0, "f")), x), {1: 0}, "step")
    graph.lines[t] = "train.py:12"
    graph.labels[t] = "gelu"
    assert print_graph(graph) == (
        "@graph(homes={1: 0})\n"
        "def step(x0: f32[2, 3], x1: f32[3, strides(2)], s0: float):\n"
        "    t0 = add(x0, x1)  # f32[2,3]\n"
        "    t1 = tanh(t0)  # f32[2,3]  train.py:12  <gelu>\n"
        "    t2 = mul(t1, s0)  # f32[2,3]\n"
        "    return t2, x0\n"
    )


def nan(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


@pytest.mark.parametrize(
    "value",
    [0, 1, -1, 2**70, True, False, 0.0, -0.0, 0.1, 1e300, 5e-324, math.inf, -math.inf, math.nan,
     nan(0xFFF8000000000000), nan(0x7FF8000000000123)],
)  # fmt: skip
def test_numbers_keep_type_and_bits(value: Any) -> None:
    x = input(0, Aval((), dtypes.float64))
    graph = Graph((x,), (), (apply(ops.add, x, value),))
    again = parse_graph(print_graph(graph))
    assert again.outputs[0] is graph.outputs[0]
    number = const_value(again.outputs[0].args[1])
    assert type(number) is type(value)
    assert number_text(number) == number_text(value)
    assert const(number) is const(value)


def test_several_results_and_zero_dimensions() -> None:
    x = input(0, Aval((1, 1, 2, 2), F32))
    y = input(1, Aval((), dtypes.int64))
    z = input(2, Aval((0, 1), dtypes.bool))
    pooled = apply(
        ops.max_pool2d, x, kernel=(2, 2), stride=(1, 1), padding=(0, 0), dilation=(1, 1), ceil_mode=False
    )
    graph = Graph((x, y, z), (), (item(pooled, 1), y, z), {1: 1})
    text = print_graph(graph)
    assert "x1: i64[()], x2: b1[0, 1]" in text
    assert "# (f32[1,1,1,1],i64[1,1,1,1])" in text
    assert parse_graph(text) == graph


def test_names_and_lines_that_are_no_plain_words() -> None:
    x = input(0, Aval((2,), F32))
    y = apply(ops.exp, x)
    lines = {y: "two  spaces 'and' \"quotes\"\n<b>", x: "'quoted'"}
    graph = Graph((x,), (), (y,), {}, "my step", lines, {y: "a > b  < c", x: "<>"})
    assert parse_graph(print_graph(graph)) == graph


def test_a_graph_of_nothing() -> None:
    assert parse_graph(print_graph(Graph((), (), ()))) == Graph((), (), ())


def test_checks_come_back() -> None:
    x, places = input(0, Aval((4,), F32)), input(1, Aval((2,), dtypes.int64))
    looks = [apply(ops.take, x, places, dim=0), apply(ops.wrap_index, places, size=4)]
    graph = Graph((x, places), (), (apply(ops.exp, x),), checks=tuple(looks))
    assert "    check(t1, t2)\n    return t0\n" in print_graph(graph, lines=False)
    assert parse_graph(print_graph(graph)) == graph


def test_calls_may_be_nested() -> None:
    graph = parse_graph("def f(a: f32[2]):\n    return mul(exp(a), -0.0)\n")
    x = input(0, Aval((2,), F32))
    assert graph.outputs == (apply(ops.mul, apply(ops.exp, x), -0.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "one function"),
        ("def f(a: f33[2]):\n    return a\n", r"line 1: expected a type .*: a: f33\[2\]"),
        ("def f(a: f32[2]):\n    return b\n", "line 2: this name is not defined: b"),
        ("def f(a: f32[2]):\n    t = expp(a)\n    return t\n", r"line 2: there is no such operation: expp\(a\)"),
        ("def f(a: f32[2]):\n    t = a + a\n    return t\n", r"line 2: expected a call of an operation: a \+ a"),
        ("def f(a: f32[2]):\n    a\n", "line 2: expected an assignment, a check or a return: a"),
        ("def f(a: f32[2]):\n    look(a)\n    return a\n", r"line 2: expected check: look\(a\)"),
        ("def f(a: f32[2]):\n    t = exp(a + 1)\n", r"line 2: expected a value: a \+ 1"),
        ("@graph(house={})\ndef f(a: f32[2]):\n    return a\n", "expected homes or name"),
    ],
)
def test_what_is_not_understood_is_named(text: str, message: str) -> None:
    with pytest.raises(SyntaxError, match=message):
        parse_graph(text)


def test_an_attribute_without_text_is_refused() -> None:
    with pytest.raises(TypeError, match="an attribute of type list has no text"):
        value_text([1])
