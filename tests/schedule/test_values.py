"""Reads through views: how they merge, where they cut a loop, what their steps are."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracejit import dtypes
from tracejit.schedule.values import INPUT, Read, Value, cuts_of, nests, split, whole

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=0, max_size=4).map(tuple)


def read_of(array: np.ndarray, base: np.ndarray) -> Read:
    """The read that sees `base`'s memory as `array` does."""
    source = Value(INPUT, None, base.shape, dtypes.float64)
    offset = (array.ctypes.data - base.ctypes.data) // 8
    return Read(source, array.shape, tuple(s // 8 for s in array.strides), offset)


def elements(read: Read, cuts: list[int], numel: int) -> list[int]:
    """The offsets that loops made by `cuts` go through."""
    steps = split(read.over(read.shape), cuts, numel)
    sizes = [(numel if d == 0 else cuts[d - 1]) // cut for d, cut in enumerate(cuts)]
    places = itertools.product(*map(range, sizes))
    return [read.offset + sum(i * s for i, s in zip(place, steps, strict=True)) for place in places]


@given(SHAPES, st.randoms(use_true_random=False))
def test_loops_go_through_a_read_in_row_major_order(shape: tuple[int, ...], rng: object) -> None:
    base = np.arange(float(np.prod(shape, dtype=int)) * 4).reshape(*shape, 4)
    dims = list(range(base.ndim))
    rng.shuffle(dims)  # type: ignore[attr-defined]
    seen = base.transpose(dims)[..., ::2]
    read = read_of(seen, base)
    cuts = [*sorted(cuts_of(read.over(read.shape)), reverse=True), 1]
    cuts = list(dict.fromkeys(cuts))
    assert nests(frozenset(cuts), seen.size)
    assert elements(read, cuts, seen.size) == seen.ravel().astype(int).tolist()


def test_a_broadcast_read_repeats() -> None:
    value = Value(INPUT, None, (3, 1), dtypes.float32)
    assert whole(value).over((2, 3, 4)) == ((2, 0), (3, 1), (4, 0))
    assert cuts_of(whole(value).over((2, 3, 4))) == {4, 12}


def test_whole_reads() -> None:
    value = Value(INPUT, None, (3, 4), dtypes.float32)
    assert whole(value).is_whole(12)
    assert whole(value, (2, 6)).is_whole(12)
    assert not Read(value, (4, 3), (1, 4)).is_whole(12)
    assert not Read(value, (2, 4), (4, 1)).is_whole(8)
    assert not Read(value, (3, 4), (4, 1), 1).is_whole(12)
    # One element, repeated, is not the whole.
    assert not Read(value, (1,), (2,)).is_whole(12)
    assert Read(Value(INPUT, None, (1,), dtypes.float32), (1, 1), (5, 3)).is_whole(1)
