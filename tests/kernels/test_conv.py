"""Convolutions and their gradients: the bits of scalar chains for any stride, padding, dilation and groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.kernels.chains import convolution, input_gradient, weight_gradient
from tests.kernels.launching import operand, run, same, sample
from tracejit.kernels.conv import plan_conv2d, plan_conv2d_input_grad, plan_conv2d_weight_grad

Pair = tuple[int, int]
ONE = (1, 1)


def check(
    dtype: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """Compares the three plans with the scalar chains."""
    rng = np.random.default_rng(0)
    x, w = sample(rng, dtype, *x_shape), sample(rng, dtype, *w_shape)
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y = convolution(x, w, stride, padding, dilation, groups)
    same(run(plan_conv2d, [x, w], np.empty_like(y), **attrs), y)
    ct = sample(rng, dtype, *y.shape)
    dx = input_gradient(ct, w, x.shape, stride, padding, dilation, groups)
    same(run(plan_conv2d_input_grad, [ct, w], np.empty_like(x), **attrs), dx)
    dw = weight_gradient(ct, x, w.shape, stride, padding, dilation, groups)
    same(run(plan_conv2d_weight_grad, [ct, x], np.empty_like(w), **attrs), dw)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("x", "w", "stride", "padding", "dilation", "groups"),
    [
        ((2, 1, 28, 28), (16, 1, 3, 3), ONE, ONE, ONE, 1),
        ((2, 40, 14, 14), (33, 40, 3, 3), ONE, ONE, ONE, 1),
        ((2, 6, 17, 15), (8, 3, 3, 3), (2, 2), ONE, ONE, 2),
        ((1, 3, 40, 33), (9, 3, 7, 7), (2, 2), (3, 3), ONE, 1),
        ((2, 4, 11, 13), (6, 4, 3, 2), (2, 3), (0, 1), (2, 1), 1),
        ((3, 8, 7, 7), (8, 1, 3, 3), ONE, ONE, ONE, 8),
        ((2, 2, 5, 5), (2, 2, 1, 1), (2, 2), (0, 0), ONE, 1),
        ((1, 3, 3, 3), (5, 3, 1, 1), (3, 2), (4, 2), ONE, 1),
        ((2, 2, 3, 1), (3, 2, 3, 1), ONE, (1, 0), ONE, 1),
        ((1, 2, 2, 1030), (3, 2, 3, 3), ONE, ONE, ONE, 1),
        ((1, 30, 9, 9), (9, 30, 4, 4), (1, 2), (2, 1), ONE, 1),
        ((1, 100, 6, 6), (70, 100, 3, 3), ONE, ONE, ONE, 1),
    ],
)
def test_chosen_shapes(
    dtype: str, x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> None:
    check(dtype, x, w, stride, padding, dilation, groups)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(("float32", "float64")),
    images=st.integers(1, 3),
    groups=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    image=st.tuples(st.integers(1, 20), st.integers(1, 40)),
    taps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=pairs,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=pairs,
)
def test_any_convolution(
    dtype: str,
    images: int,
    groups: int,
    channels: Pair,
    image: Pair,
    taps: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> None:
    for axis in (0, 1):
        assume(image[axis] + 2 * padding[axis] > dilation[axis] * (taps[axis] - 1))
    x = (images, channels[0] * groups, *image)
    check(dtype, x, (channels[1] * groups, channels[0], *taps), stride, padding, dilation, groups)


def test_empty_batch() -> None:
    x, w, y = np.ones((0, 2, 5, 5)), np.ones((3, 2, 3, 3)), np.ones((0, 3, 3, 3))
    assert plan_conv2d(operand(x), operand(w), operand(y), ONE, (0, 0), ONE, 1) == ()
    assert plan_conv2d_input_grad(operand(y), operand(w), operand(x), ONE, (0, 0), ONE, 1) == ()
    attrs = {"stride": ONE, "padding": (0, 0), "dilation": ONE, "groups": 1}
    same(run(plan_conv2d_weight_grad, [y, x], np.empty_like(w), **attrs), np.zeros_like(w))


def test_errors() -> None:
    def plan(
        x: tuple[int, ...],
        w: tuple[int, ...],
        y: tuple[int, ...],
        dtype: str = "float32",
        groups: int = 1,
        stride: Pair = ONE,
    ) -> None:
        arrays = [operand(np.ones(shape, dtype)) for shape in (x, w, y)]
        plan_conv2d(*arrays, stride, (0, 0), ONE, groups)

    with pytest.raises(NotImplementedError, match="int32"):
        plan((1, 2, 5, 5), (3, 2, 3, 3), (1, 3, 3, 3), "int32")
    with pytest.raises(ValueError, match="must be 4-D"):
        plan((2, 5, 5), (3, 2, 3, 3), (1, 3, 3, 3))
    with pytest.raises(ValueError, match="channels do not fit"):
        plan((1, 2, 5, 5), (3, 3, 3, 3), (1, 3, 3, 3))
    with pytest.raises(ValueError, match="the result of"):
        plan((1, 2, 5, 5), (3, 2, 3, 3), (1, 3, 4, 3))
    with pytest.raises(ValueError, match="too small"):
        plan((1, 2, 5, 5), (3, 2, 3, 3), (1, 3, 3, 3), stride=(0, 1))
    with pytest.raises(NotImplementedError, match="no side of the weight"):
        plan((1, 1, 300, 1), (1, 1, 300, 1), (1, 1, 1, 1))
    x, w = operand(np.ones((1, 2, 5, 5))), operand(np.ones((3, 2, 3, 3)))
    with pytest.raises(ValueError, match="must be contiguous"):
        plan_conv2d(operand(np.ones((1, 5, 5, 2)).transpose(0, 3, 1, 2)), w, x, ONE, (0, 0), ONE, 1)
    with pytest.raises(ValueError, match="dtypes differ"):
        plan_conv2d(x, operand(np.ones((3, 2, 3, 3), "float32")), x, ONE, (0, 0), ONE, 1)
