"""The plans of a two-dimensional convolution and of its two gradients, on contiguous NCHW arrays.

Each element is one chain of fused multiply-adds in an order that the shapes alone decide: the result over
(channel, tap row, tap column), the input's gradient over (output channel, tap row, tap column), the weight's over
(image, row, column). Padding counts as zeros in those chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tracejit.kernels import conv_kernels as kernels
from tracejit.kernels.conv_depthwise import DepthwiseSplit, split_depthwise
from tracejit.kernels.conv_split import Correlation, UnfoldedSplit, split_image, split_unfolded, split_weight
from tracejit.kernels.conv_tiles import ROW_BYTES
from tracejit.kernels.conv_windows import MAX_TAPS
from tracejit.kernels.gemm import panel_columns, plan_matmul
from tracejit.kernels.gemm_kernels import TILE_VECTORS
from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.kernels.vectors import TARGET

Pair = tuple[int, int]

_SIZES = {"float32": 4, "float64": 8}
_PACK: dict[str, Callable[..., Any]] = {"float32": kernels.conv_pack_f32, "float64": kernels.conv_pack_f64}
_CHANNELS: dict[str, Callable[..., Any]] = {"float32": kernels.conv_channels_f32, "float64": kernels.conv_channels_f64}
_PIXELS: dict[str, Callable[..., Any]] = {"float32": kernels.conv_pixels_f32, "float64": kernels.conv_pixels_f64}
_UNFOLD: dict[str, Callable[..., Any]] = {"float32": kernels.conv_unfold_f32, "float64": kernels.conv_unfold_f64}
_UNFOLDED: dict[str, Callable[..., Any]] = {"float32": kernels.conv_unfolded_f32, "float64": kernels.conv_unfolded_f64}
_WEIGHT: dict[str, Callable[..., Any]] = {"float32": kernels.conv_weight_f32, "float64": kernels.conv_weight_f64}
_DEPTHWISE: dict[str, Callable[..., Any]] = {
    "float32": kernels.conv_depthwise_f32,
    "float64": kernels.conv_depthwise_f64,
}
_DEPTHWISE_WEIGHT: dict[str, Callable[..., Any]] = {
    "float32": kernels.conv_depthwise_weight_f32,
    "float64": kernels.conv_depthwise_weight_f64,
}
_FILLED = 0.85
"""What part of their panels images of a product fill at least."""
_UNFOLDED_NS = 0.3
"""Nanoseconds in which one element is unfolded."""
_LONG = 4
"""Vectors in a row of pixels from which on they are better loaded as they lie than turned."""
_BYTES_PER_NANOSECOND = 4.0 * TARGET.vector_bytes
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

    def cost(self, lanes_of: int, others: int) -> float:
        """Serial nanoseconds of the whole, if vectors hold `lanes_of` channels and meet `others` on the other side."""
        pixels = self.images * self.groups * self.result[0] * self.result[1]
        work = pixels * others * -(-lanes_of // self.lanes) * self.taps[0] * self.taps[1]
        return work * TARGET.vector_bytes / _BYTES_PER_NANOSECOND

    @property
    def depthwise_cost(self) -> float:
        """Serial nanoseconds of the whole with channels in the lanes: planes are turned, and taps added up."""
        vectors = self.images * -(-self.groups // self.lanes)
        moved = self.image[0] * self.image[1] + self.result[0] * self.result[1]
        added = self.result[0] * self.result[1] * self.taps[0] * self.taps[1]
        return vectors * (1.5 * moved + 0.2 * added)

    def meeting(self, backward: bool) -> tuple[int, ...]:
        """The slots that say how source and taps meet."""
        return (*self.taps, *self.stride, *self.padding, *self.dilation, int(backward))


def plan_conv2d(
    x: Operand, w: Operand, y: Operand, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Launch, ...]:
    """The launches of the convolution y of x (n, c_in, h, w) with w (c_out, c_in / groups, kh, kw).

    Shape: y (n, c_out, (h + 2 padding - dilation (kh - 1) - 1) // stride + 1, ...); all contiguous.
    DType: float32 or float64, the same for all.
    Edge: empty sides of c_in give zeros; an empty y needs no launch.
    Raises: ValueError for shapes that do not fit, NotImplementedError for other dtypes or sides of w over 256.
    Cost: n * c_out * c_in / groups * oh * ow * kh * kw fused multiply-adds; those of one tap, where nothing else
        stands in the way, as products of matrices.

    >>> x, w = Operand("float32", (1, 1, 5, 5), (25, 25, 5, 1)), Operand("float32", (1, 1, 3, 3), (9, 9, 3, 1))
    >>> y = Operand("float32", (1, 1, 3, 3), (9, 9, 3, 1))
    >>> [launch.function.__name__ for launch in plan_conv2d(x, w, y, (1, 1), (0, 0), (1, 1), 1)]
    ['conv_pack_f32', 'conv_channels_f32']
    """
    g = _checked(x, w, y, stride, padding, dilation, groups)
    return _image_launches(g, False)


def plan_conv2d_input_grad(
    ct: Operand, w: Operand, dx: Operand, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Launch, ...]:
    """The launches of the gradient dx to a convolution's input, from the cotangent ct of its result.

    Shape: as in `plan_conv2d`, ct like y and dx like x.
    Edge: input pixels that no tap reaches get 0.
    """
    g = _checked(dx, w, ct, stride, padding, dilation, groups)
    return _image_launches(g, True)


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
    sizes = (g.groups, g.c_out, g.c_in, *g.image, *g.result, *g.meeting(False))
    depthwise = _depthwise(g, False)
    if depthwise is not None:
        units = -(-g.groups // g.lanes)
        slots: tuple[int | Ptr, ...] = (Ptr(1), Ptr(0), Ptr(2), *sizes, *depthwise.slots(g.images))
        return (Launch(_DEPTHWISE_WEIGHT[g.dtype], slots, units, g.depthwise_cost / units),)
    split = split_weight(
        _SIZES[g.dtype], g.images, g.groups, g.c_out, g.c_in, g.result, g.taps, g.stride, g.dilation, not any(g.padding)
    )
    slots = (Ptr(1), Ptr(0), Ptr(2), *sizes, *split.slots(g.images))
    units = g.groups * split.parts * split.tap_parts
    return (Launch(_WEIGHT[g.dtype], slots, units, g.cost(g.c_out, g.c_in) / units),)


def _depthwise(g: _Geometry, backward: bool) -> DepthwiseSplit | None:
    """The cut if each channel has one filter of its own, and channels fill at least half of a vector."""
    if g.c_in != 1 or g.c_out != 1 or 2 * g.groups < g.lanes or 0 in (*g.image, *g.result, *g.taps):
        return None
    source, out = (g.result, g.image) if backward else (g.image, g.result)
    return split_depthwise(source, out, g.taps, g.stride, g.padding, g.dilation, backward)


def _is_product(g: _Geometry) -> bool:
    """Whether each image is a matrix that is multiplied by that of the weights, and fills the panels of a product."""
    pixels = g.image[0] * g.image[1]
    room = -(-pixels // panel_columns(g.dtype)) * panel_columns(g.dtype)
    plain = g.taps == (1, 1) == g.stride and g.padding == (0, 0) and g.groups == 1
    return plain and (g.images == 1 or pixels >= _FILLED * room)


def _as_product(g: _Geometry, m_all: int, channels: int, backward: bool) -> tuple[Launch, ...]:
    """The same chains as a product of the weights with each image, which reads and writes long rows."""
    pixels = g.image[0] * g.image[1]
    weights = Operand(g.dtype, (g.images, m_all, channels), (0, 1, m_all) if backward else (0, channels, 1))
    source = Operand(g.dtype, (g.images, channels, pixels), (channels * pixels, pixels, 1))
    out = Operand(g.dtype, (g.images, m_all, pixels), (m_all * pixels, pixels, 1))
    # The first operand of a convolution is the second one of the product.
    other = {Ptr(0): Ptr(1), Ptr(1): Ptr(0)}
    launches = []
    for launch in plan_matmul(weights, source, out):
        slots = tuple(other.get(slot, slot) if isinstance(slot, Ptr) else slot for slot in launch.slots)
        launches.append(replace(launch, slots=slots, **_by_images(g.images)))
    return tuple(launches)


def _by_images(parts: int) -> dict[str, Any]:
    """How a launch is parted whose units go through as many equal parts of the images, one after another."""
    return {"parts": parts, "along": (0, 2), "loose": True}


def _image_launches(g: _Geometry, backward: bool) -> tuple[Launch, ...]:
    m_all, channels = (g.c_in, g.c_out) if backward else (g.c_out, g.c_in)
    source, out = (g.result, g.image) if backward else (g.image, g.result)
    if g.images == 0 or m_all == 0 or 0 in out:
        return ()
    if _is_product(g):
        return _as_product(g, m_all, channels, backward)
    sides = (_SIZES[g.dtype], g.images, g.groups, m_all, channels, source, out)
    correlation = Correlation(*sides, g.taps, g.stride, g.padding, g.dilation, backward)
    split = split_image(correlation)
    sizes = (g.groups, m_all, channels, *source, *out, *g.meeting(backward))
    # Neighbouring pixels fill the vectors of long rows, too, without being turned.
    across = split.across and g.stride == (1, 1) and (out[1] >= _LONG * g.lanes or g.groups < g.lanes)
    depthwise = None if across else _depthwise(g, backward)
    if depthwise is not None:
        units = g.images * -(-g.groups // g.lanes) * depthwise.bands
        slots: tuple[int | Ptr | Scratch, ...] = (Ptr(0), Ptr(1), Ptr(2), *sizes, *depthwise.slots(g.images))
        cost = g.depthwise_cost / units
        return (Launch(_DEPTHWISE[g.dtype], slots, units, cost, **_by_images(g.images)),)
    taps = g.taps[0] * g.taps[1]
    few = None if split.across else split_unfolded(correlation)
    if few is not None:
        return _unfolded_launches(g, few, sizes, m_all, channels, backward)
    panels = g.groups * -(-m_all // (TILE_VECTORS * g.lanes))
    packed = Scratch(panels * channels * taps * ROW_BYTES)
    if backward:
        # Taps that meet different pixels lie apart if there is a stride.
        runs = (taps, m_all * taps, channels, taps if g.stride == (1, 1) else 0)
    else:
        runs = (channels * taps, taps, 1, channels * taps)
    unit_cost = channels * taps * 2.0 * g.lanes
    pack = Launch(_PACK[g.dtype], (Ptr(1), 0, packed, *sizes, *runs), panels, unit_cost, prepares=True)
    slots = (Ptr(0), packed, Ptr(2), *sizes, *split.slots(g.images))
    sets = -(-g.images // split.together)
    units = sets * g.groups * split.bands * split.parts
    kernel = (_PIXELS if split.across else _CHANNELS)[g.dtype]
    cost = g.cost(m_all, channels) / units
    # Images that are computed together are a part if all such sets are whole.
    ways = _by_images(sets) if g.images % split.together == 0 else {}
    return pack, Launch(kernel, slots, units, cost, **ways)


def _unfolded_launches(
    g: _Geometry, split: UnfoldedSplit, sizes: tuple[int, ...], m_all: int, channels: int, backward: bool
) -> tuple[Launch, ...]:
    """The same chains with the weights as they lie, for few pixels."""
    taps = g.taps[0] * g.taps[1]
    pixels = g.images * split.shape.rows * split.shape.columns
    panels = -(-pixels // (TILE_VECTORS * g.lanes))
    seen = Scratch(g.groups * panels * channels * taps * ROW_BYTES)
    blocks = -(-channels // split.shape.block)
    units = g.groups * blocks
    unfolding: tuple[int | Ptr | Scratch, ...] = (Ptr(0), 0, seen, *sizes, *split.slots(g.images, split.shape.block))
    unfold = Launch(_UNFOLD[g.dtype], unfolding, units, channels * taps * pixels * _UNFOLDED_NS / blocks)
    strides = (taps, m_all * taps) if backward else (channels * taps, taps)
    slots: tuple[int | Ptr | Scratch, ...] = (seen, Ptr(1), Ptr(2), *sizes, *split.slots(g.images, split.block))
    slots += strides
    units = g.groups * split.parts
    return unfold, Launch(_UNFOLDED[g.dtype], slots, units, g.cost(m_all, channels) / units)


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
