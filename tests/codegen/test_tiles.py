"""Loops over operands that lie across their rows in memory: turned tile by tile, with NumPy's bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tracejit as tj
from tests.programs import graph_of, make
from tracejit.compiler import compile_graph
from tracejit.kernels.tiles import TILE_ROWS
from tracejit.schedule import cost

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


def test_far_tiles_ask_for_the_next_ones() -> None:
    columns = cost.FAR_BYTES // 8192

    def text(columns: int) -> str:
        x = np.empty((1024, columns), np.float32)
        return compile_graph(graph_of(lambda x: make("mul", make("permute", x, dims=(1, 0)), 2), x)).kernels[0].text

    asked = [line for line in text(columns).splitlines() if "prefetch" in line]
    assert len(asked) == TILE_ROWS * 4 // cost.LINE
    assert all("* (top + below * " in line for line in asked)
    assert "prefetch" not in text(columns - 1)
