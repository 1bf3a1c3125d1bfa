"""Rows of a few elements, gone through many at once: the bits of one row after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.kernels.launching import fenced
from tests.programs import graph_of, make, run_compiled
from tracejit.compiler import compile_graph
from tracejit.kernels.fold import fold_in_numpy
from tracejit.schedule import cost

F = tj.nn.functional
WIDTHS = (2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33)
FEW = cost.SHORT_ROWS - 3
"""Rows that are too few to be gone through at once."""


def numbers(rows: int, width: int, dtype: str = "float32") -> tj.Tensor:
    rng = np.random.default_rng(rows + width)
    return tj.from_numpy(rng.standard_normal((rows, width)).astype(np.float32)).to(getattr(tj, dtype))


def compiled(f: Callable[..., Any], *operands: tj.Tensor) -> np.ndarray:
    """What a function gives once it is compiled for these operands."""
    g = tj.compile(f)
    for _ in range(2):
        g(*operands)
    return np.array(g(*operands).numpy())


def is_short(f: Callable[..., Any], *arrays: np.ndarray) -> bool:
    """Whether a function of nodes is a kernel that goes through many rows at once."""
    return any("fold_rows_" in kernel.text for kernel in compile_graph(graph_of(f, *arrays)).kernels)


def test_which_rows_are_gone_through_at_once() -> None:
    def total(x: Any) -> Any:
        return make("sum", make("exp", x), dim=1)

    for shape in ((200, 2), (200, 32), (cost.SHORT_ROWS, 5)):
        assert is_short(total, np.zeros(shape, np.float32)), shape
    for shape in ((200, 1), (200, 33), (FEW, 5)):
        assert not is_short(total, np.zeros(shape, np.float32)), shape
    # Folded as integers, or read across.
    assert not is_short(lambda x: make("sum", x, dim=1), np.zeros((200, 5), np.int32))
    assert not is_short(total, np.zeros((5, 200), np.float32).T)


@pytest.mark.parametrize("what", ["sum", "prod", "amax", "amin"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_folds_have_the_order_of_long_rows(what: str, dtype: str) -> None:
    for width in WIDTHS:
        x = numbers(1003, width, dtype)
        expected = fold_in_numpy(what, x.numpy())
        assert compiled(lambda x: getattr(x, what)(1), x).tobytes() == expected.tobytes(), width


CASES: dict[str, Callable[[tj.Tensor], tj.Tensor]] = {
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "variance": lambda x: x.var(1),
    "two folds": lambda x: x.sum(1) * x.amax(1),
    "the same in all rows": lambda x: F.layer_norm(x, (x.shape[1],), tj.arange(x.shape[1]).to(x.dtype)),
    "an element of each row": lambda x: (x * x[:, :1]).sum(1, keepdim=True) / x + x[:, 1:2],
    "a flag for each row": lambda x: (x.amax(1, keepdim=True) > 0.5).to(x.dtype) * x,
    "parts of rows": lambda x: x[:, 1:].sum(1) + x[:, 1:].exp().amin(1),
    "a label in each row": lambda x: F.cross_entropy(x, (x[:, 0] > 0).long(), reduction="none"),
    "numbers of places": lambda x: (x * tj.arange(3, 3 + x.shape[1])).sum(1),
    "from the end": lambda x: x.flip(1).softmax(1),
    "into a part": lambda x: tj.cat([x.softmax(1), x], 1),
    "for a fold of its own": lambda x: x - x.mean(1, keepdim=True) - (x * 2).exp().sum(1, keepdim=True).log(),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_few_rows(case: str, dtype: str) -> None:
    f = CASES[case]
    # Each width has kernels of its own. What is folded as float32 anyway differs only where it is read and written.
    for width in (2, 3, 8, 13, 16, 27, 32) if dtype in ("float32", "float64") else (3, 16, 27):
        x = numbers(4 * FEW, width, dtype)
        few = [compiled(lambda x: f(x).double(), part.clone()).tobytes() for part in x.split(FEW)]
        assert compiled(lambda x: f(x).double(), x).tobytes() == b"".join(few), width


@pytest.mark.parametrize("case", CASES)
def test_compiled_has_the_bits_of_eager(case: str) -> None:
    f = CASES[case]
    for width in (2, 7, 24):
        leaf = numbers(700, width).requires_grad_()

        def gradient(leaf: tj.Tensor) -> tj.Tensor:
            found = f(leaf)
            found.square().sum().backward()
            given, leaf.grad = leaf.grad, None
            assert given is not None
            return given

        expected = f(leaf).detach().numpy().tobytes(), gradient(leaf).numpy().tobytes()
        assert compiled(lambda x: f(x).detach(), leaf).tobytes() == expected[0], width
        assert compiled(gradient, leaf).tobytes() == expected[1], width


@pytest.mark.parametrize("rows", [0, 1, 127, 128, 129, 143, 145, 1024, 5003])
def test_any_number_of_rows(rows: int) -> None:
    x = numbers(rows, 3)
    assert compiled(lambda x: x.softmax(1), x).tobytes() == x.softmax(1).numpy().tobytes()
    assert compiled(lambda x: x.sum(1), x).tobytes() == fold_in_numpy("sum", x.numpy()).tobytes()


def test_threads_may_cut_anywhere() -> None:
    x = numbers(40_007, 6)
    f = tj.compile(lambda x: x.log_softmax(1) * x.mean(1, keepdim=True))
    before = tj.get_num_threads()
    found = set()
    try:
        for threads in (1, 2, 3):
            tj.set_num_threads(threads)
            found |= {f(x).numpy().tobytes() for _ in range(4)}
    finally:
        tj.set_num_threads(before)
    assert len(found) == 1


def test_a_nan_is_of_its_own_row() -> None:
    x = np.array(numbers(200, 5).numpy())
    x[50, 4], x[51, 0], x[199, 2] = np.nan, np.inf, np.nan
    largest = compiled(lambda x: x.amax(1), tj.from_numpy(x))
    assert np.array_equal(largest, x.max(1), equal_nan=True)
    signs = compiled(lambda x: x.sum(1), tj.from_numpy(np.full((200, 3), -0.0, np.float32)))
    assert np.signbit(signs).all()


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("shape", [(130, 3), (129, 5), (145, 17), (128, 31), (150, 2)])
def test_nothing_is_read_round_the_rows(shape: tuple[int, int], end: bool) -> None:
    x = fenced(numbers(*shape).numpy(), end=end)
    graph = graph_of(lambda x: make("sum", x, dim=1), x)
    (found,) = run_compiled(compile_graph(graph), graph, [x])
    assert found.tobytes() == fold_in_numpy("sum", x).tobytes()


def lies_beside(f: Callable[..., Any], *arrays: np.ndarray) -> bool:
    return any("fold_beside_" in kernel.text for kernel in compile_graph(graph_of(f, *arrays)).kernels)


def windows_of(x: np.ndarray, dim: int, size: int, step: int = 1) -> np.ndarray:
    found = np.lib.stride_tricks.sliding_window_view(x, size, dim)
    return np.ascontiguousarray(np.moveaxis(np.moveaxis(found, dim, 0)[::step], 0, dim))


@pytest.mark.parametrize("what", ["sum", "prod", "amax", "amin"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("end", [False, True])
def test_windows_are_folded_where_they_lie(what: str, dtype: str, end: bool) -> None:
    for shape, dim in (((301,), 0), ((40, 19), 0), ((19, 40), 1), ((3, 35, 18), 1), ((2, 3, 60), 2)):
        for size in (2, 3, 4, 5, 8, 9, 17, 32):
            if size > shape[dim]:
                continue
            x = fenced(np.random.default_rng(size).standard_normal(shape).astype(dtype), end=end)

            def fold(x: Any, size: int = size, dim: int = dim) -> Any:
                return make(what, make("windows", x, dim=dim, size=size, step=1), dim=len(x.shape))

            expected = fold_in_numpy(what, windows_of(x, dim, size).reshape(-1, size))
            graph = graph_of(fold, x)
            (found,) = run_compiled(compile_graph(graph), graph, [x])
            assert found.reshape(-1).tobytes() == expected.tobytes(), (shape, dim, size)
            seen = tj.from_numpy(x).unfold(dim, size, 1)
            for _ in range(8):
                eager = getattr(seen, what)(-1).numpy()
                assert eager.reshape(-1).tobytes() == expected.tobytes(), (shape, dim, size)


def test_which_windows_are_folded_where_they_lie() -> None:
    def means(size: int, step: int = 1, dim: int = 0) -> Callable[..., Any]:
        return lambda x: make("sum", make("windows", x, dim=dim, size=size, step=step), dim=len(x.shape))

    line, table = np.zeros(500, np.float32), np.zeros((50, 50), np.float32)
    assert lies_beside(means(5), line)
    assert lies_beside(means(9, 3), table)
    # Longer ones, those that begin further apart, and few of them are not; nor are integers.
    assert not lies_beside(means(33), line)
    assert not lies_beside(means(5, 2), line)
    assert not lies_beside(means(5), line[:100])
    assert not lies_beside(means(5), line.astype(np.int32))
    # Rows without elements in common are turned, as others may read them.
    turned = np.zeros((20, 500), np.float32)
    assert not lies_beside(lambda x: make("sum", make("permute", x, dims=(1, 0)), dim=1), turned)


def test_what_is_computed_of_windows_has_the_bits_of_eager() -> None:
    x, y = numbers(300, 18), numbers(300, 1)
    cases: dict[str, Callable[..., Any]] = {
        "mean": lambda x, y: x.unfold(0, 5, 1).mean(-1),
        "variance": lambda x, y: x.unfold(0, 5, 1).var(-1),
        "softmax": lambda x, y: x.unfold(1, 4, 1).softmax(-1),
        "weighted": lambda x, y: (x.unfold(0, 7, 1) * tj.arange(7.0)).sum(-1),
        "range": lambda x, y: x.unfold(0, 6, 2).amax(-1) - x.unfold(0, 6, 2).amin(-1),
        "beside others": lambda x, y: x.unfold(0, 3, 1).sum(-1) * x[1:-1].exp() + y[1:-1],
        "of windows": lambda x, y: x.unfold(0, 3, 1).unfold(1, 3, 1).sum((-1, -2)),
        "of both": lambda x, y: x.unfold(0, 3, 1).amax(-1).unfold(1, 3, 1).amax(-1),
    }
    for name, f in cases.items():
        assert compiled(f, x, y).tobytes() == f(x, y).numpy().tobytes(), name
        leaf = x.clone().requires_grad_()

        def gradient(leaf: tj.Tensor, y: tj.Tensor, f: Callable[..., Any] = f) -> tj.Tensor:
            f(leaf, y).square().sum().backward()
            given, leaf.grad = leaf.grad, None
            assert given is not None
            return given

        expected = gradient(leaf, y).numpy().tobytes()
        assert compiled(gradient, leaf, y).tobytes() == expected, name
