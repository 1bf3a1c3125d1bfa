"""The arena: buffers that are in use at once never overlap, and memory is used again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracejit.schedule.memory import ALIGNMENT, Buffer, place

LIVES = st.lists(st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 4)), max_size=30)


@given(LIVES)
def test_buffers_in_use_at_once_do_not_overlap(lives: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer("arena", 0, size, first, first + more) for size, first, more in lives]
    total = place(buffers)
    for k, one in enumerate(buffers):
        assert one.offset % ALIGNMENT == 0
        assert one.offset + one.nbytes <= total
        for other in buffers[:k]:
            if one.first <= other.last and other.first <= one.last:
                assert one.offset + one.nbytes <= other.offset or other.offset + other.nbytes <= one.offset


@given(LIVES)
def test_each_buffer_has_the_lowest_place(lives: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer("arena", 0, size, first, first + more) for size, first, more in lives]
    place(buffers)
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (b.first, -b.nbytes)):
        beside = [other for other in placed if other.last >= buffer.first]
        for offset in range(0, buffer.offset, ALIGNMENT):
            assert any(o.offset < offset + buffer.nbytes and offset < o.offset + o.nbytes for o in beside)
        placed.append(buffer)


def test_memory_is_used_again() -> None:
    buffers = [Buffer("arena", 0, 1 << 20, stage, stage + 1) for stage in range(20)]
    assert place(buffers) == 2 << 20
