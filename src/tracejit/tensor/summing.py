"""Gradients that are added up in memory of their own, those of slices where the slices are.

In: the gradients of one tensor, or of slices of it, in the order in which a backward pass meets them. Out: their sum.
Must not know: steps, hooks, modes.

The gradient of a slice is `unslice`: zeros with the slice's part among them. Adding such tensors up costs the whole
size for each slice. Here a part is added where it belongs, and what zeros do elsewhere is made good without them:
x + 0.0 is x in every bit, but for -0.0, which becomes 0.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit.eager import add_into, run_op
from tracejit.ops.record import ops
from tracejit.ops.view import region_of
from tracejit.tensor.dispatch import wrap
from tracejit.tensor.tensor import Tensor

Shape = tuple[int, ...]
Region = tuple[slice, ...]
Cut = tuple[Shape, Shape, Shape]
"""How `slice` cut a tensor: the tensor's shape, start and step."""

_EVERYTHING: Region = ()


class GradientSum:
    """A sum in an array that nobody else has.

    `loose` is the region that has met no zero of a slice's surroundings yet: only there may an element be -0.0. It is
    None if there is no such element.
    """

    __slots__ = ("array", "loose")

    def __init__(self, array: np.ndarray, loose: Region) -> None:
        self.array = array
        self.loose: Region | None = loose

    def add(self, part: np.ndarray) -> None:
        """Add a gradient of the whole tensor."""
        # An element that is not -0.0 does not become it.
        add_into(self.array, part)

    def add_slice(self, part: np.ndarray, region: Region) -> None:
        """Add the gradient of a slice."""
        array, loose = self.array, self.loose
        target = array[region]
        if loose is None or loose == region:
            add_into(target, part)
        elif _are_apart(loose, region) or not _has_negative_zero(part):
            add_into(array[loose], 0.0)
            add_into(target, part)
            self.loose = None
        else:
            # Elements that are in both meet the part and no zero.
            both = run_op(ops.add, (target, part), ())
            add_into(array[loose], 0.0)
            target[...] = both
            self.loose = region


def _are_apart(a: Region, b: Region) -> bool:
    """Whether two regions have no element in common, as far as one dimension shows it."""
    for p, q in zip(a, b, strict=False):  # everything has no dimensions
        if p.stop <= q.start or q.stop <= p.start or (p.step == q.step and (p.start - q.start) % p.step):
            return True
    return False


def _has_negative_zero(array: np.ndarray) -> bool:
    bits = array.view(f"i{array.itemsize}")
    return bool((bits == np.iinfo(bits.dtype).min).any())


def begun(gradient: np.ndarray) -> GradientSum | Tensor:
    """A sum that begins with a gradient in memory that nobody else has."""
    return GradientSum(gradient, ()) if gradient.shape else wrap(gradient)


def summed(total: GradientSum | Tensor | None, ct: Tensor, cut: Cut | None) -> GradientSum | Tensor:
    """A sum, None at first, and one more gradient: of the whole tensor, or of a slice of it."""
    part: Any = ct._array
    held: Any = None
    if total is not None:
        held = total.array if isinstance(total, GradientSum) else total._array
    shape = part.shape if cut is None else cut[0]
    if (
        type(part) is not np.ndarray
        or not shape
        or (total is not None and (type(held) is not np.ndarray or held.dtype != part.dtype or held.shape != shape))
    ):
        return _as_tensors(total, ct, cut)
    if cut is None:
        if isinstance(total, GradientSum):
            total.add(part)
            return total
        if held.flags.f_contiguous and part.flags.f_contiguous and not held.flags.c_contiguous:
            # Sums of transposed products stay transposed: turning each of them round would take most of the time.
            return GradientSum(run_op(ops.add, (held.T, part.T), ()).T, _EVERYTHING)
        return GradientSum(_contiguous(run_op(ops.add, (held, part), ())), _EVERYTHING)
    _, start, step = cut
    region = region_of(start, part.shape, step)
    if isinstance(total, GradientSum):
        total.add_slice(part, region)
        return total
    if total is None:
        return GradientSum(run_op(ops.unslice, (part,), cut), region)
    array = _contiguous(run_op(ops.add, (held, 0.0), ()))
    array[region] = run_op(ops.add, (held[region], part), ())
    return GradientSum(array, region)


def _as_tensors(total: GradientSum | Tensor | None, ct: Tensor, cut: Cut | None) -> Tensor:
    """The same by operations on whole tensors: on a GPU, without dimensions, for types that differ."""
    if cut is not None:
        shape, start, step = cut
        ct = ops.unslice(ct, shape=shape, start=start, step=step)
    return ct if total is None else ops.add(as_tensor(total), ct)  # type: ignore[no-any-return]


def _contiguous(array: np.ndarray) -> np.ndarray:
    # NumPy keeps the order of transposed operands.
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def as_tensor(total: Any) -> Any:
    """A sum as a tensor, to which nothing may be added from here on; anything else as it is."""
    return wrap(_contiguous(total.array)) if isinstance(total, GradientSum) else total
