"""Graphs over arrays: built from operations, run compiled, and run one operation after another."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.compiler import Compiled, compile_graph
from tracejit.eager import run_op
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.ir.node import CONST, INPUT, ITEM, SCALAR, Node
from tracejit.ops import ops
from tracejit.runtime.team import get_num_threads, set_num_threads


def make(name: str, *args: Any, **attrs: Any) -> Node:
    """The node of an operation on nodes and Python numbers."""
    op = getattr(ops, name)
    operands = tuple(a if isinstance(a, Node) else nodes.const(a) for a in args)
    return nodes.make(op, operands, op.pack(attrs))


def input_of(index: int, array: np.ndarray) -> Node:
    """The input that an array is given for."""
    strides = None if array.flags.c_contiguous else tuple(s // array.itemsize for s in array.strides)
    return nodes.input(index, Aval(array.shape, dtypes.from_numpy(array.dtype)), strides)


def graph_of(function: Any, *arrays: np.ndarray, scalars: str = "", homes: dict[int, int] | None = None) -> Graph:
    """The graph of a function of nodes: one for each array, then one for each scalar."""
    inputs = tuple(input_of(k, a) for k, a in enumerate(arrays))
    outputs = function(*inputs, *(nodes.scalar(k, kind) for k, kind in enumerate(scalars)))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return Graph(inputs, tuple(scalars), outputs, homes or {})


def run_eagerly(
    graph: Graph, arrays: list[np.ndarray], scalars: tuple[float, ...] = (), run: Callable[..., Any] = run_op
) -> list[np.ndarray]:
    """The outputs, computed by `run` one operation after another."""
    known: dict[Node, Any] = {}
    for node in graph.nodes():
        if node.op == INPUT:
            known[node] = arrays[node.attrs[0]]
        elif node.op == SCALAR:
            known[node] = scalars[node.attrs[0]]
        elif node.op == CONST:
            known[node] = node.attrs[0]
        elif node.op == ITEM:
            known[node] = known[node.args[0]][node.attrs[0]]
        else:
            known[node] = run(node.op, tuple(known[a] for a in node.args), node.attrs)
    return [np.array(known[o]) for o in graph.outputs]


def run_compiled(
    compiled: Compiled, graph: Graph, arrays: list[np.ndarray], scalars: tuple[float, ...] = ()
) -> list[np.ndarray]:
    """The outputs of a compiled graph; homed ones are written into `arrays`."""
    outputs = []
    for k, node in enumerate(graph.outputs):
        if k in graph.homes:
            outputs.append(arrays[graph.homes[k]])
        else:
            outputs.append(np.full(node.shape, 77, node.dtype.np))
    pointers = np.array([a.ctypes.data for a in (*arrays, *outputs)], np.int64)
    given = np.zeros(len(scalars) + 1, np.int64)
    for k, (kind, number) in enumerate(zip(graph.scalars, scalars, strict=True)):
        given[k : k + 1].view(np.float64 if kind == "f" else np.int64)[0] = number
    code = compiled.run(pointers, given)
    if code:
        raise IndexError(compiled.program.failure(code))
    return outputs


def same_bits(result: np.ndarray, expected: np.ndarray) -> bool:
    """Equal type, shape and bits; any NaN equals any other."""
    if result.dtype != expected.dtype or result.shape != expected.shape:
        return False
    # bfloat16 is none of NumPy's own types.
    if result.dtype.kind in "fV":
        hole = np.isnan(expected)
        if not np.array_equal(hole, np.isnan(result)):
            return False
        zero = result.dtype.type(0)
        result, expected = np.where(hole, zero, result), np.where(hole, zero, expected)
    return result.tobytes() == expected.tobytes()


def check(graph: Graph, arrays: list[np.ndarray], scalars: tuple[float, ...] = ()) -> Compiled:
    """Asserts that the compiled graph gives the bits of the operations run one by one, at 1 and 2 threads.

    With two threads the program is the one that is put together from the recipe of the first.
    """
    compiled = compile_graph(graph)
    again = compile_graph(graph)
    assert "passes" not in again.seconds, "the recipe of the program was not kept"
    expected = run_eagerly(graph, [copied(a) for a in arrays], scalars)
    before = get_num_threads()
    try:
        for threads in (1, 2):
            set_num_threads(threads)
            given = [copied(a) for a in arrays]
            results = run_compiled(compiled if threads == 1 else again, graph, given, scalars)
            for k, (result, wanted) in enumerate(zip(results, expected, strict=True)):
                if not same_bits(result, wanted):
                    where = np.argwhere(result != wanted)[:3].tolist()
                    raise AssertionError(
                        f"output {k} differs at {where} with {threads} threads:\n{result}\n{wanted}\n"
                        + "\n".join(f"{g.kind}: {g.ops}" for g in compiled.groups)
                        + "\n".join(k.text for k in compiled.kernels)
                    )
            for k, (array, old) in enumerate(zip(given, arrays, strict=True)):
                if k not in graph.homes.values():
                    assert same_bits(array, old), f"input {k} was written to"
    finally:
        set_num_threads(before)
    return compiled


def copied(array: np.ndarray) -> np.ndarray:
    """A copy that lies in memory as the array does."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    if base is array:
        return array.copy(order="K")
    again = base.copy()
    offset = array.ctypes.data - base.ctypes.data
    return np.ndarray(array.shape, array.dtype, again, offset, array.strides)


# --- random graphs ----------------------------------------------------------------------------------------------------

SIZES = (1, 1, 2, 3, 5, 8, 17, 33)


def random_array(rng: random.Random, shape: tuple[int, ...], kind: str, layout: str) -> np.ndarray:
    """An array of small numbers, contiguous or a view of one."""
    draw = np.random.default_rng(rng.randrange(1 << 30))

    def fill(shape: tuple[int, ...]) -> np.ndarray:
        if kind == "bool":
            return draw.integers(0, 2, shape).astype(bool)
        if "float" in kind:
            return draw.standard_normal(shape).astype(dtypes.BY_NAME[kind].np)
        return draw.integers(0 if kind == "uint8" else -9, 9, shape).astype(kind)

    if layout == "transposed" and len(shape) > 1:
        return fill(shape[::-1]).T
    if layout == "sliced" and shape:
        return fill((*shape[:-1], 2 * shape[-1] + 1))[..., 1::2]
    if layout == "reversed" and shape:
        return fill(shape)[::-1]
    if layout == "broadcast" and shape:
        return np.broadcast_to(fill((1, *shape[1:])), shape)
    return fill(shape)


class RandomGraph:
    """A random graph and arrays for it, from a seed."""

    def __init__(self, seed: int, size: int = 14) -> None:
        self.rng = rng = random.Random(seed)
        self.kind = rng.choice(["float32"] * 6 + ["float64", "float16", "bfloat16", "int32", "int64", "uint8", "int8"])
        self.arrays: list[np.ndarray] = []
        rank = rng.choice([0, 1, 2, 2, 2, 3, 3, 4])
        base = tuple(rng.choice(SIZES) for _ in range(rank))
        if rank and rng.random() < 0.06:
            base = (*base[:-1], 0)
        if rng.random() < 0.06:
            base = (*base[:1], rng.choice([300, 700, 5000])) if base else (5000,)
        for _ in range(rng.randrange(1, 5)):
            shape = tuple(1 if rng.random() < 0.2 else s for s in base)[rng.choice([0, 0, 0, rank // 2]) :]
            layout = rng.choice(["contiguous"] * 4 + ["transposed", "sliced", "reversed", "broadcast"])
            self.arrays.append(random_array(rng, shape, self.kind, layout))
        self.inputs = [input_of(k, a) for k, a in enumerate(self.arrays)]
        self.pool: list[Node] = list(self.inputs)
        self.scalars = "f" if "float" in self.kind else "i"
        for _ in range(rng.randrange(1, size)):
            self._grow()
        outputs = [rng.choice(self.pool[-4:]) for _ in range(rng.randrange(1, 4))]
        outputs = [o if o.dtype.name == self.kind or rng.random() < 0.7 else outputs[0] for o in outputs]
        homes: dict[int, int] = {}
        for o, node in enumerate(outputs):
            fits = [
                k
                for k, i in enumerate(self.inputs)
                if i.aval == node.aval and i.attrs[1] is None and k not in homes.values() and i.tensor.numel
            ]
            if fits and rng.random() < 0.6:
                homes[o] = rng.choice(fits)
        self.graph = Graph(tuple(self.inputs), (self.scalars,), tuple(outputs), homes)

    def _grow(self) -> None:
        for _ in range(20):
            step = self.rng.choice(
                [self._unary, self._binary, self._binary, self._binary, self._reduce, self._reduce, self._view]
                + [self._view, self._spread, self._place, self._library, self._create, self._where]
            )
            try:
                made = step()
            except (TypeError, RuntimeError, ValueError, OverflowError):
                continue
            if made is not None and made.tensor.numel <= 60_000:
                self.pool.append(made)
                return

    def _pick(self) -> Node:
        return self.rng.choice(self.pool[-6:] if self.rng.random() < 0.7 else self.pool)

    def _elementwise(self, arity: int, kind: str) -> list[str]:
        return [
            op.name
            for op in ops.family("elementwise")
            if len(op.params) == arity
            and kind in op.kinds
            and op.expr is not None
            and op.name not in ("cast", "where")
            and not (isinstance(op.expr, dict) and kind not in op.expr)
        ]

    def _letter(self, node: Node) -> str:
        return "bif"[node.dtype.category]

    def _unary(self) -> Node | None:
        x = self._pick()
        if self.rng.random() < 0.15:
            kinds = [dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16, dtypes.int32, dtypes.bool]
            # What a float out of an integer's range becomes is not defined.
            kinds = [k for k in kinds if not (x.dtype.is_floating_point and k.category == dtypes.INT)]
            return make("cast", x, dtype=self.rng.choice(kinds))
        return make(self.rng.choice(self._elementwise(1, self._letter(x))), x)

    def _binary(self) -> Node | None:
        x, y = self._pick(), self._pick()
        names = self._elementwise(2, self._letter(x))
        if self.rng.random() < 0.25 and x.dtype.category:
            number = self.rng.choice([2, 0.1, -1.5, 0.0] if x.dtype.is_floating_point else [2, -1, 3, 0])
            if x.dtype is dtypes.uint8:
                number = 3
            other: Any = nodes.scalar(0, self.scalars) if self.rng.random() < 0.3 and self._takes_scalar(x) else number
            pair = (x, other) if self.rng.random() < 0.6 else (other, x)
            return make(self.rng.choice(names), *pair)
        return make(self.rng.choice(names), x, y) if x.dtype is y.dtype else None

    def _takes_scalar(self, x: Node) -> bool:
        return (self.scalars == "f") == x.dtype.is_floating_point

    def _where(self) -> Node | None:
        x, y = self._pick(), self._pick()
        if x.dtype is not y.dtype:
            return None
        return make("where", make(self.rng.choice(["lt", "eq", "ge"]), x, y), x, self.rng.choice([y, 0]))

    def _reduce(self) -> Node | None:
        x = self._pick()
        if not x.shape or 0 in x.shape or x.tensor.numel > 40_000:
            return None
        names = ["amax", "amin"] if x.dtype is dtypes.bool else ["sum", "sum", "amax", "amin", "prod"]
        dim = self.rng.randrange(len(x.shape))
        if x.dtype is not dtypes.bool and self.rng.random() < 0.2:
            y = self.rng.choice([y for y in self.pool if y.shape == x.shape and y.dtype is x.dtype])
            return make("dot", x, y, dim=dim)
        return make(self.rng.choice(names), x, dim=dim)

    def _spread(self) -> Node | None:
        """A reduced value beside what it was reduced from, as in a softmax."""
        x = self._pick()
        made = self._reduce() if self.rng.random() < 0.3 else None
        if made is not None or not x.shape or 0 in x.shape or x.dtype is dtypes.bool:
            return made
        dim = self.rng.choice([len(x.shape) - 1, self.rng.randrange(len(x.shape))])
        r = make(self.rng.choice(["sum", "amax"]), x, dim=dim)
        kept = make("reshape", r, shape=(*x.shape[:dim], 1, *x.shape[dim + 1 :]))
        if self.rng.random() < 0.5:
            kept = make("expand", kept, shape=x.shape)
        return make(self.rng.choice(["sub", "mul", "maximum"]), x, kept)

    def _view(self) -> Node | None:
        x, rng = self._pick(), self.rng
        shape = x.shape
        what = rng.choice(["reshape", "permute", "slice", "flip", "expand", "flatten", "diagonal", "windows"])
        if what == "flatten":
            return make("reshape", x, shape=(x.tensor.numel,))
        if what == "reshape":
            cut = rng.randrange(len(shape) + 1)
            return make("reshape", x, shape=(prod(shape[:cut]), prod(shape[cut:])))
        if what == "permute":
            return make("permute", x, dims=tuple(rng.sample(range(len(shape)), len(shape))))
        if what == "flip":
            return make("flip", x, dims=tuple(d for d in range(len(shape)) if rng.random() < 0.5))
        if what == "expand":
            return make("expand", x, shape=(rng.choice([2, 3]), *(rng.choice([2, 4]) if s == 1 else s for s in shape)))
        if what == "windows" and shape:
            dim, step = rng.randrange(len(shape)), rng.choice([1, 1, 2, 3])
            return make("windows", x, dim=dim, size=rng.randrange(min(shape[dim], 4) + 1), step=step)
        if what == "diagonal" and len(shape) > 1:
            none, one = (0,) * len(shape), (1,) * len(shape)
            square = (*shape[:-2], *[min(shape[-2:])] * 2)
            return make("diagonal", make("slice", x, start=none, length=square, step=one))
        start, length, step = [], [], []
        for s in shape:
            a, d = (rng.randrange(s), rng.choice([1, 1, 2])) if s else (0, 1)
            start.append(a)
            step.append(d)
            length.append(rng.randrange(1, (s - a - 1) // d + 2) if s else 0)
        return make("slice", x, start=tuple(start), length=tuple(length), step=tuple(step))

    def _place(self) -> Node | None:
        x, rng = self._pick(), self.rng
        what = rng.choice(["cat", "unslice", "place"])
        if not x.shape:
            return None
        if what == "cat":
            dim = rng.randrange(len(x.shape))
            same = [y for y in self.pool if y.dtype is x.dtype and len(y.shape) == len(x.shape)]
            fits = [y for y in same if all(a == b for d, (a, b) in enumerate(zip(x.shape, y.shape)) if d != dim)]
            return make("cat", *rng.choices(fits, k=rng.choice([1, 2, 3])), dim=dim)
        if what == "unslice":
            start, step = tuple(rng.choice([0, 1, 2]) for _ in x.shape), tuple(rng.choice([1, 2]) for _ in x.shape)
            shape = tuple(a + s * d + 1 for a, s, d in zip(start, x.shape, step))
            return make("unslice", x, shape=shape, start=start, step=step)
        y = self._view()
        if y is None or y.dtype is not x.dtype or len(y.shape) != len(x.shape):
            return None
        if any(b > a for a, b in zip(x.shape, y.shape)):
            return None
        return make("place", x, y, start=tuple(a - b for a, b in zip(x.shape, y.shape)), step=(1,) * len(x.shape))

    def _library(self) -> Node | None:
        x, y, rng = self._pick(), self._pick(), self.rng
        if not x.shape or 0 in x.shape:
            return None
        what = rng.choice(["matmul", "matmul", "argmax", "scan", "scan", "take", "take", "gather", "sums", "sums"])
        if what == "matmul":
            if len(x.shape) != 2 or len(y.shape) != 2 or x.dtype is not y.dtype or x.dtype is dtypes.bool:
                return None
            if x.shape[1] != y.shape[0]:
                y = make("permute", x, dims=(1, 0))
            return make("matmul", x, y)
        dim = rng.randrange(len(x.shape))
        if what == "argmax":
            return make("argmax", x, dim=dim)
        if what == "scan":
            return self._scan(x, dim)
        if what == "sums":
            return self._sums(x)
        count = rng.choice([1, 2, x.shape[dim], 2 * x.shape[dim]])
        if what == "take":
            return make("take", x, self._places((count,), x.shape[dim]), dim=dim)
        shape = tuple(count if d == dim else rng.randrange(1, s + 1) for d, s in enumerate(x.shape))
        index = self._places(shape[dim:], x.shape[dim]) if rng.random() < 0.5 else self._places(shape, x.shape[dim])
        return make("gather", x, make("expand", index, shape=shape), dim=dim)

    def _sums(self, x: Node) -> Node | None:
        """Sums of rows at places, of which some may belong to no row."""
        if x.dtype is dtypes.bool:
            return None
        size = self.rng.choice([1, 3, 2 * x.shape[0]])
        ground, index = make("full", 0, shape=(size, *x.shape[1:]), dtype=x.dtype), self._places(x.shape[:1], size)
        if self.rng.random() < 0.5:
            return make("index_add", ground, index, x, dim=0)
        ones = (1,) * (len(x.shape) - 1)
        index = make("expand", make("reshape", index, shape=(x.shape[0], *ones)), shape=x.shape)
        return make("scatter_add", ground, index, x, dim=0)

    def _scan(self, x: Node, dim: int) -> Node | None:
        """A scan, which may begin at the end."""
        rng = self.rng
        if x.dtype is dtypes.bool:
            return None
        what = rng.choice(["cumsum", "cumprod", "linear_recurrence"] if x.dtype.is_floating_point else ["cumsum"])
        operands = [x, self._like(x)] if what == "linear_recurrence" else [x]
        if rng.random() < 0.5:
            return make(what, *operands, dim=dim)
        return make("flip", make(what, *[make("flip", y, dims=(dim,)) for y in operands], dim=dim), dims=(dim,))

    def _like(self, x: Node) -> Node:
        """A value of this shape and type."""
        return self.rng.choice([y for y in self.pool if y.shape == x.shape and y.dtype is x.dtype])

    def _places(self, shape: tuple[int, ...], size: int) -> Node:
        """Some of the places of `size`, in no order."""
        step, most = self.rng.choice([1, 3, 7]), (1 << (size.bit_length() - 1)) - 1
        spread = make("bitwise_and", make("mul", make("iota", size=prod(shape)), step), most)
        index = make("reshape", spread, shape=shape)
        return make("cast", index, dtype=dtypes.int32) if self.rng.random() < 0.3 else index

    def _create(self) -> Node | None:
        rng = self.rng
        x = self._pick()
        what = rng.choice(["full", "iota", "uniform"])
        if what == "full":
            return make("full", 3, shape=x.shape, dtype=x.dtype)
        if what == "iota":
            return make("cast", make("iota", size=x.shape[-1] if x.shape else 3), dtype=x.dtype)
        if not x.dtype.is_floating_point:
            return None
        return make("uniform", rng.randrange(1 << 40), 3, shape=x.shape, dtype=x.dtype)
