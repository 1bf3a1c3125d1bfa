"""The shortest ways of eager operations on few elements beside the long ones: bits, layouts, views, versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tracejit.tensor import indexing, inplace, shaping

SUBSCRIPTS: list[Any] = [
    0, -1, ..., None, slice(1, None), slice(None, None, 2), (0, 1), (slice(None), 1), (slice(None), None, 0),
    (..., -1), (None, ..., 0), (slice(0, 1), 0), (slice(1, 1), 0), (0, ..., slice(1, 3)), (..., 0, ...), (0, 0, 0), (),
]  # fmt: skip
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "rows": lambda x: x,
    "turned": lambda x: x.permute(2, 0, 1),
    "cut": lambda x: x[:, ::2, 1:],
    "spread": lambda x: x[:1].expand(3, 3, 4),
    "thin": lambda x: x[:1, :, :1],
}


def cube() -> Any:
    return tj.arange(24, dtype=tj.float32).reshape(2, 3, 4).clone()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("index", SUBSCRIPTS, ids=str)
def test_subscripts(layout: str, index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for quick in (True, False, True):
        if not quick:
            monkeypatch.setattr(indexing, "_view_now", lambda x, index: None)
        x = cube()
        y = LAYOUTS[layout](x)
        for _ in range(2):
            found = y[index]
        known = found.shape, found.stride(), found.storage_offset(), found.tolist()
        if layout != "spread":
            found.add_(1.0)
        seen.append((known, x._version, x.tolist(), y.tolist(), len(found._view)))
        monkeypatch.undo()
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("index", [5, (0, 5), (0, 0, 0, 0), slice(None, None, -1)], ids=str)
def test_wrong_subscripts_are_never_planned(index: Any) -> None:
    for _ in range(2):
        with pytest.raises((IndexError, ValueError)):
            cube()[index]


def test_numbers_that_are_equal_are_told_apart() -> None:
    x = cube()
    assert x[1].shape == (3, 4)
    assert x[True].shape == (1, 2, 3, 4)
    assert x[False].shape == (0, 2, 3, 4)


def test_a_view_of_a_tensor_that_gets_a_history_later() -> None:
    x, w = tj.zeros(3), tj.ones(3, requires_grad=True)
    y = x[1:]
    x.add_(w * 2.0)
    z = y[0]
    assert z.requires_grad
    z.backward()
    assert w.grad.tolist() == [0.0, 2.0, 0.0]


JOINED: list[tuple[Any, ...]] = [
    (("cat",), [(3,), (2,)], 0), (("cat", "stack"), [(2, 3), (2, 3)], 0), (("cat", "stack"), [(2, 3), (2, 3)], 1),
    (("cat", "stack"), [(2, 3), (2, 3)], -1), (("stack",), [(), ()], 0), (("cat",), [(0,), (2, 3)], 1),
    (("cat", "stack"), [(2, 0), (2, 0)], 0), (("cat", "stack"), [(2, 3)], 0), (("stack",), [(2, 3), (2, 3)], 2),
]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("names", "shapes", "dim"), JOINED)
def test_joined(names: Any, shapes: Any, dim: int, turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names:
        seen = []
        for quick in (True, False):
            if not quick:
                monkeypatch.setattr(shaping, f"_{name}_now", lambda tensors, dim: None)
            given = [tj.arange(int(np.prod(s)), dtype=tj.float32).reshape(s) for s in shapes]
            if turned:
                given = [x.t().contiguous().t() if len(s) == 2 else x for x, s in zip(given, shapes, strict=True)]
            found = getattr(tj, name)(given, dim)
            assert found._base is None
            assert not any(np.shares_memory(found._array, x._array) for x in given)
            seen.append((found.shape, found.stride(), found.tolist(), found.dtype))
            monkeypatch.undo()
        assert seen[0] == seen[1]


@pytest.mark.parametrize("name", ["cat", "stack"])
@pytest.mark.parametrize(
    "tensors",
    [[], [tj.zeros(2), tj.zeros(3, 2)], [tj.zeros(2, 2), tj.zeros(3, 3)], [tj.zeros(2), 1.0], tj.zeros(2, 2, 2)],
    ids=["none", "dimensions", "sizes", "number", "tensor"],
)
def test_what_does_not_join_is_said_as_ever(name: str, tensors: Any) -> None:
    if name == "stack" and isinstance(tensors, tj.Tensor):
        assert tj.stack(tensors).shape == tensors.shape
        return
    with pytest.raises((RuntimeError, TypeError, ValueError, AttributeError)):
        getattr(tj, name)(tensors)


@pytest.mark.parametrize("name", ["add_", "sub_", "mul_", "div_"])
@pytest.mark.parametrize("other", [0.5, 3, "alike", "row", "itself", "view", "whole"])
def test_changes_in_place(name: str, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for quick in (True, False):
        if not quick:
            monkeypatch.setattr(inplace, "_compute_now", lambda op, target, other: False)
            monkeypatch.setattr(inplace, "_write_now", lambda target, value: False)
        x = tj.linspace(-2, 2, 6).reshape(2, 3).clone()
        operand = {
            "alike": tj.arange(6.0).reshape(2, 3),
            "row": tj.arange(3.0),
            "itself": x,
            "view": x.t().t(),
            "whole": tj.arange(1, 7).reshape(2, 3),
        }.get(other, other)
        version = x._version
        assert getattr(x, name)(operand) is x
        seen.append((x.numpy().tobytes(), x._version - version))
        monkeypatch.undo()
    assert seen[0] == seen[1]


def test_a_leaf_is_not_changed_in_place() -> None:
    x = tj.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        x.add_(1.0)
    with pytest.raises(RuntimeError, match="leaf"):
        x[0].add_(1.0)
    assert x.tolist() == [1.0, 1.0]


def test_memory_that_may_not_be_written() -> None:
    x = tj.ones(3)
    x._array.flags.writeable = False
    with pytest.raises(RuntimeError, match="read-only"):
        x.add_(1.0)
    assert x.tolist() == [1.0, 1.0, 1.0]
    assert x._version == 0


@pytest.mark.parametrize("name", ["sum", "amax", "amin", "prod", "mean"])
@pytest.mark.parametrize("shape", [(8,), (3, 5), (4, 1, 3)])
def test_reductions_again_and_again(name: str, shape: tuple[int, ...]) -> None:
    x = tj.randn(*shape)
    first = getattr(x, name)(-1).numpy().tobytes()
    for _ in range(200):
        assert getattr(x, name)(-1).numpy().tobytes() == first
    turned = x.t().contiguous().t() if len(shape) == 2 else x
    assert getattr(turned, name)(-1).numpy().tobytes() == first


@pytest.mark.parametrize(("shapes", "dim"), [(((3,), ()), 1), (((), (3,)), 0), (((3,), (4,)), 1), (((2, 3), (3,)), 2)])
def test_stack_refuses_other_shapes_in_its_own_words(shapes: Any, dim: int) -> None:
    """A tensor of fewer dimensions than `dim` was an IndexError of NumPy's, but not in a compiled function."""
    given = [tj.ones(*shape) for shape in shapes]
    for function in (tj.stack, tj.compile(tj.stack)):
        for _ in range(4):
            with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
                function(given, dim)
