"""Loops over operands that lie across their rows in memory: turned tile by tile, with NumPy's bits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

import tracejit as tj
from tests.kernels.launching import caller
from tests.programs import graph_of, make
from tests.runtime.lowering_ways import directly
from tracejit import compiler
from tracejit.compiler import compile_graph
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.runtime.program import Address
from tracejit.schedule import cost

SQUARES = [(64, 64), (127, 127), (300, 300), (513, 513), (3, 130, 130), (725, 725), (2, 770, 770)]
SIZES = [(1, 1), (3, 5), (8, 8), (31, 33), (64, 32), (65, 130), (257, 100), (9, 300)]

CASES: dict[str, Callable[..., tj.Tensor]] = {
    "transposed": lambda x, y: x.T.contiguous(),
    "beside a straight operand": lambda x, y: y + x.T,
    "twice": lambda x, y: x.T * x.T - y,
    "flipped and transposed": lambda x, y: x.flip(0).T + y,
    "every second row": lambda x, y: x[::2].T * 2,
    "in the middle": lambda x, y: (x[None, :, :, None] * y.T[None, :, :, None]).permute(0, 2, 3, 1).contiguous(),
    "last to front": lambda x, y: (x[:, None, :].expand(x.shape[0], 3, x.shape[1])).permute(2, 0, 1) + 1,
    "reversed": lambda x, y: x[None].expand(2, *x.shape).permute(2, 1, 0) * 2 + 1,
}


TYPED = [(case, dtype) for case in CASES for dtype in ("float32", "float64", "float16", "int32")]


@pytest.mark.parametrize(("case", "dtype"), [*TYPED, ("transposed", "bool")])
def test_compiled_has_the_bits_of_eager(case: str, dtype: str) -> None:
    f = CASES[case]
    g = tj.compile(f)
    rng = np.random.default_rng(0)
    for n, m in SIZES:
        x, y = (
            tj.from_numpy((rng.standard_normal(shape) * 50).astype(np.float32)).to(getattr(tj, dtype))
            for shape in ((n, m), (m, n))
        )
        expected = f(x, y)
        for _ in range(3):
            assert g(x, y).numpy().tobytes() == expected.numpy().tobytes(), (n, m)


ROWS_OF_A_FEW: dict[str, tuple[Callable[..., tj.Tensor], Callable[..., np.ndarray]]] = {
    "channels last": (lambda x: x.permute(0, 2, 1).contiguous(), lambda x: x.transpose(0, 2, 1)),
    "with a neighbour": (
        lambda x: x.permute(0, 2, 1) * 2 - x.reshape(x.shape[0], x.shape[2], x.shape[1]),
        lambda x: x.transpose(0, 2, 1) * 2 - x.reshape(x.shape[0], x.shape[2], x.shape[1]),
    ),
    "from the end": (lambda x: x.flip(1).permute(0, 2, 1) * 2, lambda x: x[:, ::-1].transpose(0, 2, 1) * 2),
    "into a part": (
        lambda x: tj.cat([x.permute(0, 2, 1), x.permute(0, 2, 1)], 1),
        lambda x: np.concatenate([x.transpose(0, 2, 1)] * 2, 1),
    ),
    "beside a number for each row": (
        lambda x: x.permute(0, 2, 1) + x[:, 0][:, :, None],
        lambda x: x.transpose(0, 2, 1) + x[:, 0][:, :, None],
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "float16"])
@pytest.mark.parametrize("case", ROWS_OF_A_FEW)
def test_rows_of_a_few_elements_are_woven(case: str, dtype: str) -> None:
    f, in_numpy = ROWS_OF_A_FEW[case]
    g = tj.compile(f)
    rng = np.random.default_rng(0)
    for shape in [(3, k, n) for k in (2, 3, 4, 5, 8, 9) for n in (1, 7, 16, 33, 300)] + [(1, 3, 9000), (40, 2, 28)]:
        x = (rng.standard_normal(shape) * 50).astype(dtype)
        for _ in range(3):
            assert g(tj.from_numpy(x)).numpy().tobytes() == np.ascontiguousarray(in_numpy(x)).tobytes(), shape


@pytest.mark.parametrize(("channels", "filled"), [(2, "weave_f32"), (3, "weave_f32"), (5, "turn_f32")])
def test_what_fills_tiles(channels: int, filled: str) -> None:
    x = np.empty((4, channels, 50), np.float32)
    graph = graph_of(lambda x: make("mul", make("permute", x, dims=(0, 2, 1)), 2), x)
    assert filled in compile_graph(graph).kernels[0].text


def test_threads_may_cut_anywhere() -> None:
    x = tj.from_numpy(np.random.default_rng(1).standard_normal((517, 711)).astype(np.float32))
    f = tj.compile(lambda x: (x.T.exp() + 1).contiguous())
    before = tj.get_num_threads()
    try:
        found = set()
        for threads in (1, 2, 3):
            tj.set_num_threads(threads)
            found |= {f(x).numpy().tobytes() for _ in range(4)}
        assert len(found) == 1
    finally:
        tj.set_num_threads(before)


def test_a_transposed_operand_is_read_in_tiles() -> None:
    x = tj.ones(100, 100)
    f = tj.compile(lambda x: x + x.T)
    for _ in range(4):
        f(x)
    assert "turn_f32" in tj.explain(f).kernels[0]["text"]


def launched(graph: Graph, x: np.ndarray, out: np.ndarray) -> tuple[Callable[[int, int], None], int]:
    """Runs units of a graph of one kernel over `x`, from one to another; and how many there are."""
    (launch,) = compile_graph(graph).program._launches
    block = np.zeros(len(launch.slots), np.int64)
    for k, slot in enumerate(launch.slots):
        if isinstance(slot, Address):
            block[k] = (x, out)[slot.buffer].ctypes.data + slot.offset
        else:
            block[k] = np.float64(slot).view(np.int64) if isinstance(slot, float) else slot
    return lambda low, high: caller()(launch.kernel.address, block.ctypes.data, low, high), launch.units


def run_in_pieces(graph: Graph, x: np.ndarray, out: np.ndarray, pieces: int) -> None:
    """Runs a graph of one kernel over `x` in so many pieces, the last of them first."""
    run, units = launched(graph, x, out)
    cuts = [units * piece // pieces for piece in range(pieces + 1)]
    for low, high in reversed(list(itertools.pairwise(cuts))):
        run(low, high)


def have_it_that_all_are_large(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = compiler.version()
    monkeypatch.setattr(cost, limit, 0)
    monkeypatch.setattr(compiler, "version", lambda: f"{usual} {limit} is 0")


def swapped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions in order, but for the last two."""
    return (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)


def symmetric(x: Node) -> Node:
    return make("add", x, make("permute", x, dims=swapped(x.shape)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SQUARES, ids=str)
@pytest.mark.parametrize("small", [False, True])
def test_squares_may_be_cut_anywhere_and_lie_anywhere(
    shape: tuple[int, ...], dtype: type, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        # Each block is followed by its mirror image whatever the size.
        have_it_that_all_are_large("MIRRORED_BYTES", monkeypatch)
    rng, numel = np.random.default_rng(3), math.prod(shape)
    graph = graph_of(symmetric, np.empty(shape, dtype))
    for pieces, at, to in ((1, 0, 0), (2, 1, 0), (7, 4, 9), (numel // shape[-1], 15, 4)):
        memory, beside = rng.standard_normal(numel + 16).astype(dtype), np.full(numel + 16, np.nan, dtype)
        x, out = memory[at : at + numel].reshape(shape), beside[to : to + numel].reshape(shape)
        run_in_pieces(graph, x, out, pieces)
        assert out.tobytes() == (x + x.swapaxes(-1, -2)).tobytes(), (pieces, at, to)
        assert np.isnan(beside[:to]).all()
        assert np.isnan(beside[to + numel :]).all()


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (63, 400), (400, 65), (5, 200, 300), (2, 1030, 70)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("small", [False, True])
def test_matrices_may_be_cut_anywhere_and_lie_anywhere(
    shape: tuple[int, ...], dtype: type, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        # Tiles are tall whatever the size.
        have_it_that_all_are_large("TALL_BYTES", monkeypatch)
    rng, numel = np.random.default_rng(4), math.prod(shape)
    turned = (*shape[:-2], shape[-1], shape[-2])
    order = swapped(shape)
    graph = graph_of(lambda x: make("mul", make("permute", x, dims=order), 3), np.empty(shape, dtype))
    for pieces, at, to in ((1, 0, 0), (3, 1, 0), (5, 4, 9), (numel // shape[-2], 15, 4)):
        memory, beside = (rng.standard_normal(numel + 16) * 99).astype(dtype), np.full(numel + 16, 77, dtype)
        x, out = memory[at : at + numel].reshape(shape), beside[to : to + numel].reshape(turned)
        run_in_pieces(graph, x, out, pieces)
        assert out.tobytes() == (x.transpose(order) * dtype(3)).tobytes(), (pieces, at, to)
        assert (beside[:to] == 77).all()
        assert (beside[to + numel :] == 77).all()


def test_a_thread_that_is_given_half_of_the_rows_does_half_of_the_blocks() -> None:
    x, out = np.arange(1, 2001, dtype=np.float32).reshape(500, 4), np.zeros((4, 500), np.float32)
    run, units = launched(graph_of(lambda x: make("mul", make("permute", x, dims=(1, 0)), 2), x), x, out)
    assert units == 4
    run(0, 2)
    # All of the rows, in one half of the places: each line of what is turned is read by one thread.
    done = out[0] != 0
    assert 200 < done.sum() < 300
    assert (out == x.T * 2 * done).all()


def test_tiles_of_a_square_that_read_the_same_memory_follow_one_another() -> None:
    def text(function: Callable[..., Node], *shapes: tuple[int, int]) -> str:
        arrays = [np.empty(shape, np.float32) for shape in shapes]
        return compile_graph(graph_of(function, *arrays)).kernels[0].text

    assert "pairs = " in text(symmetric, (100, 100))
    assert "pairs = " not in text(lambda x, y: make("add", x, make("permute", y, dims=(1, 0))), (99, 99), (99, 99))
    assert "pairs = " not in text(lambda x: make("mul", make("permute", x, dims=(1, 0)), 2), (99, 99))


@pytest.mark.parametrize("function", [symmetric, lambda x: make("mul", make("permute", x, dims=(1, 0)), 2)])
def test_tiles_are_lowered_directly(function: Callable[[Node], Node]) -> None:
    with directly():
        compile_graph(graph_of(function, np.empty((100, 100), np.float32)))


def test_squares_of_other_sizes_need_no_other_kernel() -> None:
    f = tj.compile(lambda x: x - x.T * 2)
    rng = np.random.default_rng(5)
    for n in (100, 100, 100, 130, 131, 800, 64, 900):
        x = tj.from_numpy(rng.standard_normal((n, n)).astype(np.float32))
        assert f(x).numpy().tobytes() == (x.numpy() - x.numpy().T * np.float32(2)).tobytes(), n
    assert tj.explain(f).compiles <= 2
