"""Loops that go through strips: several elementary functions one at a time, and wide columns; eager's bits anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import tracejit as tj
from tracejit.runtime.build import build
from tracejit.schedule import cost
from tracejit.trace.compiled import region_of

STRIP = cost.strip(2)

CASES: dict[str, Callable[..., tj.Tensor]] = {
    "one after another": lambda x, y: tj.exp(tj.tanh(x) * y) + tj.sigmoid(y),
    "stored on the way": lambda x, y: tj.stack([tj.tanh(x), tj.exp(tj.tanh(x)), tj.sigmoid(x)]).sin().cos(),
    "twice": lambda x, y: tj.sigmoid(x + y) * tj.tanh(y) + tj.sigmoid(x) * tj.tanh(tj.sigmoid(x * y) + x),
    "twice and once": lambda x, y: tj.exp(x - y) * tj.log(tj.exp(y) + tj.exp(tj.sin(x))),
    "over rows": lambda x, y: tj.tanh(x[..., :-1]) * tj.sigmoid(y[..., 1:]) + tj.exp(x[..., 1:]),
    "broadcast": lambda x, y: tj.sigmoid(x) * tj.exp(y[..., :1]) * tj.tanh(x + y[..., :1]),
    "transposed": lambda x, y: tj.tanh(x.T).exp() * y.T.sigmoid(),
    "a sum of rows": lambda x, y: (tj.tanh(x).exp() * tj.sigmoid(y)).sum(-1),
    "a sum of columns": lambda x, y: (tj.tanh(x).exp() * tj.sigmoid(y)).sum(0),
}


def data(shape: tuple[int, int], dtype: str) -> list[tj.Tensor]:
    rng = np.random.default_rng(sum(shape))
    return [
        tj.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(getattr(tj, dtype)) for _ in range(2)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_compiled_has_the_bits_of_eager(case: str, dtype: str) -> None:
    f = CASES[case]
    g = tj.compile(f)
    for shape in ((1, 2), (3, STRIP - 1), (2, STRIP + 1), (7, 2 * STRIP + 3), (40, 70), (300, 5)):
        x, y = data(shape, dtype)
        expected = f(x, y).numpy().tobytes()
        for _ in range(3):
            assert g(x, y).numpy().tobytes() == expected, shape


def test_what_is_changed_in_place_is_read_before() -> None:
    def f(x: tj.Tensor, y: tj.Tensor) -> None:
        gate = tj.sigmoid(x)
        x.copy_(tj.tanh(x) * gate + tj.exp(y))
        y.mul_(gate + tj.tanh(x))

    g = tj.compile(f)
    ours, theirs = data((5, 3 * STRIP + 7), "float32"), data((5, 3 * STRIP + 7), "float32")
    for _ in range(5):
        f(*theirs)
        g(*ours)
        assert [t.numpy().tobytes() for t in ours] == [t.numpy().tobytes() for t in theirs]


def test_each_of_several_elementary_functions_has_its_own_loop() -> None:
    def loops(f: Callable[[tj.Tensor], tj.Tensor], x: tj.Tensor) -> int:
        g = tj.compile(f)
        for _ in range(3):
            g(x)
        (kernel,) = region_of(g).executables()[0][1].compiled.kernels
        return int(kernel.text.count("for j in"))

    x = tj.ones(1000)
    assert loops(lambda x: tj.exp(x) * 2, x) == 1
    assert loops(lambda x: tj.exp(tj.tanh(x) * tj.sigmoid(x)), x) == 3
    # Short rows are not worth it.
    assert loops(lambda x: tj.exp(x[:, 1:]) * tj.tanh(x[:, :-1]), tj.ones(50, 20)) == 1


def test_an_elementary_function_that_is_needed_twice_is_written_once() -> None:
    g = tj.compile(lambda x: tj.tanh(x * 2) * tj.tanh(x * 3) + tj.exp(x))
    x = tj.ones(1000)
    for _ in range(3):
        g(x)
    (info,) = region_of(g).executables()[0][1].compiled.kernels
    functions = re.findall(r"^define internal .*@(\w+)\(", build(info.text, info.name).llvm_text(), re.MULTILINE)
    assert functions == ["tanh_strip_f32"]


@pytest.mark.parametrize("shape", [(1, 1), (300, 127), (300, 129), (1000, 2049), (5, 7000), (2, 300, 400)])
def test_columns_may_be_cut_anywhere(shape: tuple[int, ...]) -> None:
    x = tj.from_numpy(np.random.default_rng(3).standard_normal(shape).astype(np.float32))
    f: Callable[[tj.Tensor], tj.Tensor] = lambda x: (x.exp() * 2).sum(-2)  # noqa: E731
    g = tj.compile(f)
    before = tj.get_num_threads()
    try:
        found = {f(x).numpy().tobytes()}
        for threads in (1, 2, 3):
            tj.set_num_threads(threads)
            found |= {g(x).numpy().tobytes() for _ in range(4)}
        assert len(found) == 1
    finally:
        tj.set_num_threads(before)
