"""Wrong arguments raise one of a few exceptions and never do harm; the calls are made up at random."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tracejit as tj
from tracejit import tensor as _front
from tracejit.tensor import functional

ALLOWED = (RuntimeError, IndexError, TypeError, ValueError, AssertionError, AttributeError)
"""NotImplementedError is a RuntimeError; AttributeError comes from things that are no tensors where one is needed."""

SWITCHES = {"set_printoptions", "set_default_dtype", "set_grad_enabled", "inference_mode", "no_grad", "enable_grad"}
CLASSES = {"Tensor", "Size", "Generator", "composite", "tensor_alias", "seed", "manual_seed", "set_rng_state", "dtype"}


def callables() -> dict[str, Any]:
    """The functions and methods that users call, by name."""
    found: dict[str, Any] = {}
    for name in dir(tj):
        thing = getattr(tj, name)
        if callable(thing) and getattr(tj.Tensor, name, None) is not None and not name.startswith("_"):
            found[f"tj.{name}"] = thing
    for name in dir(functional):
        thing = getattr(functional, name)
        if callable(thing) and not name.startswith("_"):
            found[f"F.{name}"] = thing
    for name in dir(tj.Tensor):
        thing = getattr(tj.Tensor, name)
        if callable(thing) and not inspect.isclass(thing) and (not name.startswith("_") or name in OPERATORS):
            found[f"x.{name}"] = thing
    return {k: v for k, v in found.items() if k.split(".")[1] not in SWITCHES | CLASSES | {"share_memory_"}}


OPERATORS = {"__getitem__", "__setitem__", "__add__", "__radd__", "__matmul__", "__pow__", "__lt__", "__eq__",
             "__and__", "__iadd__", "__contains__",
             "__float__", "__index__", "__len__", "__iter__", "__bool__"}  # fmt: skip
CALLS = callables()

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
dtypes = st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_])


@st.composite
def tensors(pick: st.DrawFn) -> tj.Tensor:
    shape, dtype = pick(shapes), pick(dtypes)
    array = np.random.default_rng(pick(st.integers(0, 3))).integers(-2, 4, shape).astype(dtype)
    t = tj.from_numpy(array)
    if t.is_floating_point() and pick(st.booleans()):
        t.requires_grad_()
    return t


small = st.integers(-3, 5)
values = st.one_of(
    tensors(),
    small,
    st.floats(-2, 3),
    st.booleans(),
    st.none(),
    st.sampled_from(["mean", "same", "nearest", "q", ""]),
    st.lists(small, max_size=3),
    st.tuples(small, small),
    st.sampled_from([tj.float32, tj.int64, tj.bool]),
    st.builds(slice, st.none() | small, st.none() | small, st.none() | small),
    st.just(...),
)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("name", sorted(CALLS))
@given(data=st.data())
def test_call(name: str, data: st.DataObject) -> None:
    arguments = [data.draw(tensors()), *data.draw(st.lists(values, max_size=3))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            CALLS[name](*arguments)
        except ALLOWED:
            return


def test_the_calls_are_many() -> None:
    assert len(CALLS) > 400
    assert _front is not None
