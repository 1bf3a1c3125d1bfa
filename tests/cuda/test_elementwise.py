"""Elementwise GPU kernels of every operation, run as PTX: the bits of eager, on all layouts and sizes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.cuda.running import Execution, assert_same, check
from tests.programs import graph_of, make, random_array, run_eagerly
from tests.test_compiler import adam
from tracejit import dtypes
from tracejit.ir.node import Node
from tracejit.ops import ops

RNG = np.random.default_rng(11)
LAYOUTS = [("contiguous", (37,)), ("transposed", (5, 7))]
WRITTEN = [op for op in ops.family("elementwise") if op.expr not in (None, "cast")]
# Types of 16 bits are computed as float32 is, and rounded: `test_bit_patterns` has them.
KINDS = {"b": ["bool"], "i": ["int32", "uint8"], "f": ["float32", "float64"]}


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _operands(op: Any, kind: str, letter: str, shape: tuple[int, ...], layout: str) -> list[np.ndarray]:
    rng = random.Random(3)
    arrays = [random_array(rng, shape, kind, layout) for _ in op.params]
    if op.name == "where":
        arrays[0] = np.asarray(arrays[0] > 0)
    if letter == "f" and op.sample[0] > 0:
        arrays = [np.asarray(np.clip(np.abs(a), *op.sample)).astype(a.dtype) for a in arrays]
    return arrays


@pytest.mark.parametrize("op", WRITTEN, ids=lambda op: op.name)
def test_each_elementwise_operation(op: Any) -> None:
    for letter in op.kinds:
        if isinstance(op.expr, dict) and letter not in op.expr:
            continue
        for k, kind in enumerate(KINDS[letter]):
            # How elements are reached does not depend on their type: one type goes through all layouts.
            for layout, shape in LAYOUTS if letter == op.kinds[-1] and not k else LAYOUTS[:1]:
                arrays = _operands(op, kind, letter, shape, layout)
                # Vectors are four times as much code, in which a polynomial is no other one.
                check(graph_of(lambda *nodes: make(op.name, *nodes), *arrays), arrays, vectors=op.exact and not k)


def _bit_patterns(kind: str) -> np.ndarray:
    """Numbers of all magnitudes, subnormal ones, infinities and NaN among them."""
    found = dtypes.BY_NAME[kind].np
    bits = np.random.default_rng(5).integers(0, 1 << 64, 509, np.uint64).astype(f"u{found.itemsize}")
    edges = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], found)
    few = np.array([1, 2, 3, 0x7F], bits.dtype).view(found)
    return np.concatenate([bits.view(found), edges, few, -few])


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16"])
def test_bit_patterns(kind: str) -> None:
    x = _bit_patterns(kind)
    y = np.roll(x, 3)

    def several(x: Node, y: Node) -> tuple[Node, ...]:
        pairs = tuple(make(name, x, y) for name in ("add", "sub", "mul", "div", "maximum", "minimum", "lt"))
        return (*pairs, *(make(name, x) for name in ("exp", "tanh", "log", "sqrt", "floor", "sign")))

    # Without vectors, whose code is many times as long.
    check(graph_of(several, x, y), [x, y], vectors=False)


@pytest.mark.parametrize("source", ["bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64"])
def test_casts(source: str) -> None:
    x = random_array(random.Random(9), (41,), source, "contiguous")
    targets = [t for t in dtypes.ALL if not ("float" in source and t.category == dtypes.INT)]
    if "float" in source:
        # What a negative float becomes as an unsigned integer is not defined.
        x, targets = np.abs(x) * dtypes.BY_NAME[source].type(50), [*targets, dtypes.int32, dtypes.uint8, dtypes.int64]
    check(graph_of(lambda x: tuple(make("cast", x, dtype=t) for t in targets), x), [x])


SHAPES = [(), (1,), (4,), (127,), (1025,), (0,), (3, 0, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_sizes(shape: tuple[int, ...]) -> None:
    arrays = [floats(*shape), floats(*shape)]
    for vectors in (True, False):
        execution = check(graph_of(lambda x, y: make("sub", make("mul", x, 2.5), y), *arrays), arrays, vectors=vectors)
        assert len(execution.kernels) == (0 not in shape)


def test_nothing_is_done_beyond_the_last_element() -> None:
    # 3 elements more than vectors, in a grid of two blocks: the machine knows what lies behind.
    x = floats(128 * 4 + 3)
    execution = check(graph_of(lambda x: make("exp", x), x), [x])
    assert [(k.blocks, k.threads, k.units) for k in execution.kernels] == [(2, 128, 515)]


BROADCAST: dict[str, Any] = {
    "a row": lambda x, y: make("add", x, make("slice", y, start=(2, 0), length=(1, 8), step=(1, 1))),
    "a column": lambda x, y: make("mul", x, make("slice", y, start=(0, 3), length=(6, 1), step=(1, 1))),
    "one element": lambda x, y: make("sub", make("slice", y, start=(2, 2), length=(1, 1), step=(1, 1)), x),
    "every second": lambda x, y: make(
        "add",
        make("slice", x, start=(0, 0), length=(3, 4), step=(2, 2)),
        make("slice", y, start=(1, 1), length=(3, 4), step=(2, 2)),
    ),
    "backwards": lambda x, y: make("add", make("flip", x, dims=(0, 1)), y),
    "joined": lambda x, y: make("cat", x, make("exp", y), x, dim=1),
    "in the middle": lambda x, y: make(
        "mul",
        make("expand", make("reshape", x, shape=(6, 1, 8)), shape=(6, 3, 8)),
        make("expand", make("reshape", y, shape=(6, 1, 8)), shape=(6, 3, 8)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROADCAST)
def test_layouts_of_operands(case: str) -> None:
    arrays = [floats(6, 8), floats(6, 8)]
    check(graph_of(BROADCAST[case], *arrays), arrays)


def test_scalars_of_the_call_are_read_from_memory() -> None:
    x = floats(30)
    graph = graph_of(lambda x, a, b: make("add", make("mul", x, a), b), x, scalars="ff")
    words = set()
    for scalars in ((0.1, -3.0), (7.0, 1e-3)):
        execution = check(graph, [x], scalars)
        (kernel,) = execution.kernels
        words.add(kernel.slots)
    # Other scalars are no other arguments.
    assert len({len(slots) for slots in words}) == 1


def test_random_numbers_are_the_cpus() -> None:
    def draw(seed: Node, offset: Node) -> tuple[Node, ...]:
        return tuple(
            make("uniform", seed, offset, shape=(7, 5), dtype=kind) for kind in (dtypes.float32, dtypes.float64)
        )

    graph = graph_of(draw, scalars="ii")
    check(graph, [], (0x0123_4567_89AB_CDEF, 5))


def test_a_step_of_adam_writes_where_it_reads() -> None:
    arrays = [floats(33, 5) for _ in range(4)]
    arrays[3] = np.abs(arrays[3])
    graph = graph_of(adam, *arrays, scalars="f", homes={0: 0, 1: 2, 2: 3})
    execution = check(graph, arrays, (0.01,))
    assert [k.doc.split(":")[0] for k in execution.kernels] == ["Element by element"]


def test_buffers_may_begin_anywhere() -> None:
    # An input that is no multiple of 16 bytes: its kernel is the one without vectors, the bits are the same.
    whole = floats(65)
    x = whole[:64]
    graph = graph_of(lambda x: make("exp", make("mul", x, 0.5)), x)
    expected = run_eagerly(graph, [x])[0]
    for vectors in (True, False):
        execution = Execution(graph, [x], (), vectors)
        (result,) = execution.run()
        assert_same(result, expected, execution.kernels)
        assert bool(execution.kernels[0].promises) == vectors
