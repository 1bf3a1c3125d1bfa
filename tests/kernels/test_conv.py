"""Convolutions and their gradients: the bits of scalar chains for any stride, padding, dilation and groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.kernels.chains import convolution, input_gradient, weight_gradient
from tests.kernels.launching import fenced, launch, operand, run, same, sample
from tracejit.kernels.conv import plan_conv2d, plan_conv2d_input_grad, plan_conv2d_weight_grad
from tracejit.kernels.vectors import TARGET

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
        # Rows of pixels longer than a band, more channels or taps than a block, windows that are gathered, ...
        ((1, 1, 5, 1500), (2, 1, 3, 3), ONE, ONE, ONE, 1),
        ((2, 5, 5, 700), (7, 5, 3, 3), (1, 2), ONE, ONE, 1),
        ((1, 2, 4, 900), (3, 2, 2, 250), ONE, (0, 7), (1, 3), 1),
        ((1, 2, 3, 1300), (9, 2, 1, 3), (1, 2), (0, 1), (1, 300), 1),
        ((1, 2, 400, 9), (3, 2, 2, 2), (150, 3), (0, 0), (200, 2), 1),
        ((1, 1, 40, 40), (2, 1, 36, 36), (3, 2), (2, 5), ONE, 1),
        ((1, 512, 7, 7), (40, 512, 3, 3), ONE, ONE, ONE, 1),
        ((1, 3, 9, 9), (600, 3, 2, 3), (2, 2), ONE, ONE, 1),
        ((1, 700, 3, 9), (700, 700, 1, 1), ONE, (0, 0), ONE, 1),
        # Images that are computed together: equal sets and not, blocks of channels, in place, padded and gathered.
        ((37, 9, 6, 6), (11, 9, 3, 3), ONE, ONE, ONE, 1),
        ((5, 300, 9, 8), (36, 300, 3, 2), ONE, ONE, ONE, 1),
        ((33, 6, 5, 7), (8, 3, 1, 2), (2, 1), (0, 0), ONE, 2),
        ((9, 6, 7, 6), (4, 6, 3, 3), (2, 3), ONE, (1, 2), 1),
        ((6, 2, 40, 40), (3, 2, 35, 35), (2, 1), ONE, ONE, 1),
        # Fewer pixels than output channels: unfolded, several panels, blocks of taps, grids with and without taps.
        ((8, 48, 2, 2), (130, 48, 3, 3), ONE, ONE, ONE, 1),
        ((9, 40, 4, 4), (288, 40, 3, 3), (2, 2), ONE, ONE, 1),
        ((1, 600, 5, 3), (70, 600, 2, 2), ONE, ONE, ONE, 1),
        ((2, 90, 4, 3), (96, 45, 3, 1), ONE, (1, 0), (2, 1), 2),
        ((3, 130, 3, 4), (70, 130, 1, 1), (3, 3), (0, 0), ONE, 1),
        # ... grids of a stride that interleave or do not, with and without taps, and few channels over wide rows.
        ((1, 3, 33, 40), (12, 3, 16, 16), (16, 16), (0, 0), ONE, 1),
        ((1, 6, 9, 80), (12, 6, 2, 2), (1, 40), (0, 0), ONE, 1),
        ((1, 3, 70, 80), (12, 3, 2, 2), (3, 4), (0, 0), ONE, 1),
        ((1, 2, 3, 3), (3, 2, 1, 1), (5, 5), (0, 0), ONE, 1),
        ((1, 16, 30, 530), (2, 16, 3, 3), ONE, ONE, ONE, 1),
        # One tap: a product where images fill its panels, and where they do not, or rows are left out.
        ((3, 20, 16, 16), (41, 20, 1, 1), ONE, (0, 0), ONE, 1),
        ((2, 300, 15, 17), (3, 300, 1, 1), ONE, (0, 0), (2, 3), 1),
        ((1, 70, 7, 7), (33, 70, 1, 1), ONE, (0, 0), ONE, 1),
        ((3, 20, 7, 7), (9, 20, 1, 1), ONE, (0, 0), ONE, 1),
        ((2, 8, 16, 16), (6, 4, 1, 1), ONE, (0, 0), ONE, 2),
        ((1, 64, 20, 20), (64, 1, 3, 3), ONE, ONE, ONE, 64),
        ((1, 64, 20, 20), (64, 1, 3, 3), (2, 2), ONE, ONE, 64),
        # A filter for each channel: bands, more taps than a tile, rows that no band has room for, a part of a vector.
        ((2, 17, 40, 50), (17, 1, 5, 5), ONE, (2, 2), ONE, 17),
        ((2, 16, 41, 33), (16, 1, 7, 4), (2, 3), (5, 0), (2, 1), 16),
        ((1, 40, 3, 900), (40, 1, 3, 3), (2, 1), ONE, ONE, 40),
        ((1, 16, 60, 7), (16, 1, 2, 2), (5, 5), (0, 0), ONE, 16),
        ((2, 16, 5, 70), (16, 1, 1, 3), ONE, (0, 1), ONE, 16),
        ((2, 13, 9, 9), (13, 1, 1, 1), (3, 2), (2, 4), ONE, 13),
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


def check_fenced(
    dtype: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], attrs: tuple[Pair, Pair, Pair, int], end: bool
) -> None:
    """Compares the three plans with the scalar chains; nothing may lie before or behind an operand."""
    rng = np.random.default_rng(0)
    x, w = sample(rng, dtype, *x_shape), sample(rng, dtype, *w_shape)
    y = convolution(x, w, *attrs)
    expected = [
        (plan_conv2d, x, w, y),
        (plan_conv2d_input_grad, y, w, input_gradient(y, w, x.shape, *attrs)),
        (plan_conv2d_weight_grad, y, x, weight_gradient(y, x, w.shape, *attrs)),
    ]
    for planner, first, second, result in expected:
        arrays = [fenced(array, end=end) for array in (first, second, np.full_like(result, 77))]
        launch(planner(*map(operand, arrays), *attrs), arrays)
        same(arrays[2], result)


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(("float32", "float64")),
    groups=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    image=st.tuples(st.integers(1, 12), st.integers(1, 30)),
    taps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    end=st.booleans(),
)
@example("float32", 1, (5, 20), (9, 14), ONE, ONE, (0, 0), True)
@example("float64", 1, (17, 9), (3, 21), ONE, ONE, (0, 0), False)
def test_nothing_outside_of_the_operands_is_touched(
    dtype: str, groups: int, channels: Pair, image: Pair, taps: Pair, stride: Pair, padding: Pair, end: bool
) -> None:
    for axis in (0, 1):
        assume(image[axis] + 2 * padding[axis] >= taps[axis])
    attrs = (stride, padding, ONE, groups)
    check_fenced(dtype, (2, channels[0] * groups, *image), (channels[1] * groups, channels[0], *taps), attrs, end)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(("float32", "float64")),
    images=st.integers(1, 11),
    groups=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 50), st.integers(1, 90)),
    image=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    taps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    end=st.booleans(),
)
def test_any_convolution_of_small_images(
    dtype: str,
    images: int,
    groups: int,
    channels: Pair,
    image: Pair,
    taps: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    end: bool,
) -> None:
    for axis in (0, 1):
        assume(image[axis] + 2 * padding[axis] > dilation[axis] * (taps[axis] - 1))
    attrs = (stride, padding, dilation, groups)
    check_fenced(dtype, (images, channels[0] * groups, *image), (channels[1] * groups, channels[0], *taps), attrs, end)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(("float32", "float64")),
    channels=st.integers(4, 36),
    image=st.tuples(st.integers(1, 20), st.integers(1, 40)),
    taps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=pairs,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=pairs,
    end=st.booleans(),
)
def test_any_convolution_with_a_filter_for_each_channel(
    dtype: str, channels: int, image: Pair, taps: Pair, stride: Pair, padding: Pair, dilation: Pair, end: bool
) -> None:
    for axis in (0, 1):
        assume(image[axis] + 2 * padding[axis] > dilation[axis] * (taps[axis] - 1))
    attrs = (stride, padding, dilation, channels)
    check_fenced(dtype, (2, channels, *image), (channels, 1, *taps), attrs, end)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_chain_has_the_error_of_a_sum(dtype: str) -> None:
    rng = np.random.default_rng(1)
    x, w = sample(rng, dtype, 2, 24, 9, 9), sample(rng, dtype, 20, 24, 3, 3)
    y = run(plan_conv2d, [x, w], np.empty((2, 20, 9, 9), dtype), stride=ONE, padding=ONE, dilation=ONE, groups=1)
    wide = np.pad(x.astype(np.longdouble), ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (2, 3))
    exact = np.tensordot(patches, w.astype(np.longdouble), ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    size = np.tensordot(abs(patches), abs(w).astype(np.longdouble), ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    assert (abs(y - exact) <= 24 * 9 * np.finfo(dtype).eps * size).all()


def test_empty_batch() -> None:
    x, w, y = np.ones((0, 2, 5, 5)), np.ones((3, 2, 3, 3)), np.ones((0, 3, 3, 3))
    assert plan_conv2d(operand(x), operand(w), operand(y), ONE, (0, 0), ONE, 1) == ()
    assert plan_conv2d_input_grad(operand(y), operand(w), operand(x), ONE, (0, 0), ONE, 1) == ()
    attrs = {"stride": ONE, "padding": (0, 0), "dilation": ONE, "groups": 1}
    same(run(plan_conv2d_weight_grad, [y, x], np.empty_like(w), **attrs), np.zeros_like(w))


def test_one_tap_is_a_product() -> None:
    def names(x: tuple[int, ...], w: tuple[int, ...]) -> list[str]:
        y = np.zeros((x[0], w[0], x[2] - w[2] + 1, x[3] - w[3] + 1), "float32")
        arrays = (np.zeros(x, "float32"), np.zeros(w, "float32"), y)
        return [one.function.__name__ for one in plan_conv2d(*map(operand, arrays), ONE, (0, 0), ONE, 1)]

    assert names((2, 8, 16, 16), (6, 8, 1, 1)) == ["gemm_panel_f32"]
    assert names((2, 8, 7, 7), (6, 8, 1, 1))[0] == "conv_pack_f32"
    assert names((2, 8, 16, 16), (6, 8, 1, 2))[0] == "conv_pack_f32"


def test_channels_are_in_the_lanes_where_each_has_a_filter() -> None:
    def kernel(channels: int, width: int, step: int, multiplier: int = 1) -> str:
        x, w = np.zeros((1, channels, 8, width), "float32"), np.zeros((channels * multiplier, 1, 3, 3), "float32")
        y = np.zeros((1, channels * multiplier, -(-8 // step), -(-width // step)), "float32")
        plan = plan_conv2d(*map(operand, (x, w, y)), (step, step), ONE, ONE, channels)
        return plan[-1].function.__name__

    lanes = TARGET.vector_bytes // 4
    assert kernel(lanes, 9, 1) == kernel(2 * lanes + 1, 2 * lanes, 2) == "conv_depthwise_f32"
    # Rows of some vectors are read as they lie, few channels leave vectors empty, several filters have no such kernel.
    assert kernel(lanes, 4 * lanes, 1) == kernel(lanes // 2, lanes, 1) == "conv_pixels_f32"
    assert kernel(lanes // 4, 9, 2) == kernel(lanes, 9, 2, 2) == "conv_channels_f32"


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
