"""How tensors print: PyTorch's layout of numbers, with its options."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.tensor.tensor import Tensor, method, on_gpu


class Options:
    """How numbers are laid out."""

    precision = 4
    threshold = 1000
    edgeitems = 3
    linewidth = 80
    sci_mode: bool | None = None


options = Options()

_PROFILES: dict[str, tuple[int, float, int]] = {
    "default": (4, 1000, 3),
    "short": (2, 1000, 2),
    "full": (4, math.inf, 3),
}


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors print: digits after the point, from how many elements on only `edgeitems` at each end of a
    dimension are shown, characters of a line, scientific notation always or never (None: as the numbers need).

    Edge: `profile` sets the first three at once: "default", "short" or "full".
    """
    if profile is not None:
        options.precision, options.threshold, options.edgeitems = _PROFILES[profile]  # type: ignore[assignment]
        options.linewidth = 80
    for name, value in (
        ("precision", precision),
        ("threshold", threshold),
        ("edgeitems", edgeitems),
        ("linewidth", linewidth),
    ):
        if value is not None:
            setattr(options, name, value)
    options.sci_mode = sci_mode


class _Numbers:
    """One way to write all numbers of a tensor: as wide as the widest."""

    def __init__(self, values: Any) -> None:
        self.whole = self.scientific = False
        self.floating = values.dtype.kind == "f"
        flat = values.ravel()
        if self.floating:
            # Zeros, infinities and NaN have no say in the width, as in PyTorch.
            flat = flat[np.isfinite(flat) & (flat != 0)]
            self._choose(flat)
        self.width = max((len(self._spell(v)) for v in flat.tolist()), default=1)

    def _choose(self, values: Any) -> None:
        if not values.size:
            self.whole = True
            return
        size = np.abs(values)
        least, most = float(size.min()), float(size.max())
        self.whole = bool((values == np.ceil(values)).all())
        self.scientific = most / least > 1000.0 or most > 1.0e8 or (not self.whole and least < 1.0e-4)
        if options.sci_mode is not None:
            self.scientific = options.sci_mode

    def _spell(self, value: Any) -> str:
        if not self.floating:
            return str(value)
        if self.scientific:
            return f"{value:.{options.precision}e}"
        if self.whole:
            return f"{value:.0f}" + ("." if math.isfinite(value) else "")
        return f"{value:.{options.precision}f}"

    def __call__(self, value: Any) -> str:
        return self._spell(value).rjust(self.width)


def _rows(x: Any, indent: int, numbers: _Numbers, short: bool) -> str:
    """Nested brackets with one line for each vector, or more if it is long."""
    if x.ndim == 0:
        return numbers(x.item())
    edge = options.edgeitems
    cut = short and len(x) > 2 * edge
    shown = [*x[:edge], None, *x[len(x) - edge :]] if cut and edge else [None] if cut else list(x)
    if x.ndim == 1:
        room = max(1, math.floor((options.linewidth - indent) / (numbers.width + 2)))
        items = [(" ..." if edge else "...") if v is None else numbers(v.item()) for v in shown]
        lines = [", ".join(items[i : i + room]) for i in range(0, len(items), room)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = ["..." if v is None else _rows(v, indent + 1, numbers, short) for v in shown]
    return "[" + ("," + "\n" * (x.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _corners(x: Any) -> Any:
    """The elements that a shortened tensor shows."""
    edge = options.edgeitems
    for axis, size in enumerate(x.shape):
        if size > 2 * edge:
            x = np.take(x, [*range(edge), *range(size - edge, size)], axis)
    return x


def text_of(x: Tensor, prefix: str = "tensor(") -> str:
    """A tensor as text: its numbers, and what they do not show."""
    array = x._data()
    notes = []
    plain = (dtypes.get_default_dtype(),) if array.size == 0 else (
        dtypes.get_default_dtype(), dtypes.int64, dtypes.bool
    )  # fmt: skip
    if array.size == 0:
        if array.ndim != 1:
            notes.append(f"size={tuple(array.shape)}")
        body = "[]"
    else:
        short = array.size > options.threshold
        wide = array.astype(np.float32) if x._dtype in dtypes.HALVES else array
        body = _rows(wide, len(prefix), _Numbers(_corners(wide) if short else wide), short)
    if on_gpu(x):
        notes.append(f"device='{x.device}'")
    if x._dtype not in plain:
        notes.append(f"dtype={x._dtype}")
    step = x.grad_fn
    if step is not None:
        notes.append(f"grad_fn={step!r}")
    elif x._requires_grad:
        notes.append("requires_grad=True")
    out = prefix + body
    column = len(out) - out.rfind("\n") - 1
    if "\n" not in out:
        column = len(out)
    for note in notes:
        if column + len(note) + 3 > options.linewidth:
            out += ",\n" + " " * len(prefix) + note
            column = len(prefix) + len(note)
        else:
            out += ", " + note
            column += len(note) + 2
    return out + ")"


@method("__str__")
def __repr__(self: Tensor, *, tensor_contents: Any = None) -> str:
    """The numbers of the tensor, shortened if there are many.

    >>> import tracejit as tj
    >>> tj.tensor([[1.5, 2.0], [0.25, -1.0]], requires_grad=True)
    tensor([[ 1.5000,  2.0000],
            [ 0.2500, -1.0000]], requires_grad=True)
    """
    return text_of(self)


@method()
def __format__(self: Tensor, spec: str) -> str:
    """A tensor of one number formats as the number."""
    if not self._shape:
        return format(self._data().item(), spec)
    return object.__format__(self, spec)
