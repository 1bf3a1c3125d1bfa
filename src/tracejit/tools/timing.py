"""What a series of step times says: the steady median, the cold start and the step at which compiling has paid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def steady(seconds: Sequence[float]) -> float:
    """The median of the later half, in which nothing is compiled any more.

    Raises: ValueError when there are no times.

    >>> steady([9.0, 1.0, 1.0, 1.0])
    1.0
    """
    if not seconds:
        raise ValueError("no step was timed")
    return median(seconds[len(seconds) // 2 :])


def cold_seconds(seconds: Sequence[float], settled: float | None = None) -> float:
    """How much longer the first half took than it would have at the steady pace.

    Only steps at least twice as long as the steady one count, so that noise does not add up.

    >>> cold_seconds([2.0, 1.0, 0.5, 0.5, 0.5, 0.5])
    2.0
    """
    pace = steady(seconds) if settled is None else settled
    early = seconds if settled is not None else seconds[: max(1, len(seconds) // 2)]
    return math.fsum(s - pace for s in early if s >= 2 * pace)


def break_even(eager_step: float, eager_cold: float, compiled_step: float, compiled_cold: float) -> int | None:
    """The first step after which the compiled run is ahead in total; None if it never gets ahead.

    >>> break_even(0.003, 0.0, 0.001, 1.0)
    500
    >>> break_even(0.001, 0.0, 0.002, 1.0) is None
    True
    """
    extra = compiled_cold - eager_cold
    gain = eager_step - compiled_step
    if extra <= 0:
        return 1
    return math.ceil(extra / gain - 1e-9) if gain > 0 else None
