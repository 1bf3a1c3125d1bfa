"""Composites as data whose sizes are symbols.

In: a composite with the tensors and plain values of a call, and sizes in the place of theirs. Out: `OpenDrawing`, a
drawing that holds for all sizes by which everything would be decided alike.
Must not know: when a composite is drawn, programs, what runs them.

The composite's Python runs on tensors that have no memory at all, only shapes of `symbols.Size`: what it decides by
them is on their trail, and what needs memory or a real `int` ends the drawing or fixes the size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracejit.aval import Aval
from tracejit.ops.record import Op, ops
from tracejit.shapes import contiguous_strides, view_strides
from tracejit.symbols import Real, Size, present
from tracejit.tensor.dispatch import show
from tracejit.tensor.draft import Number, Unfit
from tracejit.tensor.drawing import Drawing
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.state import state
from tracejit.tensor.tape import enter
from tracejit.tensor.tensor import Tensor, aval_of, pending

Layout = tuple[tuple[Any, ...], tuple[Any, ...] | None]
"""A shape and, unless the elements lie in its order, the strides."""


class OpenDrawing(Drawing):
    """A drawing of a call's tensors whose shapes and strides are `layouts`; `numbers` are sizes that are operands, and
    `kinds` what they are as such: f(loat) or i(nteger).
    """

    def __init__(self, tensors: list[Tensor], layouts: Sequence[Layout], run: Callable[[list[Tensor]], Any]) -> None:
        self._layouts = iter(layouts)
        self.numbers: list[Size] = []
        self.kinds: list[str] = []
        super().__init__(tensors, run)

    def ghost(self, like: Tensor) -> Tensor:
        """A tensor like another one, of the next layout."""
        shape, strides = next(self._layouts)
        ghost = pending(Aval(shape, like._dtype), like._requires_grad, strides, None)
        ghost._share()
        self.note(ghost)
        self.strides[-1] = strides
        return ghost

    def made(self, aval: Aval) -> Tensor:
        """A tensor that an operation makes."""
        return pending(aval, False, None, None)

    def leaf(self, tensor: Tensor) -> Tensor:
        """A tensor without its history."""
        out = pending(aval_of(tensor), False, tensor._strides, None)
        out._cell = tensor._share()
        return out

    def apply(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """Take an operation down, with sizes among its operands as numbers that each run has anew."""
        return super().apply(op, tuple([self._number(a) if type(a) in (Size, Real) else a for a in args]), attrs)

    def _number(self, size: Any) -> Scalar:
        if type(size) is Real:
            if size.by != 1:
                raise Unfit
            self.numbers.append(size.size)
            self.kinds.append("f")
            return Scalar(float(present(size.size)), Number(len(self.numbers) - 1))
        self.numbers.append(size)
        self.kinds.append("i")
        return Scalar(present(size), Number(len(self.numbers) - 1))

    def assign(self, target: Tensor, value: Tensor) -> None:
        """A change in place. Raises: Unfit."""
        raise Unfit

    def view(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Tensor:
        """What an operation shows of a tensor."""
        (x,) = args
        strides = strides_of_view(op, x._shape, x._strides, attrs)
        aval = op.infer(aval_of(x), *attrs)
        out = pending(aval, False, None if strides is None or lies_in_order(aval.shape, strides) else strides, None)
        return shown(op, x, attrs, strides is not None, out)


def shown(op: Op, x: Tensor, attrs: tuple[Any, ...], is_view: bool, out: Tensor) -> Tensor:
    """Note of what an operation shows of a tensor what it is a view of, if it is one, and its step on the tape."""
    if op.plain is not None:
        out._cell = x._share()
    elif is_view:
        show(x, ((op, attrs),), out)
    if x._requires_grad and state.grad_enabled and op.rules:
        enter(op, (x,), attrs, (out,), 1)
    return out


def strides_of_view(
    op: Op, shape: tuple[Any, ...], given: tuple[Any, ...] | None, attrs: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """How what an operation shows lies in the memory of a tensor of these strides, or of none if it lies in order; None
    if it does not lie there. Raises: Unfit.
    """
    strides = contiguous_strides(shape) if given is None else given
    if op in (ops.reshape, ops.reshaped):
        return contiguous_strides(attrs[0]) if given is None else view_strides(shape, strides, attrs[0])
    if op is ops.permute:
        return tuple([strides[d] for d in attrs[0]])
    if op is ops.expand:
        lead = len(attrs[0]) - len(shape)
        along = [0 if n == 1 and to != 1 else s for n, to, s in zip(shape, attrs[0][lead:], strides, strict=True)]
        return (*(0,) * lead, *along)
    if op is ops.slice:
        return tuple([s * step for s, step in zip(strides, attrs[2], strict=True)])
    raise Unfit


def lies_in_order(shape: tuple[Any, ...], strides: tuple[Any, ...]) -> bool:
    """Whether elements lie in the order of their shape, without gaps."""
    expected: Any = 1
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n == 1:
            continue
        if s != expected:
            return False
        expected = expected * n
    return True
