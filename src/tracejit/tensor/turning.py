"""Tensors that get another shape or order of dimensions in place: the same memory, which does not change.

In: a function that makes a view. Out: its in-place form. Must not know: what a view is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Any

from tracejit.tensor.dispatch import wrap
from tracejit.tensor.host import host
from tracejit.tensor.inplace import check_no_leaf
from tracejit.tensor.shaping import squeeze, swapaxes, t, transpose, unsqueeze
from tracejit.tensor.tape import current
from tracejit.tensor.tensor import Tensor


def _is_shown(x: Tensor) -> bool:
    """Whether another tensor may be a view of this one, which it would then show wrongly."""
    cell = x._cell
    # One is the tensor's, one this function's, one the question's.
    return x._base is None and cell is not None and getrefcount(cell) > 3


@host
def _turn(x: Tensor, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    check_no_leaf(x)
    if _is_shown(x):
        raise RuntimeError(f"{function.__name__}_(): the tensor has views, or shares its memory; clone() it first")
    source = x
    if x._base is None:
        # As it was: the tensor itself is what becomes of it.
        source = wrap(x._memory(), x._dtype)
        source._index, source._node, source._requires_grad = getattr(x, "_index", 0), x._node, x._node is not None
    out = function(source, *args, **kwargs)
    node = current(out)
    x._array = out._array
    if x._base is not None:
        x._view, x._seen = out._view, out._seen
    if node is not None:
        x._index, x._node, x._requires_grad = out._index, node, True
    x._bump()
    return x


def turning(function: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """The in-place form of a function that makes a view: `x.f_(...)`."""

    def changed(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return _turn(self, function, args, kwargs)

    changed.__name__ = changed.__qualname__ = f"{function.__name__}_"
    changed.__doc__ = f"""`{function.__name__}` in place: the tensor is its own view.

    Edge: a compiled region computes what is pending first.
    Raises: RuntimeError for a leaf whose gradient is asked for, and for a tensor that has views.
    """
    for name in (changed.__name__, *names):
        setattr(Tensor, name, changed)
    return changed


IN_PLACE = (*map(turning, (squeeze, unsqueeze, t, swapaxes)), turning(transpose, "swapdims_"))
