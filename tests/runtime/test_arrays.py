"""Arrays that begin with a line, of every shape, order and type; tensors that are kept begin with one, too."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tracejit as tj
from tracejit.kernels.vectors import LINE_BYTES
from tracejit.runtime.arrays import _COPIED_BYTES, SMALL_BYTES, copied, empty, placed

KINDS = [np.float32, np.float64, np.int64, np.int8, np.bool_]


def place(tensor: tj.Tensor) -> int:
    return tensor.data_ptr() % LINE_BYTES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (3,), (0, 7), (33, 65), (1, 2048, 1), (130, 3, 77)])
def test_an_array_begins_with_a_line_unless_it_is_small(shape: tuple[int, ...], kind: type) -> None:
    for array in [empty(shape, np.dtype(kind)) for _ in range(9)]:
        assert (array.shape, array.dtype, array.flags.c_contiguous, array.flags.writeable) == (shape, kind, True, True)
        assert array.nbytes < SMALL_BYTES or not array.ctypes.data % LINE_BYTES
        array[...] = 1
        assert array.all()


def test_arrays_have_memory_of_their_own() -> None:
    arrays = [empty((n, 64), np.dtype(np.int64)) for n in range(1, 60)]
    for n, array in enumerate(arrays):
        array[...] = n
    assert all((array == n).all() for n, array in enumerate(arrays))


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_numpys(kind: type, to: type) -> None:
    whole = (np.arange(40 * 60).reshape(40, 60) % 120).astype(kind)
    for values in (whole, whole.T, whole[::2], whole[:, 3:], whole[:1, :3], whole[..., None]):
        found, expected = copied(values, np.dtype(to)), np.array(values, to)
        np.testing.assert_array_equal(found, expected)
        assert (found.dtype, found.strides) == (expected.dtype, expected.strides)
        assert not np.shares_memory(found, values)
    assert copied([1, 2, 3]).tolist() == [1, 2, 3]


def test_a_large_array_is_not_copied_to_begin_with_a_line() -> None:
    for nbytes, is_moved in ((SMALL_BYTES, True), (_COPIED_BYTES, True), (_COPIED_BYTES + 1, False)):
        array = empty((nbytes + 1,), np.dtype(np.int8))[1:]
        array[...] = 3
        found = placed(array)
        assert (found is not array) is is_moved
        assert (found == 3).all()
        assert bool(found.ctypes.data % LINE_BYTES) is not is_moved


def test_what_is_kept_begins_with_a_line() -> None:
    model = tj.nn.Sequential(tj.nn.Linear(33, 65), tj.nn.Linear(65, 70))
    optimizer = tj.optim.Adam(model.parameters())
    x = tj.tensor(np.ones((31, 33), np.float32))
    model(x).sum().backward()
    optimizer.step()
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, tj.Tensor)]
    kept = [x, *model.parameters(), *[p.grad for p in model.parameters()], *states, *copy.deepcopy(model).parameters()]
    large = [t for t in kept if t.numel() * 4 >= SMALL_BYTES]
    assert len(large) == 11
    assert not any(map(place, large))


def test_what_a_compiled_function_gives_begins_with_a_line() -> None:
    weight = tj.rand(65, 70).requires_grad_()

    @tj.compile
    def step(x: tj.Tensor) -> tj.Tensor:
        y = tj.tanh(x @ weight)
        y.sum().backward()
        return y

    for _ in range(12):
        weight.grad = None
        out = step(tj.ones(31, 65))
        assert weight.grad is not None
        assert not place(out)
        assert not place(weight.grad)
