"""Tensors on a GPU, eagerly: every record against the CPU, on a stand-in that does nothing before somebody waits."""

from __future__ import annotations

import copy
import pickle
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.cuda.standin import machines, on
from tests.ops.cases import WITHOUT, cases
from tests.programs import same_bits
from tracejit.dtypes import dtype
from tracejit.eager import run_op
from tracejit.ops import Op, ops
from tracejit.runtime.cuda.array import DeviceArray, OnGpu
from tracejit.runtime.cuda.gpu import gpu as found
from tracejit.tensor.dispatch import apply, wrap


@pytest.fixture(scope="module", autouse=True, params=machines())
def gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    with on(request.param, 1 << 21):
        yield


def forget() -> None:
    """Gives all free memory back: what is next given out holds nothing that was computed before."""
    found().pool.empty()


def there(array: Any) -> tj.Tensor:
    """A tensor on the GPU; what it holds is not there yet."""
    return wrap(np.array(array)).to("cuda")


def here(tensor: tj.Tensor) -> Any:
    """The elements of a tensor on the GPU."""
    assert tensor.device == tj.device("cuda:0")
    assert type(tensor._array) is DeviceArray
    return tensor.detach().cpu().numpy()


def assert_like(tensor: tj.Tensor, expected: Any, op: Op) -> None:
    """Asserts equal bits, or for sums, whose order is another one, nearly equal numbers."""
    array = here(tensor)
    if array.dtype.kind == "f" and op.family in ("reduction", "contraction", "library") and not op.exact:
        np.testing.assert_allclose(array, expected, rtol=3e-3 if array.dtype == np.float16 else 1e-4, atol=1e-5)
        assert array.dtype == expected.dtype
    else:
        assert same_bits(array, np.asarray(expected))


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("op", [op for op in ops if op not in WITHOUT], ids=lambda op: op.name)
def test_every_operation_gives_what_it_gives_on_the_cpu(op: Op, layout: str) -> None:
    for case in cases(op)[: 2 if layout == "contiguous" else 1]:
        letters = set(case.types) & set(op.kinds)
        kind: dtype = tj.float32 if "f" in letters else tj.int64 if "i" in letters else tj.bool
        operands = case.build(kind, layout, zlib.crc32(str(case).encode()))
        expected = run_op(op, tuple(operands), case.attr_values)
        forget()
        given = []
        for operand in operands:
            if isinstance(operand, np.ndarray) and operand.size and not operand.flags.c_contiguous:
                order = np.argsort([-abs(s) for s in operand.strides], kind="stable")
                tensor = there(operand.transpose(order)).permute(*np.argsort(order).tolist())
            else:
                tensor = there(operand) if isinstance(operand, np.ndarray) else operand
            given.append(tensor)
        out = apply(op.twin or op, tuple(given), case.attr_values)
        several = isinstance(out, tuple)
        for one, wanted in zip(out if several else (out,), expected if several else (expected,), strict=True):
            assert_like(one, wanted, op)


def test_memory_of_the_gpu_is_not_read_behind_its_back() -> None:
    x = there(np.float32([1, 2]))
    for look in (
        lambda a: a + 1, lambda a: np.sum(a), lambda a: a[0], lambda a: a.item(), lambda a: a.tolist(), np.copy,
        lambda a: np.copyto(np.zeros(2, np.float32), a), lambda a: a.copy(), lambda a: list(a), repr, pickle.dumps,
        lambda a: np.concatenate([a, a]), lambda a: a.reshape(2, 1), lambda a: a.sum(), lambda a: bool(a), copy.copy,
    ):  # fmt: skip
        with pytest.raises(OnGpu):
            look(x._array)


def test_names_of_where_a_tensor_is() -> None:
    x = there(np.float32([1, 2]))
    assert (str(x.device), x.is_cuda, x.is_cpu, x.get_device()) == ("cuda:0", True, False, 0)
    assert repr(x) == "tensor([1., 2.], device='cuda:0')"
    assert repr(x.requires_grad_()) == "tensor([1., 2.], device='cuda:0', requires_grad=True)"
    assert x.to("cuda") is x
    assert x.cuda() is x
    assert x.to("cuda:0", tj.float64).dtype is tj.float64
    assert x.cpu().cpu().device.type == "cpu"
    with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu\(\)"):
        x.detach().numpy()
    assert x.detach().numpy(force=True).tolist() == [1, 2]
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        x.to("cuda:1")
    assert tj.device(0) == tj.device("cuda:0")


def test_tensors_are_made_where_they_are_asked_for() -> None:
    tj.manual_seed(3)
    made = [
        tj.zeros(2, device="cuda"), tj.full((2, 2), 1.5, device="cuda"), tj.arange(1, 7, 2, device="cuda"),
        tj.arange(0.0, 1.0, 0.25, device="cuda"), tj.eye(2, device="cuda"), tj.linspace(0, 1, 3, device="cuda"),
        tj.tensor([1, 2], device="cuda"), tj.rand(3, device="cuda"), tj.randn(3, device="cuda"),
        tj.randint(0, 9, (4,), device="cuda"), tj.randperm(5, device="cuda"),
    ]  # fmt: skip
    tj.manual_seed(3)
    expected = [
        tj.zeros(2), tj.full((2, 2), 1.5), tj.arange(1, 7, 2), tj.arange(0.0, 1.0, 0.25), tj.eye(2),
        tj.linspace(0, 1, 3), tj.tensor([1, 2]), tj.rand(3), tj.randn(3), tj.randint(0, 9, (4,)), tj.randperm(5),
    ]  # fmt: skip
    for one, wanted in zip(made, expected, strict=True):
        assert same_bits(here(one), wanted.numpy())
    x = made[1]
    for like in (tj.zeros_like(x), tj.rand_like(x), tj.full_like(x, 2), x.new_ones(3), x.new_tensor([1]), tj.tensor(x)):
        assert like.is_cuda
    with tj.device("cuda"):
        assert tj.ones(1).is_cuda
        with tj.device("cpu"):
            assert tj.ones(1).is_cpu
        assert tj.get_default_device() == tj.device("cuda:0")
    assert tj.ones(1).is_cpu


def test_tensors_of_two_devices_do_not_meet() -> None:
    x = there(np.float32([1, 2]))
    y = tj.ones(2)
    meetings = (
        lambda: x + y, lambda: x.add_(y), lambda: x @ y, lambda: tj.cat([x, y]), lambda: tj.where(y > 0, x, x)
    )  # fmt: skip
    for meet in meetings:
        with pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu!"):
            meet()
    assert here(x).tolist() == [1, 2]
    assert here(x * tj.tensor(2.0)).tolist() == [2, 4]
    assert here(x.copy_(y)).tolist() == [1, 1]
    assert y.copy_(x + 1).tolist() == [2, 2]


def test_an_index_out_of_range_raises_at_its_operation() -> None:
    x = there(np.arange(6, dtype=np.float32).reshape(3, 2))
    with pytest.raises(IndexError, match="index 3 is out of bounds"):
        x[tj.tensor([0, 3], device="cuda")]
    assert here(x[tj.tensor([2, 0], device="cuda")]).tolist() == [[4, 5], [0, 1]]


def test_changes_in_place_of_views() -> None:
    x = there(np.arange(12, dtype=np.float32).reshape(3, 4))
    x[1] = 7
    x[:, 2] += 1
    x.T[0].mul_(2)
    x[x > 8] = 0
    y = np.arange(12, dtype=np.float32).reshape(3, 4)
    y[1] = 7
    y[:, 2] += 1
    y.T[0] *= 2
    y[y > 8] = 0
    assert here(x).tolist() == y.tolist()


def test_functions_of_values_give_tensors_where_theirs_are() -> None:
    x = there(np.int64([3, 1, 1, 2]))
    places = tj.searchsorted(tj.sort(x)[0], x, right=True)
    for out in (*tj.sort(x), tj.unique(x), x.nonzero(), tj.bincount(x), tj.topk(x, 2)[0], tj.argsort(x), places):
        assert out.is_cuda
    assert places.tolist() == [4, 2, 2, 3]
    assert x.max().item() == 3
    assert x.tolist() == [3, 1, 1, 2]
    assert [int(v) for v in x] == [3, 1, 1, 2]
    assert f"{x.sum()}" == "7"


def test_copies_stay_on_the_gpu() -> None:
    x = there(np.float32([1, 2])).requires_grad_()
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.clone()):
        assert y.is_cuda
        assert y.tolist() == [1, 2]
        assert y.data_ptr() != x.data_ptr()


def test_gradients_cross_devices() -> None:
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y = (x * 3).to("cuda") * tj.tensor([1.0, 10.0], device="cuda")
    y.sum().cpu().backward()
    assert x.grad is not None
    assert (x.grad.device.type, x.grad.tolist()) == ("cpu", [3, 30])
    w = there(np.float32([1, 2])).requires_grad_()
    with pytest.raises(RuntimeError, match="different device"):
        w.grad = tj.ones(2)


def test_memory_is_given_out_again() -> None:
    pool = found().pool
    x = there(np.zeros(1000, np.float32))
    before = pool.reserved
    for _ in range(30):
        y = x + 1
        y = y * 2
    assert here(y).tolist() == [2.0] * 1000
    assert pool.reserved <= before + 3 * 4096
