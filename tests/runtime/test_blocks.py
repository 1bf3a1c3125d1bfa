"""Blocks of memory for large arrays: they serve again, no two arrays share one, and what is kept is bounded."""

from __future__ import annotations

import gc
import mmap
import os
import random
import sys
import threading

import numpy as np
import pytest

import tracejit as tj
from tracejit import eager
from tracejit.runtime.arrays import empty
from tracejit.runtime.blocks import BLOCK_BYTES, BLOCKS, Blocks, Lease, _size_of

KIND = np.dtype(np.float32)


def array(blocks: Blocks, nbytes: int) -> np.ndarray:
    return np.ndarray((nbytes,), np.uint8, blocks.take(nbytes))


def test_what_an_array_no_longer_needs_serves_the_next() -> None:
    blocks = Blocks(64 << 20)
    for nbytes in (BLOCK_BYTES, 5 << 20):
        first = array(blocks, nbytes)
        place = first.ctypes.data
        assert place % 64 == 0
        view = first[7:].reshape(-1, 1).T
        del first
        assert blocks.nbytes < nbytes, "a view is still there"
        assert array(blocks, nbytes).ctypes.data != place
        del view
        assert array(blocks, nbytes - 5).ctypes.data == place
        blocks.release()


def test_a_free_block_of_more_bytes_serves_but_not_one_of_twice_as_many() -> None:
    blocks = Blocks(64 << 20)
    sizes = (3 << 20, 5 << 20, 6 << 20)
    places = {array.ctypes.data: size for size, array in [(size, array(blocks, size)) for size in sizes]}
    assert blocks.nbytes == sum(sizes)
    first, second, third = (array(blocks, 3 << 20) for _ in range(3))
    assert [places.get(taken.ctypes.data) for taken in (first, second, third)] == [3 << 20, 5 << 20, None]
    del first, second, third
    # Each is of the size that it was made with.
    assert {size >> 20: len(kept) for size, kept in blocks._free.items() if kept} == {3: 2, 5: 1, 6: 1}


@pytest.mark.parametrize("nbytes", [BLOCK_BYTES, BLOCK_BYTES + 1, 300_000, 1 << 20, 5_000_001, (1 << 30) + 1])
def test_a_block_is_at_most_an_eighth_larger(nbytes: int) -> None:
    assert nbytes <= _size_of(nbytes) <= nbytes * 9 / 8
    assert _size_of(_size_of(nbytes)) == _size_of(nbytes)
    assert _size_of(nbytes) % mmap.PAGESIZE == 0


def test_what_is_kept_is_bounded_and_the_sizes_not_used_longest_go_first() -> None:
    blocks = Blocks(4 << 20)
    for megabytes in (1, 2, 3, 1):
        array(blocks, megabytes << 20)
    assert {size >> 20 for size, kept in blocks._free.items() if kept} == {1, 3}
    array(blocks, 5 << 20)
    assert blocks.nbytes == 4 << 20, "what is larger than all that may be kept takes the place of nothing"
    many = [array(blocks, 1 << 20) for _ in range(9)]
    del many
    assert blocks.nbytes == 4 << 20


def test_after_a_release_nothing_is_kept_until_a_block_is_taken() -> None:
    blocks = Blocks(64 << 20)
    late = array(blocks, 1 << 20)
    array(blocks, 2 << 20)
    blocks.release()
    del late
    assert blocks.nbytes == 0
    array(blocks, 1 << 20)
    assert blocks.nbytes == 1 << 20


def test_no_two_arrays_of_several_threads_share_memory() -> None:
    blocks = Blocks(8 << 20)
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        mine: dict[int, np.ndarray] = {}
        for turn in range(300):
            mark = seed * 1000 + turn
            new = np.ndarray((BLOCK_BYTES // 4,), np.int32, blocks.take(BLOCK_BYTES + rng.choice((0, 1, 99_999))))
            new[:] = mark
            mine[mark] = new
            if len(mine) > 3:
                old = mine.pop(rng.choice([*mine]))
                wrong.extend([] if (old == old[0]).all() else [mark])
        wrong.extend(mark for mark, found in mine.items() if not (found == mark).all())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert blocks.nbytes <= 8 << 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
def test_a_forked_process_has_memory_of_its_own() -> None:
    blocks = Blocks(64 << 20)
    shared = array(blocks, 1 << 20)
    shared[:] = 1
    child = os.fork()
    if child == 0:
        shared[:] = 2
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (shared == 1).all()


def test_memory_that_is_not_there_is_an_error_as_for_other_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryError):
        empty((1 << 57,), KIND)

    def refused(*args: object, **more: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    blocks = Blocks(64 << 20)
    array(blocks, 1 << 20)
    monkeypatch.setattr(mmap, "mmap", refused)
    found = array(blocks, 2 << 20)
    found[:] = 3
    assert (found == 3).all()
    assert blocks.nbytes == 0, "what was kept went first"


def test_operations_use_blocks_and_replays_let_go_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    # What NumPy gives at first uses stays where it is if that is where a line of the cache begins.
    monkeypatch.setattr(eager, "_NUMPY_WORK", 0)
    x = tj.ones(512, 1024)
    BLOCKS.release()
    y = x * 2 + 1
    assert BLOCKS.nbytes >= x.numel() * 4
    assert (y == 3).all()

    @tj.compile
    def f(x: tj.Tensor) -> tj.Tensor:
        return (x * 2 + 1).sum()

    for _ in range(8):
        assert f(x).item() == 3 * x.numel()
    assert BLOCKS.nbytes == 0


def test_several_large_results_of_replays_are_blocks_that_serve_again(monkeypatch: pytest.MonkeyPatch) -> None:
    @tj.compile
    def f(x: tj.Tensor) -> list[tj.Tensor]:
        return [x * k for k in range(1, 5)]

    x = tj.randn(256, 256)
    four = x * 4
    for _ in range(12):
        f(x)

    def refuse(size: int) -> None:
        raise AssertionError(f"a new block of {size} bytes")

    monkeypatch.setattr(BLOCKS, "_new", refuse)
    for _ in range(6):
        results = f(x)
        assert all(isinstance(y._data().base, Lease) for y in results)
        assert (results[3] == four).all()
        del results
    assert tj.explain(f).calls["replayed"] > 6


def test_blocks_that_come_back_while_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Blocks(1 << 30)
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    before = gc.get_threshold()
    held: list[tuple[int, int]] = []
    sizes = [BLOCK_BYTES + k * 16 * mmap.PAGESIZE for k in range(40)]
    try:
        for turn in range(400):
            # Python has no pairs left over, so that it makes new ones.
            held += [(turn, k) for k in range(100)]
            # Only a search for cycles finds it, in the middle of whatever makes so many objects.
            gc.set_threshold(turn % 60 + 1)
            cycle: list[object] = [array(blocks, sizes[turn % 40])]
            cycle.append(cycle)
            del cycle
            assert blocks.nbytes >= 0
            if turn % 40 == 39:
                blocks.release()
    finally:
        gc.set_threshold(*before)
    assert not lost
