"""The plans of a two-dimensional convolution and of its two gradients, on contiguous NCHW arrays.

Each element is one chain of fused multiply-adds in an order that the shapes alone decide: the result over
(channel, tap row, tap column), the input's gradient over (output channel, tap row, tap column), the weight's over
(image, row, column). Padding counts as zeros in those chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracejit.kernels import conv_kernels as kernels
from tracejit.kernels.conv_patches import MAX_TAPS
from tracejit.kernels.gemm_kernels import TILE_ROWS, TILE_VECTORS
from tracejit.kernels.gemm_vectors import TARGET
from tracejit.kernels.launch import Launch, Operand, Ptr

Pair = tuple[int, int]

_SIZES = {"float32": 4, "float64": 8}
_IMAGE: dict[str, Callable[..., Any]] = {"float32": kernels.conv_image_f32, "float64": kernels.conv_image_f64}
_WEIGHT: dict[str, Callable[..., Any]] = {"float32": kernels.conv_weight_f32, "float64": kernels.conv_weight_f64}
_BYTES_PER_NANOSECOND = 2.0 * TARGET.vector_bytes
"""Bytes of products a core gets through in a nanosecond, roughly."""


@dataclass(frozen=True, slots=True)
class _Geometry:
    """The sizes of one convolution; channels are those of one group."""

    dtype: str
    images: int
    groups: int
    c_in: int
    c_out: int
    image: Pair
    result: Pair
    taps: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def lanes(self) -> int:
        return TARGET.vector_bytes // _SIZES[self.dtype]

    @property
    def cost(self) -> float:
        """Nanoseconds of the whole, serially."""
        pixels = self.images * self.groups * self.result[0] * self.result[1]
        work = pixels * self.c_in * self.c_out * self.taps[0] * self.taps[1]
        return work * _SIZES[self.dtype] / _BYTES_PER_NANOSECOND

    def meeting(self) -> tuple[int, ...]:
        """The slots that say how source and taps meet."""
        return (*self.taps, *self.stride, *self.padding, *self.dilation, self.images)


def plan_conv2d(
    x: Operand, w: Operand, y: Operand, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Launch, ...]:
    """The launches of the convolution y of x (n, c_in, h, w) with w (c_out, c_in / groups, kh, kw).

    Shape: y (n, c_out, (h + 2 padding - dilation (kh - 1) - 1) // stride + 1, ...); all contiguous.
    DType: float32 or float64, the same for all.
    Edge: empty sides of c_in give zeros; an empty y needs no launch.
    Raises: ValueError for shapes that do not fit, NotImplementedError for other dtypes or sides of w over 256.
    Cost: n * c_out * c_in / groups * oh * ow * kh * kw fused multiply-adds.

    >>> x, w = Operand("float32", (1, 1, 5, 5), (25, 25, 5, 1)), Operand("float32", (1, 1, 3, 3), (9, 9, 3, 1))
    >>> y = Operand("float32", (1, 1, 3, 3), (9, 9, 3, 1))
    >>> [launch.function.__name__ for launch in plan_conv2d(x, w, y, (1, 1), (0, 0), (1, 1), 1)]
    ['conv_image_f32']
    """
    g = _checked(x, w, y, stride, padding, dilation, groups)
    taps = g.taps[0] * g.taps[1]
    sizes = (g.groups, g.c_out, g.c_in, *g.image, *g.result)
    return _image_launches(g, sizes, False, g.c_in * taps, taps, g.result, 1)


def plan_conv2d_input_grad(
    ct: Operand, w: Operand, dx: Operand, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Launch, ...]:
    """The launches of the gradient dx to a convolution's input, from the cotangent ct of its result.

    Shape: as in `plan_conv2d`, ct like y and dx like x.
    Edge: input pixels that no tap reaches get 0.
    """
    g = _checked(dx, w, ct, stride, padding, dilation, groups)
    taps = g.taps[0] * g.taps[1]
    sizes = (g.groups, g.c_in, g.c_out, *g.result, *g.image)
    grid = (-(-g.image[0] // stride[0]), -(-g.image[1] // stride[1]))
    return _image_launches(g, sizes, True, taps, g.c_in * taps, grid, stride[0] * stride[1])


def plan_conv2d_weight_grad(
    ct: Operand, x: Operand, dw: Operand, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Launch, ...]:
    """The launches of the gradient dw to a convolution's weight, from the cotangent ct and the input x.

    Shape: as in `plan_conv2d`, ct like y and dw like w.
    Edge: no images give zeros.
    """
    g = _checked(x, dw, ct, stride, padding, dilation, groups)
    taps = g.c_in * g.taps[0] * g.taps[1]
    if taps == 0 or g.c_out == 0:
        return ()
    panels = -(-g.c_out // (TILE_VECTORS * g.lanes))
    part = min(_part_of_taps(taps, g.groups * panels), kernels.MAX_PART)
    parts = -(-taps // part)
    sizes = (g.groups, g.c_out, g.c_in, *g.image, *g.result)
    slots: tuple[int | Ptr, ...] = (Ptr(1), Ptr(0), Ptr(2), *sizes, *g.meeting(), parts, part)
    units = g.groups * panels * parts
    return (Launch(_WEIGHT[g.dtype], slots, units, g.cost / units),)


def _part_of_taps(taps: int, others: int) -> int:
    """Taps in a unit: about eight units in all, if there are tiles enough for that; whole tiles."""
    parts = min(-(-8 // others), -(-taps // TILE_ROWS))
    part = -(-taps // parts)
    return part if part <= TILE_ROWS else -(-part // TILE_ROWS) * TILE_ROWS


def _image_launches(
    g: _Geometry, sizes: tuple[int, ...], backward: bool, w_out: int, w_channel: int, grid: Pair, grids: int
) -> tuple[Launch, ...]:
    chunks = -(-grid[0] * grid[1] // (kernels.CHUNK_PANELS * TILE_VECTORS * g.lanes))
    units = g.images * g.groups * grids * chunks
    if units == 0 or 0 in sizes[1:2]:
        return ()
    slots: tuple[int | Ptr, ...] = (
        Ptr(0),
        Ptr(1),
        Ptr(2),
        *sizes,
        *g.meeting(),
        int(backward),
        w_out,
        w_channel,
        chunks,
    )
    return (Launch(_IMAGE[g.dtype], slots, units, g.cost / units),)


def _checked(x: Operand, w: Operand, y: Operand, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> _Geometry:
    if not x.dtype == w.dtype == y.dtype:
        raise ValueError(f"conv2d: the dtypes differ: {x.dtype}, {w.dtype} -> {y.dtype}")
    if x.dtype not in _SIZES:
        raise NotImplementedError(f"conv2d: there is no kernel for {x.dtype}")
    if not len(x.shape) == len(w.shape) == len(y.shape) == 4:
        raise ValueError(f"conv2d: the operands must be 4-D, got {x.shape}, {w.shape} -> {y.shape}")
    if not all(operand.contiguous or 0 in operand.shape for operand in (x, w, y)):
        raise ValueError("conv2d: the operands must be contiguous")
    if min(*stride, *dilation, groups) < 1 or min(padding) < 0:
        raise ValueError(
            f"conv2d: stride {stride}, padding {padding}, dilation {dilation} or groups {groups} is too small"
        )
    images, channels, *image = x.shape
    c_out, c_in, *taps = w.shape
    if channels != c_in * groups or c_out % groups:
        raise ValueError(f"conv2d: {channels} and {c_out} channels do not fit a weight {w.shape} and {groups} groups")
    if max(taps) > MAX_TAPS:
        raise NotImplementedError(f"conv2d: no side of the weight may be longer than {MAX_TAPS}, got {w.shape}")
    result = tuple(
        (image[axis] + 2 * padding[axis] - dilation[axis] * (taps[axis] - 1) - 1) // stride[axis] + 1 for axis in (0, 1)
    )
    if y.shape != (images, c_out, *result) or min(result) < 0:
        raise ValueError(f"conv2d: the result of {x.shape} and {w.shape} is {(images, c_out, *result)}, not {y.shape}")
    sides = ((image[0], image[1]), (result[0], result[1]), (taps[0], taps[1]))
    return _Geometry(x.dtype, images, groups, c_in, c_out // groups, *sides, stride, padding, dilation)
