"""The convolution kernels by element type.

Every element is one chain of fused multiply-adds: over (channel, tap row, tap column) for images, over
(image, row, column) for weights, ascending, from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tracejit.kernels.code import Code, Word, native_kernel
from tracejit.kernels.conv_depthwise import DepthwiseImage, DepthwiseWeight
from tracejit.kernels.conv_images import Channels, Image, Pixels, pack
from tracejit.kernels.conv_unfolded import Unfold, Unfolded
from tracejit.kernels.conv_weights import Weight
from tracejit.kernels.vectors import F32, F64, Lane

_Kernel = Image | Unfold | Unfolded | Weight | DepthwiseImage | DepthwiseWeight


def _units(kernel: Callable[[Lane, Code, Word], _Kernel], lane: Lane) -> Callable[..., None]:
    def body(code: Code, p: Word, low: Word, high: Word) -> None:
        made = kernel(lane, code, p)
        with code.loop(low, high) as unit:
            made.unit(unit)

    return body


pack_f32 = native_kernel("pack_f32", partial(pack, F32))
pack_f64 = native_kernel("pack_f64", partial(pack, F64))
channels_f32 = native_kernel("channels_f32", _units(Channels, F32))
channels_f64 = native_kernel("channels_f64", _units(Channels, F64))
pixels_f32 = native_kernel("pixels_f32", _units(Pixels, F32))
pixels_f64 = native_kernel("pixels_f64", _units(Pixels, F64))
unfold_f32 = native_kernel("unfold_f32", _units(Unfold, F32))
unfold_f64 = native_kernel("unfold_f64", _units(Unfold, F64))
unfolded_f32 = native_kernel("unfolded_f32", _units(Unfolded, F32))
unfolded_f64 = native_kernel("unfolded_f64", _units(Unfolded, F64))
weight_f32 = native_kernel("weight_f32", _units(Weight, F32))
weight_f64 = native_kernel("weight_f64", _units(Weight, F64))
depthwise_f32 = native_kernel("depthwise_f32", _units(DepthwiseImage, F32))
depthwise_f64 = native_kernel("depthwise_f64", _units(DepthwiseImage, F64))
depthwise_weight_f32 = native_kernel("depthwise_weight_f32", _units(DepthwiseWeight, F32))
depthwise_weight_f64 = native_kernel("depthwise_weight_f64", _units(DepthwiseWeight, F64))


def conv_pack_f32(p: Any, lo: int, hi: int) -> Any:
    """Weights in panels, as the convolution or its gradient to the input reads them, float32."""
    return pack_f32(p, lo, hi)


def conv_pack_f64(p: Any, lo: int, hi: int) -> Any:
    """Weights in panels, as the convolution or its gradient to the input reads them, float64."""
    return pack_f64(p, lo, hi)


def conv_channels_f32(p: Any, lo: int, hi: int) -> Any:
    """Convolution, or its gradient to the input, with output channels in the lanes, float32."""
    return channels_f32(p, lo, hi)


def conv_channels_f64(p: Any, lo: int, hi: int) -> Any:
    """Convolution, or its gradient to the input, with output channels in the lanes, float64."""
    return channels_f64(p, lo, hi)


def conv_pixels_f32(p: Any, lo: int, hi: int) -> Any:
    """Convolution, or its gradient to the input, with pixels in the lanes, float32."""
    return pixels_f32(p, lo, hi)


def conv_pixels_f64(p: Any, lo: int, hi: int) -> Any:
    """Convolution, or its gradient to the input, with pixels in the lanes, float64."""
    return pixels_f64(p, lo, hi)


def conv_unfold_f32(p: Any, lo: int, hi: int) -> Any:
    """What taps see of the pixels of a convolution, or of its gradient to the input, in panels, float32."""
    return unfold_f32(p, lo, hi)


def conv_unfold_f64(p: Any, lo: int, hi: int) -> Any:
    """What taps see of the pixels of a convolution, or of its gradient to the input, in panels, float64."""
    return unfold_f64(p, lo, hi)


def conv_unfolded_f32(p: Any, lo: int, hi: int) -> Any:
    """Convolution, or its gradient to the input, of unfolded pixels with weights as they lie, float32."""
    return unfolded_f32(p, lo, hi)


def conv_unfolded_f64(p: Any, lo: int, hi: int) -> Any:
    """Convolution, or its gradient to the input, of unfolded pixels with weights as they lie, float64."""
    return unfolded_f64(p, lo, hi)


def conv_weight_f32(p: Any, lo: int, hi: int) -> Any:
    """Gradient of a convolution to its weight, float32."""
    return weight_f32(p, lo, hi)


def conv_weight_f64(p: Any, lo: int, hi: int) -> Any:
    """Gradient of a convolution to its weight, float64."""
    return weight_f64(p, lo, hi)


def conv_depthwise_f32(p: Any, lo: int, hi: int) -> Any:
    """Convolution of each channel with its own filter, or its gradient to the input, float32."""
    return depthwise_f32(p, lo, hi)


def conv_depthwise_f64(p: Any, lo: int, hi: int) -> Any:
    """Convolution of each channel with its own filter, or its gradient to the input, float64."""
    return depthwise_f64(p, lo, hi)


def conv_depthwise_weight_f32(p: Any, lo: int, hi: int) -> Any:
    """Gradient of a convolution of each channel with its own filter to the weight, float32."""
    return depthwise_weight_f32(p, lo, hi)


def conv_depthwise_weight_f64(p: Any, lo: int, hi: int) -> Any:
    """Gradient of a convolution of each channel with its own filter to the weight, float64."""
    return depthwise_weight_f64(p, lo, hi)
