"""The attention kernels by element type, with a mask and without."""

from __future__ import annotations

from functools import partial
from typing import Any

from tracejit.kernels.attention_units import backward, forward, pack
from tracejit.kernels.code import native_kernel
from tracejit.kernels.vectors import F32, F64

panels_f32 = native_kernel("panels_f32", partial(pack, F32))
panels_f64 = native_kernel("panels_f64", partial(pack, F64))
attend_f32 = native_kernel("attend_f32", partial(forward, F32, False))
attend_f64 = native_kernel("attend_f64", partial(forward, F64, False))
attend_masked_f32 = native_kernel("attend_masked_f32", partial(forward, F32, True))
attend_masked_f64 = native_kernel("attend_masked_f64", partial(forward, F64, True))
attend_back_f32 = native_kernel("attend_back_f32", partial(backward, F32, False))
attend_back_f64 = native_kernel("attend_back_f64", partial(backward, F64, False))
attend_back_masked_f32 = native_kernel("attend_back_masked_f32", partial(backward, F32, True))
attend_back_masked_f64 = native_kernel("attend_back_masked_f64", partial(backward, F64, True))


def attention_pack_f32(p: Any, lo: int, hi: int) -> Any:
    """An operand of attention in panels, float32."""
    return panels_f32(p, lo, hi)


def attention_pack_f64(p: Any, lo: int, hi: int) -> Any:
    """An operand of attention in panels, float64."""
    return panels_f64(p, lo, hi)


def attention_f32(p: Any, lo: int, hi: int) -> Any:
    """Attention without a mask, float32."""
    return attend_f32(p, lo, hi)


def attention_f64(p: Any, lo: int, hi: int) -> Any:
    """Attention without a mask, float64."""
    return attend_f64(p, lo, hi)


def attention_masked_f32(p: Any, lo: int, hi: int) -> Any:
    """Attention with a mask, float32."""
    return attend_masked_f32(p, lo, hi)


def attention_masked_f64(p: Any, lo: int, hi: int) -> Any:
    """Attention with a mask, float64."""
    return attend_masked_f64(p, lo, hi)


def attention_grad_f32(p: Any, lo: int, hi: int) -> Any:
    """Gradients of attention without a mask, float32."""
    return attend_back_f32(p, lo, hi)


def attention_grad_f64(p: Any, lo: int, hi: int) -> Any:
    """Gradients of attention without a mask, float64."""
    return attend_back_f64(p, lo, hi)


def attention_grad_masked_f32(p: Any, lo: int, hi: int) -> Any:
    """Gradients of attention with a mask, float32."""
    return attend_back_masked_f32(p, lo, hi)


def attention_grad_masked_f64(p: Any, lo: int, hi: int) -> Any:
    """Gradients of attention with a mask, float64."""
    return attend_back_masked_f64(p, lo, hi)
