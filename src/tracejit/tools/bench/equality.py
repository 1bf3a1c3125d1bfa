"""Whether frameworks computed the same: bit for bit within tracejit, within a tolerance against its peers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

State = Mapping[str, npt.NDArray[Any]]


def bit_difference(a: State, b: State) -> str | None:
    """What differs by even one bit, or None. NaN payloads do not count.

    >>> bit_difference({"x": np.array([0.0])}, {"x": np.array([-0.0])})
    'x: 1 of 1 elements differ, first at 0: 0.0 and -0.0'
    """
    if a.keys() != b.keys():
        return f"only one has {', '.join(sorted(a.keys() ^ b.keys()))}"
    for name in a:
        left, right = a[name], b[name]
        if left.dtype != right.dtype or left.shape != right.shape:
            return f"{name}: {left.dtype}{left.shape} and {right.dtype}{right.shape}"
        different = (left != right) & ~((left != left) & (right != right))
        if left.dtype.kind == "f":
            different |= np.signbit(left) != np.signbit(right)
            different &= ~(np.isnan(left) & np.isnan(right))
        if different.any():
            where = int(np.flatnonzero(different)[0])
            return (
                f"{name}: {int(different.sum())} of {left.size} elements differ, "
                f"first at {where}: {left.flat[where]} and {right.flat[where]}"
            )
    return None


def far_difference(a: State, b: State, tolerance: float) -> str | None:
    """Which result or gradient differs by more than `tolerance` times its largest element, or None.

    Parameters and optimizer state are left out: Adam divides a gradient by its own size, so that a gradient that is
    zero but for rounding moves its parameter by a whole step.

    >>> far_difference({"result": np.array([1.0])}, {"result": np.array([1.1])}, 1e-3)
    'result: differs by 0.1, 0.1 of the largest element'
    """
    for name in sorted(a.keys() & b.keys()):
        if not name.startswith(("result", "grad.")):
            continue
        left, right = a[name].astype(np.float64), b[name].astype(np.float64)
        if left.shape != right.shape:
            return f"{name}: shapes {left.shape} and {right.shape}"
        # A gradient is a sum with cancellation: it is allowed ten times the tolerance of a result.
        allowed = tolerance if name == "result" else 10 * tolerance
        scale = max(float(np.abs(left).max(initial=0.0)), 1e-6)
        far = float(np.abs(left - right).max(initial=0.0))
        if not far <= allowed * scale:
            return f"{name}: differs by {far:.3g}, {far / scale:.3g} of the largest element"
    return None
