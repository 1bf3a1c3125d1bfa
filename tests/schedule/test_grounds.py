"""What is put into a part of a value is written where the value lies, unless somebody wants it as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.programs import check, graph_of, make, same_bits
from tracejit import dtypes
from tracejit.schedule.grounds import are_apart
from tracejit.schedule.values import Read, Value
from tracejit.trace.compiled import region_of

ROWS, COLUMNS = 40, 30
WHOLE = ROWS * COLUMNS


def numbers(*shape: int, seed: int = 0) -> tj.Tensor:
    return tj.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def copied(f: Any) -> int:
    """How many times a compiled function moves as much as the whole."""
    launches = [
        (kernel, launch.units)
        for _, e in region_of(f).executables()
        for kernel, launch in zip(e.compiled.program.launches, e.compiled.program._launches, strict=True)
    ]
    return sum(units == WHOLE and "copy" in str(kernel) for kernel, units in launches)


def same(f: Callable[..., Any], make_state: Callable[[], list[tj.Tensor]], copies: int | None) -> None:
    """Compares calls of a function that changes tensors, compiled and eagerly, on any number of threads."""
    before = tj.get_num_threads()
    for threads in (1, 2, 3):
        tj.set_num_threads(threads)
        try:
            one, other = make_state(), make_state()
            g = tj.compile(f)
            for k in range(6):
                x = numbers(COLUMNS, seed=k)
                expected, found = f(x, *one), g(x, *other)
                for a, b in zip([*expected, *one], [*found, *other], strict=True):
                    assert same_bits(a.detach().numpy(), b.detach().numpy()), (threads, k)
            if copies is not None:
                assert copied(g) == copies, threads
        finally:
            tj.set_num_threads(before)


def test_a_row_is_put_where_it_belongs() -> None:
    def step(x: Any, state: Any) -> Any:
        state[3] = x * 2
        return (state[3] + 1,)

    same(step, lambda: [numbers(ROWS, COLUMNS)], 0)


def test_several_rows_one_after_the_other() -> None:
    def step(x: Any, state: Any) -> Any:
        out = tj.zeros(ROWS, COLUMNS)
        for k in range(ROWS):
            x = (x + state[k]).tanh()
            out[k] = x
        state[5] = x
        y = state[4:7].sum(0)
        state[6] = y
        return out, state.sum(0)

    same(step, lambda: [numbers(ROWS, COLUMNS)], 0)


def test_columns_and_blocks() -> None:
    def step(x: Any, state: Any) -> Any:
        state[:, 7] = x[0] * state[:, 6]
        state[2:5, ::2] = x[None, ::2] + 1
        state[::3, 1:4] = x[None, 1:4]
        return (state.amax(0),)

    same(step, lambda: [numbers(ROWS, COLUMNS)], 0)


def test_what_is_read_of_the_same_place() -> None:
    def step(x: Any, state: Any) -> Any:
        state[3] = state[3] * x + 1
        return (state.sum(0),)

    same(step, lambda: [numbers(ROWS, COLUMNS)], 0)


def test_what_is_read_of_another_place_that_is_written_over() -> None:
    def step(x: Any, state: Any) -> Any:
        state[1:4] = state[:3] * x
        state[:, 1:] = state[:, :-1].exp() * 0.1
        return (state.sum(0),)

    same(step, lambda: [numbers(ROWS, COLUMNS)], None)


def test_the_old_value_is_wanted() -> None:
    def before(x: Any, state: Any) -> Any:
        old = state * 2
        state[3] = x
        return old, state.sum(0)

    def after(x: Any, state: Any) -> Any:
        old = state + 0.0
        state[3] = x
        # Needs both the old and the new one.
        return (old * state, old - state.amax(0))

    def kept(x: Any) -> Any:
        out = tj.zeros(ROWS, COLUMNS)
        out[0] = x
        first = out * 1.0
        out[1] = x * 2
        return first, out

    same(before, lambda: [numbers(ROWS, COLUMNS)], 0)
    same(after, lambda: [numbers(ROWS, COLUMNS)], None)
    same(kept, list, None)


def test_a_ground_keeps_its_memory_until_what_lies_on_it_is_read() -> None:
    def product(x: Any, w: Any) -> Any:
        y = w @ w.T
        twice = y * 2.0
        y[5:9] = 0.5
        return twice, y.amax(0) + y.sum(0)

    def added(x: Any, w: Any) -> Any:
        y = tj.zeros(ROWS, COLUMNS).index_add(0, tj.arange(9), w[:9])
        twice = y * 2.0
        y[3] = x
        return twice, y.sum(0)

    # What reads a ground last may not write over it.
    for f in (product, added):
        same(f, lambda: [numbers(ROWS, COLUMNS)], None)


def test_two_values_of_one_ground() -> None:
    def step(x: Any, state: Any) -> Any:
        one, other = state.clone(), state.clone()
        one[2] = x
        other[3] = x * 2
        state[4] = x * 3
        return one, other, one + other + state

    same(step, lambda: [numbers(ROWS, COLUMNS)], 2)


def test_tensors_that_are_put_into_each_other() -> None:
    def step(x: Any, one: Any, other: Any) -> Any:
        one[2] = other[3]
        other[3] = one[4] + x
        one[4] = other[2]
        return (one.sum(0) - other.sum(0),)

    same(step, lambda: [numbers(ROWS, COLUMNS), numbers(ROWS, COLUMNS, seed=1)], None)


def test_gradients_through_what_was_put() -> None:
    def step(x: Any, w: Any) -> Any:
        w.grad = None
        out = tj.zeros(ROWS, COLUMNS)
        h = x
        for k in range(12):
            h = (h * w[k]).tanh()
            out[k] = h
        (out * out).sum().backward()
        return out, w.grad

    same(step, lambda: [numbers(ROWS, COLUMNS).requires_grad_()], None)


def test_nothing_is_changed_where_an_index_is_wrong() -> None:
    @tj.compile
    def step(x: Any, state: Any, index: Any) -> Any:
        state[3] = x
        return state[index]

    state, index = numbers(ROWS, COLUMNS), tj.tensor([1, 3])
    for k in range(5):
        x = numbers(COLUMNS, seed=k)
        assert step(x, state, index)[1].tolist() == x.tolist()
    before = state.tolist()
    with pytest.raises(IndexError):
        step(numbers(COLUMNS, seed=9), state, tj.tensor([1, ROWS]))
    # Eagerly the row is there when the index is found to be wrong; nothing else may be.
    after = state.tolist()
    assert after[:3] + after[4:] == before[:3] + before[4:]


def test_keys_and_values_of_a_decoder_are_not_moved() -> None:
    def step(x: Any, keys: Any, values: Any) -> Any:
        for k in (4, 5):
            keys[k], values[k] = x, x * 2
            x = (values[:8] * (keys[:8] @ x).softmax(0)[:, None]).sum(0)
        return (x,)

    same(step, lambda: [numbers(ROWS, COLUMNS), numbers(ROWS, COLUMNS, seed=1)], 0)


def test_sizes_that_change() -> None:
    def step(x: Any, state: Any) -> Any:
        out = tj.zeros(len(state), state.shape[1])
        out[2] = state[1] * x
        out[:, 3] = state[:, 2] + out[:, 2]
        state[1] = x
        state[:, 1] = state[:, 0] * 2
        state[2:4] = state[2:4] + 1
        return out, out.sum(0) + state.sum(0)

    g = tj.compile(step)
    for k in range(30):
        rows, columns = 4 + k * 5 % 7, 4 + k * 3 % 5
        x, one, other = numbers(columns, seed=k), numbers(rows, columns), numbers(rows, columns)
        for a, b in zip([*step(x, one), one], [*g(x, other), other], strict=True):
            assert same_bits(a.numpy(), b.numpy()), k


def test_which_places_are_apart() -> None:
    table = Value("input", None, (6, 8), dtypes.float32)

    def part(rows: slice, columns: slice) -> Read:
        view = np.zeros((6, 8), np.float32)
        found = view[rows, columns]
        offset = (found.ctypes.data - view.ctypes.data) // 4
        return Read(table, found.shape, tuple(s // 4 for s in found.strides), offset)

    rng = np.random.default_rng(0)
    told = 0
    for _ in range(3000):
        cuts = [
            slice(int(a), int(a + n), int(s))
            for a, n, s in zip(rng.integers(0, 4, 4), rng.integers(1, 4, 4), rng.integers(1, 3, 4))
        ]
        places = np.arange(48).reshape(6, 8)
        meet = bool(set(places[cuts[0], cuts[1]].flat) & set(places[cuts[2], cuts[3]].flat))
        apart = are_apart(part(cuts[0], cuts[1]), part(cuts[2], cuts[3]))
        assert not (meet and apart), cuts
        told += apart and not meet
    assert told > 500
    assert are_apart(part(slice(0, 6), slice(2, 3)), part(slice(0, 6), slice(3, 4)))
    assert are_apart(part(slice(1, 2), slice(0, 8)), part(slice(2, 5), slice(0, 8, 3)))
    assert not are_apart(part(slice(0, 3), slice(0, 8)), part(slice(2, 5), slice(0, 8)))


@pytest.mark.parametrize("seed", range(400))
def test_random_chains(seed: int) -> None:
    """Chains of parts put into values, some of which are read in between or at the end."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6, 8)).astype(np.float32)
    y = rng.standard_normal((6, 8)).astype(np.float32)
    plan = [(int(k), *map(int, rng.integers(0, 5, 6))) for k in rng.integers(0, 8, 12)]

    def build(x: Any, y: Any) -> tuple[Any, ...]:
        pool = [x, y, make("full", 0.5, shape=(6, 8), dtype=x.dtype)]
        for what, a, b, row, column, high, wide in plan:
            one, other = pool[a % len(pool)], pool[-1 - b % min(len(pool), 3)]
            start, length = (row, column), (1 + high % (6 - row), 1 + wide % (8 - column))
            part = make("slice", other, start=(0, 0) if what % 2 else start, length=length, step=(1, 1))
            if what < 4:
                part = make("mul", part, part) if what < 2 else part
                pool.append(make("place", pool[-1] if what else one, part, start=start, step=(1, 1)))
            elif what == 4:
                pool.append(make("add", one, other))
            elif what == 6:
                pool.append(make("matmul", one, make("matmul", make("permute", y, dims=(1, 0)), other)))
            elif what == 7:
                rows = make("slice", other, start=(0, 0), length=(3, 8), step=(1, 1))
                where = make("add", make("iota", size=3), high % 3)
                pool.append(make(["index_add", "index_copy"][wide % 2], pool[-1], where, rows, dim=0))
            else:
                pool.append(make("exp", make("mul", one, make("tanh", other))))
        # What is no result may lose its memory to others.
        folded = [make("sum", v, dim=0) for v in pool[-5:-3]] if seed % 3 else []
        return *pool[-3:], *folded

    # The last ones may belong where an operand is.
    homes: dict[int, int] = [{}, {2: 0}, {2: 1}, {1: 0, 2: 1}][seed % 4]
    check(graph_of(build, x, y, homes=homes), [x, y])


@pytest.mark.parametrize("seed", range(200))
def test_random_parts_that_cover_all(seed: int) -> None:
    """Parts of a tensor that leave nothing of it, each computed of its own place or others, belong where it is."""
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((6, 8)).astype(np.float32) for _ in range(2))
    dim = seed % 2
    size = (6, 8)[dim]
    ends = sorted({0, size, *map(int, rng.integers(1, size, 3))})
    blocks = list(itertools.pairwise(ends))
    order = rng.permutation(len(blocks))
    froms = [int(rng.integers(0, size - (high - low) + 1)) if rng.random() < 0.4 else low for low, high in blocks]
    looks = rng.random(len(blocks)) < 0.3

    def build(x: Any, y: Any) -> tuple[Any, ...]:
        def at(source: Any, low: int, length: int) -> Any:
            start, shape = [0, 0], [6, 8]
            start[dim], shape[dim] = low, length
            return make("slice", source, start=tuple(start), length=tuple(shape), step=(1, 1))

        made, seen = x, []
        for k in order:
            (low, high), own = blocks[k], froms[k]
            # Of what was there, or of what is there by now.
            source = made if looks[k] else x
            part = make("add", at(source, own, high - low), at(y, low, high - low))
            part = make("mul", part, at(source, low, high - low)) if k % 2 else part
            start = [0, 0]
            start[dim] = low
            made = make("place", made, part, start=tuple(start), step=(1, 1))
            seen.append(make("sum", made, dim=0))
        return (made, *(seen if seed % 3 == 0 else ()))

    check(graph_of(build, x, y, homes={0: 0}), [x, y])


ROWS_OF = {
    "put": lambda x, i, v: x.__setitem__(i, v),
    "index_add_": lambda x, i, v: x.index_add_(0, i, v),
    "index_copy_": lambda x, i, v: x.index_copy_(0, i, v),
    "index_fill_": lambda x, i, v: x.index_fill_(0, i, 2.0),
    "scatter_": lambda x, i, v: x.scatter_(0, i[:, None].expand(len(i), x.shape[1]), v),
    "scatter_add_": lambda x, i, v: x.scatter_add_(0, i[:, None].expand(len(i), x.shape[1]), v),
    "index_put_": lambda x, i, v: x.index_put_((i,), v, accumulate=True),
    "columns": lambda x, i, v: x.index_add_(1, i, v[0, : len(i)].expand(len(x), len(i))),
}
LARGE = (700, 30)
"""More elements than are copied eagerly, too."""


def places(seed: int) -> tj.Tensor:
    return tj.tensor(np.random.default_rng(seed).integers(0, 30, 9))


@pytest.mark.parametrize("name", ROWS_OF)
def test_rows_that_an_index_picks_are_changed_where_they_lie(name: str) -> None:
    change = ROWS_OF[name]

    def step(i: Any, v: Any, one: Any, other: Any) -> Any:
        change(one, i, v)
        change(other, i, v * 2)
        return (one[3] + other[4],)

    states = [[numbers(*LARGE), numbers(*LARGE, seed=1)] for _ in range(3)]
    g = tj.compile(step)
    for k in range(6):
        i, v = places(k), numbers(9, 30, seed=k)
        (expected,), (found,) = step(i, v, *states[0]), g(i, v, *states[1])
        # What is not changed in place is another tensor.
        for x, factor in zip(states[2], (1, 2)):
            whole = x.clone()[: len(x)]
            change(whole, i, v * factor)
            x.copy_(whole)
        assert expected.tolist() == found.tolist()
        for a, b, c in zip(*states):
            assert a.numpy().tobytes() == b.numpy().tobytes() == c.numpy().tobytes()
    assert region_of(g).executables()[0][1].compiled.arena_bytes < 4 * LARGE[0] * LARGE[1]


@pytest.mark.parametrize("name", ROWS_OF)
def test_nothing_is_changed_by_an_index_that_is_wrong(name: str) -> None:
    change = ROWS_OF[name]

    def step(i: Any, v: Any, one: Any, other: Any) -> Any:
        change(one, i, v)
        change(other, i, v)
        return one[3] + other[4]

    for f in (step, tj.compile(step)):
        one, other = numbers(*LARGE), numbers(*LARGE, seed=1)
        for k in range(5):
            f(places(k), numbers(9, 30, seed=k), one, other)
        before = one.tolist(), other.tolist()
        for wrong in (10**6, -(10**6)):
            with pytest.raises(IndexError):
                f(tj.tensor([1, 2, 3, 4, wrong, 6, 7, 8, 0]), numbers(9, 30), one, other)
            assert (one.tolist(), other.tolist()) == before


def test_what_is_picked_of_the_tensor_that_is_changed() -> None:
    def step(i: Any, x: Any) -> Any:
        x.index_copy_(0, i, x[i + 1] * 2)
        x.index_add_(0, i, x[:9])
        x[i] = x[3:12]
        return (x.sum(0),)

    one, other = numbers(*LARGE), numbers(*LARGE)
    g = tj.compile(step)
    for k in range(6):
        assert step(places(k), one)[0].tolist() == g(places(k), other)[0].tolist()
        assert one.numpy().tobytes() == other.numpy().tobytes()


def test_an_old_value_of_what_an_index_changes() -> None:
    def step(i: Any, v: Any, x: Any) -> Any:
        old = x * 1.0
        x.index_add_(0, i, v)
        new = x[3] * old[3]
        x.index_add_(0, i, v)
        return old, new, x - old

    one, other = numbers(*LARGE), numbers(*LARGE)
    g = tj.compile(step)
    for k in range(6):
        i, v = places(k), numbers(9, 30, seed=k)
        for a, b in zip([*step(i, v, one), one], [*g(i, v, other), other]):
            assert a.numpy().tobytes() == b.numpy().tobytes()


def test_gradients_and_versions_of_what_is_changed() -> None:
    x, i, v = numbers(*LARGE), places(0), numbers(9, 30)
    before = x._version
    x.index_add_(0, i, v)
    x[i] = v
    assert x._version == before + 2
    w = numbers(*LARGE, seed=2).requires_grad_()
    saved = (w * x).sum()
    x.index_copy_(0, i, v)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()
    source = v.clone().requires_grad_()
    x.index_add_(0, i, source)
    (x * x).sum().backward()
    expected = 2 * x.detach()[i]
    assert source.grad is not None
    assert source.grad.tolist() == expected.tolist()
    assert x.requires_grad
