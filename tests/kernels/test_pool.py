"""Pooling windows against PyTorch, bit for bit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.kernels.launching import launch, operand, run, same, sample
from tracejit.kernels.pool import (
    plan_avg_pool2d,
    plan_avg_pool2d_grad,
    plan_max_pool2d,
    plan_max_pool2d_grad,
    pool_output_shape,
)
from tracejit.ops import ops

torch = pytest.importorskip("torch")

WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 8, 8), {"kernel": (2, 2), "stride": (2, 2)}),
    ((2, 3, 9, 7), {"kernel": (2, 2), "stride": (2, 2), "ceil_mode": True}),
    ((1, 2, 11, 13), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((1, 2, 11, 13), {"kernel": (3, 2), "stride": (1, 3), "padding": (1, 0), "ceil_mode": True}),
    ((2, 10, 6), {"kernel": (5, 4), "stride": (3, 2), "padding": (2, 2), "ceil_mode": True}),
    ((1, 1, 5, 530), {"kernel": (2, 3), "stride": (1, 1), "padding": (1, 1)}),
    ((1, 1, 3, 700), {"kernel": (1, 300), "stride": (1, 2), "padding": (0, 150)}),
    ((3, 1, 1, 1), {"kernel": (1, 1), "stride": (1, 1)}),
    ((1, 2, 4, 4), {"kernel": (2, 2), "stride": (3, 3), "padding": (1, 1), "ceil_mode": True}),
    ((0, 2, 4, 4), {"kernel": (2, 2), "stride": (2, 2)}),
    ((2, 3, 14, 14), {"kernel": (2, 2), "stride": (2, 2)}),
    ((1, 2, 28, 28), {"kernel": (2, 2), "stride": (2, 2)}),
    ((2, 2, 5, 37), {"kernel": (3, 3), "stride": (2, 2)}),
    ((2, 2, 6, 23), {"kernel": (3, 5), "stride": (1, 1)}),
    ((1, 3, 9, 3), {"kernel": (2, 2), "stride": (3, 1)}),
    ((1, 2, 6, 66), {"kernel": (5, 6), "stride": (1, 2)}),
    ((2, 3, 14, 14), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((1, 2, 9, 37), {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}),
    ((1, 2, 7, 70), {"kernel": (5, 6), "stride": (1, 2), "padding": (2, 3), "ceil_mode": True}),
    ((1, 3, 33, 112), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((2, 2, 2, 2), {"kernel": (4, 4), "stride": (1, 1), "padding": (2, 2)}),
    ((2, 3, 28, 28), {"kernel": (4, 4), "stride": (4, 4)}),
    ((1, 2, 17, 90), {"kernel": (3, 4), "stride": (4, 5), "padding": (1, 2), "ceil_mode": True}),
]
PLANES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 17, 13, 11), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((40, 9, 28), {"kernel": (3, 2), "stride": (1, 3), "padding": (1, 0), "ceil_mode": True}),
    ((1, 16, 70, 40), {"kernel": (5, 4), "stride": (3, 2), "padding": (2, 2), "ceil_mode": True}),
    ((4, 8, 14, 9), {"kernel": (2, 2), "stride": (3, 4)}),
    ((1, 33, 7, 7), {"kernel": (7, 7), "stride": (7, 7)}),
    ((2, 16, 3, 900), {"kernel": (2, 2), "stride": (1, 1)}),
    ((1, 16, 20, 20), {"kernel": (17, 16), "stride": (1, 1)}),
]
DILATED = [
    *WINDOWS,
    ((1, 2, 12, 9), {"kernel": (3, 2), "stride": (2, 1), "dilation": (2, 3)}),
    ((1, 2, 7, 9), {"kernel": (4, 3), "stride": (2, 2), "padding": (2, 1), "dilation": (2, 1), "ceil_mode": True}),
]


def as_torch(attrs: dict[str, Any]) -> dict[str, Any]:
    return {"kernel_size" if key == "kernel" else key: value for key, value in attrs.items()}


def max_pool(x: np.ndarray, attrs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    shape = pool_output_shape(x.shape, **attrs)
    results = []
    for pieces in (1, 3):
        values, indices = np.full(shape, 77, x.dtype), np.full(shape, 77, np.int64)
        plan = plan_max_pool2d(operand(x), operand(values), operand(indices), **attrs)
        assert launch(plan, [x, values, indices], pieces) == 0
        results.append((values, indices))
    for one, other in zip(*results, strict=True):
        same(one, other)
    return results[0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8"])
@pytest.mark.parametrize(("shape", "attrs"), DILATED)
def test_max_pool2d(shape: tuple[int, ...], attrs: dict[str, Any], dtype: str) -> None:
    x = sample(np.random.default_rng(1), dtype, *shape)
    values, indices = max_pool(x, attrs)
    assert values.shape == indices.shape
    if x.size:
        best, places = torch.nn.functional.max_pool2d(torch.from_numpy(x), **as_torch(attrs), return_indices=True)
        same(values, best.numpy())
        same(indices, places.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_max_pool2d_of_special_values_and_ties(dtype: str) -> None:
    rng = np.random.default_rng(2)
    for known in ([-np.inf, np.nan, 1.0], [-np.inf], [0.0, -0.0], [np.inf, 2.0, 2.0, np.nan]):
        x = rng.choice(np.array(known, dtype), (2, 2, 12, 15))
        for shape, attrs in (*DILATED[2:6], *WINDOWS[-7:]):
            values, indices = max_pool(x[..., : shape[-2], : shape[-1]].copy(), attrs)
            cut = torch.from_numpy(x[..., : shape[-2], : shape[-1]].copy())
            best, places = torch.nn.functional.max_pool2d(cut, **as_torch(attrs), return_indices=True)
            np.testing.assert_array_equal(values, best.numpy())
            same(indices, places.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("shape", "attrs"), DILATED)
def test_gradient_of_max_pool2d(shape: tuple[int, ...], attrs: dict[str, Any], dtype: str) -> None:
    rng = np.random.default_rng(3)
    x = sample(rng, dtype, *shape)
    _, indices = max_pool(x, attrs)
    ct = sample(rng, dtype, *indices.shape)
    ct.flat[::3] = -0.0
    size, n = shape[-2] * shape[-1], indices.shape[-2] * indices.shape[-1]
    expected = np.zeros((x.size // size if size else 0, size), dtype)
    for plane, places, given in zip(expected, indices.reshape(-1, n), ct.reshape(-1, n), strict=True):
        np.add.at(plane, places, given)
    windows = {"padding": (0, 0), "dilation": (1, 1)} | {k: v for k, v in attrs.items() if k != "ceil_mode"}
    for pieces in (1, 3):
        dx = np.full(shape, 77, dtype)
        plan = plan_max_pool2d_grad(operand(ct), operand(indices), operand(dx), **windows)
        assert not any(one.fails for one in plan)
        assert launch(plan, [ct, indices, dx], pieces) == 0
        same(dx, expected.reshape(shape))


@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_of_max_pool2d_writes_inside_whatever_the_indices_are(stride: int) -> None:
    n = 3 if stride == 1 else 2
    indices = np.arange(n * n).reshape(1, 1, n, n)
    ct = np.arange(1, n * n + 1, dtype="float32").reshape(1, 1, n, n)
    indices[0, 0, 0, 1], indices[0, 0, 1, 0], indices[0, 0, 1, 1] = 1 << 40, -1, 16
    around = np.full((3, 4, 4), 77, "float32")
    dx = around[1:2].reshape(1, 1, 4, 4)
    plan = plan_max_pool2d_grad(operand(ct), operand(indices), operand(dx), (2, 2), (stride, stride), (0, 0), (1, 1))
    assert launch(plan, [ct, indices, dx], 1) == 0
    assert (around[[0, 2]] == 77).all()
    expected = np.zeros(16, "float32")
    inside = (indices >= 0) & (indices < 16)
    expected[indices[inside]] = ct[inside]
    same(dx.reshape(-1), expected)
    attrs = {"kernel": (2, 2), "stride": (stride, stride), "padding": (0, 0), "dilation": (1, 1)}
    same(ops.max_pool2d_grad.numpy(ct, indices, (4, 4), *attrs.values()), dx)


def test_indices_stay_inside_where_a_window_holds_padding_alone() -> None:
    x = np.ones((1, 1, 1, 1), "float32")
    values, indices = max_pool(x, {"kernel": (2, 2), "stride": (1, 1), "padding": (1, 1), "dilation": (2, 2)})
    assert (values == -np.inf).any()
    assert (indices == 0).all()


MEANS = [
    {"count_include_pad": include, "divisor": divisor}
    for include, divisor in itertools.product((True, False), (0, 3))
]


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("shape", "attrs"), [*WINDOWS, *PLANES])
def test_avg_pool2d_and_gradient(
    shape: tuple[int, ...], attrs: dict[str, Any], dtype: str, mean: dict[str, Any]
) -> None:
    rng = np.random.default_rng(3)
    x = sample(rng, dtype, *shape)
    out = np.empty(pool_output_shape(shape, **attrs), dtype)
    result = run(plan_avg_pool2d, [x], out, **attrs, **mean)
    ct = sample(rng, dtype, *out.shape)
    gradient = run(plan_avg_pool2d_grad, [ct], np.empty_like(x), **attrs, **mean)
    if not x.size:
        return
    # PyTorch adds float16 shares in float16; ours are rounded once, as its float32 gradient would be.
    wide = np.float32 if dtype == "float16" else dtype
    leaf = torch.from_numpy(x.astype(wide)).requires_grad_()
    expected = torch.nn.functional.avg_pool2d(
        leaf,
        **as_torch(attrs),
        count_include_pad=mean["count_include_pad"],
        divisor_override=mean["divisor"] or None,
    )
    same(result, expected.detach().numpy().astype(dtype))
    expected.backward(torch.from_numpy(ct.astype(wide)))
    same(gradient, leaf.grad.numpy().astype(dtype))


def test_output_shape_equals_torch() -> None:
    for size, kernel, stride, padding, dilation, ceil_mode in itertools.product(
        (1, 2, 5, 8), (1, 2, 3, 4), (1, 2, 3), (0, 1, 2), (1, 2, 3), (False, True)
    ):
        attrs = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
        ours = {key: value if key == "ceil_mode" else (value, value) for key, value in attrs.items()}
        try:
            expected = tuple(torch.nn.functional.max_pool2d(torch.zeros(1, 1, size, size), kernel, **attrs).shape)
        except RuntimeError:
            with pytest.raises(ValueError):
                pool_output_shape((1, 1, size, size), (kernel, kernel), **ours)
        else:
            assert pool_output_shape((1, 1, size, size), (kernel, kernel), **ours) == expected


def test_errors() -> None:
    x = operand(np.zeros((1, 2, 4, 4)))
    out = operand(np.zeros((1, 2, 2, 2)))
    places = operand(np.zeros((1, 2, 2, 2), np.int64))
    with pytest.raises(ValueError, match="expected values of shape"):
        plan_max_pool2d(x, x, places, (2, 2), (2, 2))
    with pytest.raises(TypeError, match="int64 indices"):
        plan_max_pool2d(x, out, out, (2, 2), (2, 2))
    with pytest.raises(TypeError, match="int64 indices"):
        plan_max_pool2d_grad(out, out, x, (2, 2), (2, 2), (0, 0), (1, 1))
    with pytest.raises(ValueError, match="half of kernel size"):
        plan_avg_pool2d(x, out, (2, 2), (2, 2), (2, 2))
    with pytest.raises(ValueError, match="greater than zero"):
        plan_avg_pool2d(x, out, (2, 0), (2, 2))
    with pytest.raises(TypeError, match="floating point"):
        plan_avg_pool2d(places, places, (2, 2), (2, 2))
    with pytest.raises(ValueError, match="too small"):
        pool_output_shape((1, 2, 4, 4), (5, 5), (1, 1))
    with pytest.raises(ValueError, match="3D or 4D"):
        pool_output_shape((4, 4), (2, 2), (1, 1))
