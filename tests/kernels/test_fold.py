"""Folds against the order that they promise, and half precision rounded once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracejit.kernels.fold import LANES
from tracejit.runtime.build import build
from tracejit.runtime.team import launch

TYPES = {"f32": np.float32, "f64": np.float64, "i8": np.int8, "i64": np.int64, "u8": np.uint8}
STEPS = {
    "sum": (lambda x, y: x + y, -0.0),
    "prod": (lambda x, y: x * y, 1.0),
    "amax": (lambda x, y: y if y > x or y != y else x, -np.inf),
    "amin": (lambda x, y: y if y < x or y != y else x, np.inf),
}


def fold(what: str, short: str, x: np.ndarray) -> np.ndarray:
    name = f"fold_one_{what}_{short}"
    text = f"def {name}(p, lo, hi):\n"
    text += f"    store_{short}(load_arg(p, 1), 0, fold_{what}_{short}(load_arg(p, 0), load_arg(p, 2)))\n    return 0\n"
    out = np.zeros(1, x.dtype)
    assert launch(build(text, name).address, 1, 1.0, x, out, len(x)) == 0
    return out


def in_order(what: str, x: np.ndarray) -> np.ndarray:
    """Lanes in ascending order, then the tree."""
    step, start = STEPS[what]
    lanes = [x.dtype.type(start)] * LANES
    for k, value in enumerate(x):
        lanes[k % LANES] = step(lanes[k % LANES], value)
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [step(a, b) for a, b in zip(lanes[:half], lanes[half:], strict=True)]
    return np.array(lanes[:1], x.dtype)


@pytest.mark.parametrize("what", STEPS)
@pytest.mark.parametrize("short", ["f32", "f64"])
def test_floats_are_folded_in_the_promised_order(what: str, short: str) -> None:
    rng = np.random.default_rng(3)
    for length in (0, 1, 2, 10, 31, 32, 33, 64, 100, 1000):
        x = rng.standard_normal(length).astype(TYPES[short])
        if length == 100:
            x[[3, 40]] = np.nan, -0.0
        with np.errstate(all="ignore"):
            expected = in_order(what, x)
        result = fold(what, short, x)
        assert result.tobytes() == expected.tobytes() or (np.isnan(result[0]) and np.isnan(expected[0]))


@pytest.mark.parametrize("what", ["amax", "amin"])
@pytest.mark.parametrize("short", ["f32", "f64"])
def test_extremes_keep_the_last_nan_and_the_first_zero(what: str, short: str) -> None:
    rng = np.random.default_rng(5)
    bits = {"f32": np.uint32, "f64": np.uint64}[short]
    for length in (3, 32, 33, 200, 333):
        for share in (0.0, 0.01, 0.5):
            x = rng.choice([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf][: rng.integers(1, 7)], length).astype(TYPES[short])
            # Numbers that tell one NaN from another.
            x.view(bits)[:] |= np.where(rng.random(length) < share, np.array(np.nan, x.dtype).view(bits), 0)
            x.view(bits)[np.isnan(x)] |= np.flatnonzero(np.isnan(x)).astype(bits)
            assert fold(what, short, x).tobytes() == in_order(what, x).tobytes(), (length, share)


@pytest.mark.parametrize("short", ["i8", "i64", "u8"])
def test_integers_wrap(short: str) -> None:
    x = np.random.default_rng(4).integers(1, 100, 77).astype(TYPES[short])
    assert fold("sum", short, x)[0] == x.sum(dtype=x.dtype)
    assert fold("prod", short, x)[0] == x.prod(dtype=x.dtype)
    assert fold("amax", short, x)[0] == x.max()
    assert fold("amin", short, x)[0] == x.min()


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_half_is_rounded_once(numbers: list[float]) -> None:
    name = "halves"
    text = f"def {name}(p, lo, hi):\n    for i in range(lo, hi):\n"
    text += "        store_f16(load_arg(p, 1), i, half_f64(load_f64(load_arg(p, 0), i)))\n    return 0\n"
    kernel = build(text, name)
    # Numbers beside the middle of two halves, where rounding twice goes wrong.
    with np.errstate(over="ignore"):
        halves = np.array(numbers).astype(np.float16).astype(np.float64)
    middle = halves * (1 + 2.0**-11)
    x = np.concatenate([numbers, middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf), [1e-8, 6e-8, 65520.0]])
    out = np.zeros(len(x), np.float16)
    launch(kernel.address, len(x), 1.0, x, out)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(np.float16)
    assert np.array_equal(out.view(np.uint16)[~np.isnan(x)], expected.view(np.uint16)[~np.isnan(x)])
