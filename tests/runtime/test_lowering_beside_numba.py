"""Kernel text lowered directly and by numba: the same results wherever both accept it, and what is refused."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import tracejit as tj
from tests.runtime.lowering_ways import directly, through_numba
from tracejit.runtime import frontend
from tracejit.runtime.build import build, function_of
from tracejit.runtime.scalars import Unsupported
from tracejit.runtime.team import launch

COUNT = 24


def results(text: str) -> list[bytes]:
    """What the kernel of one of the programs below writes: floats and integers."""
    address = build(text, "kernel").address
    rng = np.random.default_rng(3)
    x = rng.choice(np.array([0.0, -0.0, 1.5, -2.25, 3e38, np.inf, np.nan, 1e-40], np.float32), COUNT)
    k = rng.choice(np.array([0, 1, -1, 7, -8, 63, 2**40, -(2**62)], np.int64), COUNT)
    out, whole = np.zeros(COUNT, np.float64), np.zeros(COUNT, np.int64)
    assert launch(address, COUNT, 0.0, x, k, out, whole) == 0
    out[np.isnan(out)] = np.nan
    return [out.tobytes(), whole.tobytes()]


# --- random programs --------------------------------------------------------------------------------------------------

FLOATS = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["x", "y", "float32(0.5)", "float32(k)"]),
        st.builds("({} {} {})".format, FLOATS, st.sampled_from("+-*/"), FLOATS),
        st.builds("(-{})".format, FLOATS),
        st.builds("select({}, {}, {})".format, TRUTHS, FLOATS, FLOATS),
        st.builds("float32(float64({}) * 2.5)".format, FLOATS),
    )
)
INTEGERS = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["k", "j", "n", "3", "-5"]),
        st.builds("({} {} {})".format, INTEGERS, st.sampled_from("+-*&|^"), INTEGERS),
        st.builds("({} {} {})".format, INTEGERS, st.sampled_from(["//", "%"]), st.sampled_from(["7", "-3", "(j + 1)"])),
        st.builds("min({}, {})".format, INTEGERS, INTEGERS),
        st.builds("max({}, {})".format, INTEGERS, INTEGERS),
        st.builds("({} if {} else {})".format, INTEGERS, TRUTHS, INTEGERS),
    )
)
TRUTHS = st.deferred(
    lambda: st.one_of(
        st.builds("({} {} {})".format, FLOATS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), FLOATS),
        st.builds("({} {} {})".format, INTEGERS, st.sampled_from(["<", ">", "=="]), INTEGERS),
        st.builds("({} {} {})".format, st.sampled_from(["(x > y)", "(k > n)"]), st.sampled_from(["and", "or"]), TRUTHS),
        st.builds("(not {})".format, st.sampled_from(["(x < y)", "(k == n)"])),
    )
)
LOOPS = ["for i in range({bound}):", "for i in range({bound}, -1, -2):", "while i < {bound}:"]


def program(f: str, n: str, test: str, loop: str) -> str:
    lines = [
        "def kernel(p, lo, hi):",
        "    for j in range(lo, hi):",
        "        x = load_f32(load_arg(p, 0), j)",
        "        k = load_i64(load_arg(p, 1), j)",
        "        n = k % 5",
        "        y = x * x",
        "        i = 0",
        "        " + loop.format(bound="n"),
        f"            y = {f}",
        f"            if {test}:",
        f"                n = {n}",
        "            else:",
        "                y = y - x",
        "            i += 1",
        "            if i > 6:",
        "                break",
        "        store_f64(load_arg(p, 2), j, float64(y))",
        "        store_i64(load_arg(p, 3), j, n)",
        "    return 0",
    ]
    return "\n".join(lines) + "\n"


@hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(FLOATS, INTEGERS, TRUTHS, st.sampled_from(LOOPS))
def test_random_kernels_do_the_same_either_way(f: str, n: str, test: str, loop: str) -> None:
    text = program(f, n, test, loop)
    with directly():
        found = results(text)
    with through_numba():
        assert results(text) == found


# --- kernels of programs ----------------------------------------------------------------------------------------------


def trained() -> Any:
    tj.manual_seed(0)
    nn = tj.nn
    model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Dropout(0.3), nn.LayerNorm(5), nn.Linear(5, 3))
    opt = tj.optim.Adam(model.parameters())

    @tj.compile
    def step(x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
        opt.zero_grad()
        loss = tj.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    for _ in range(4):
        step(tj.randn(7, 6), tj.randint(0, 3, (7,)))
    return step


def test_kernels_that_are_generated_need_no_numba() -> None:
    texts = [k["text"] for k in tj.explain(trained()).kernels]
    generated = [t for t in texts if t.startswith(("def loop", "def row", "def column", "def blocks", "def combine"))]
    assert len(generated) > 5
    for text in generated:
        name = text.split("def ", 1)[1].split("(", 1)[0]
        assert not frontend.lower_directly(function_of(text, name), text).linked


@pytest.mark.parametrize(
    "body",
    [
        "x = [1, 2]",
        "x = 1\n    x = 1.5",
        "for i in [1]:\n        pass",
        "for i in range(0, 4, hi):\n        pass",
        "x = {}",
        "lo < 1 < hi",
        "with p:\n        pass",
        "x = lo ** 2",
    ],
)
def test_what_is_outside_of_the_language_is_refused(body: str) -> None:
    text = f"def odd(p, lo, hi):\n    {body}\n    return 0\n"
    with pytest.raises(Unsupported):
        frontend.lower_directly(function_of(text, "odd"), text)
