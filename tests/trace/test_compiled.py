"""What `compile` gives is called as the function is, whether a native replay answers or Python does."""

from __future__ import annotations

import functools
import gc
import inspect
import weakref

import pytest

import tracejit as tj
from tracejit import devices
from tracejit.trace.compiled import BoundRegion, CompiledFunction, region_of


@pytest.fixture(autouse=True)
def _usual_devices(monkeypatch):
    """No default device was chosen, as other tests of this process may have: a replay would look at it in each call."""
    monkeypatch.setattr(devices, "_changed", False)


def scaled(x, y, factor=2.0, *more, offset=0.0, **named):
    """A sum."""
    return x * factor + y + offset + sum(more) + sum(named.values())


def settled(f, *args, calls=8, **kwargs):
    for _ in range(calls):
        out = f(*args, **kwargs)
    return out


def until_replayed(f, *args):
    """Call until a native replay answers; the region."""
    region = region_of(f)
    for _ in range(100):
        f(*args)
        if region.straight is not None:
            return region
    raise AssertionError(tj.explain(f))


def test_every_kind_of_argument_arrives_before_and_after_a_replay_is_there():
    x, y = tj.tensor([1.0, 2.0]), tj.tensor([3.0, 4.0])
    f = tj.compile(scaled)
    calls = [
        ((x, y), {}),
        ((x, y, 3.0), {}),
        ((x, y, 3.0, 4.0, 5.0), {"offset": 6.0}),
        ((x,), {"y": y}),
        ((), {"y": y, "x": x, "z": 1.0}),
        ((x, y, 1.0, *range(20)), {f"n{k}": k for k in range(20)}),
    ]
    for _ in range(8):
        for args, kwargs in calls:
            assert f(*args, **kwargs).tolist() == scaled(*args, **kwargs).tolist()
            assert f.__call__(*args, **kwargs).tolist() == scaled(*args, **kwargs).tolist()


def test_a_replay_answers_and_what_it_does_not_know_goes_on_in_python():
    x, y = tj.tensor([1.0, 2.0]), tj.tensor([1.0, 2.0])
    f = tj.compile(lambda a, b: a * b)
    region = until_replayed(f, x, y)
    replayed = region.calls.replayed
    assert f(x, y).tolist() == [1.0, 4.0]
    assert f(*(x, y)).tolist() == [1.0, 4.0]
    assert region.calls.replayed == replayed + 2
    # Other shapes, named arguments, another mode, too many and too few arguments.
    assert f(x[:1], y).tolist() == [1.0, 2.0]
    assert f(a=x, b=y).tolist() == [1.0, 4.0]
    with tj.no_grad():
        assert f(x, y).tolist() == [1.0, 4.0]
    for wrong in ((), (x,), (x, x, x), (x,) * 40):
        with pytest.raises(TypeError, match="positional argument"):
            f(*wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        f(x, y, c=1)
    with pytest.raises(TypeError, match="multiple values for argument 'a'"):
        f(x, a=x)
    replayed = region.calls.replayed
    assert f(x, y).tolist() == [1.0, 4.0]
    assert region.calls.replayed == replayed + 1


def test_exceptions_of_the_function_arrive():
    @tj.compile
    def raises(x, wrong=False):
        if wrong:
            raise KeyError("raised by the function")
        return x + 1

    settled(raises, tj.ones(2))
    with pytest.raises(KeyError, match="raised by the function"):
        raises(tj.ones(2), True)
    assert raises(tj.ones(2)).tolist() == [2.0, 2.0]


def test_methods_have_a_region_for_each_instance_and_go_with_it():
    class Scale:
        def __init__(self, by):
            self.by = tj.tensor(by)

        @tj.compile
        def __call__(self, x):
            return x * self.by

        @tj.compile
        def other(self, x):
            return x + self.by

    x = tj.tensor([1.0, 2.0])
    two, three = Scale(2.0), Scale(3.0)
    for _ in range(8):
        assert two.other(x).tolist() == [3.0, 4.0]
        assert three.other(x).tolist() == [4.0, 5.0]
        assert two(x).tolist() == [2.0, 4.0]
    assert isinstance(two.other, BoundRegion)
    assert region_of(two.other) is not region_of(three.other)
    until_replayed(two.other, x)
    gone = weakref.ref(region_of(two.other))
    del two
    gc.collect()
    assert gone() is None


def test_it_is_as_the_function_to_those_who_look():
    f = tj.compile(scaled)
    assert callable(f)
    assert (f.__name__, f.__doc__, f.__wrapped__) == ("scaled", "A sum.", scaled)
    assert inspect.signature(f) == inspect.signature(scaled)
    assert functools.partial(f, tj.ones(1))(tj.ones(1)).tolist() == [3.0]
    assert weakref.ref(f)() is f
    f.note = "mine"
    assert f.note == "mine"


def test_the_native_call_is_for_compiled_functions_alone():
    for wrong in (1, scaled, tj.ones(1)):
        with pytest.raises(TypeError, match="doesn't apply to"):
            CompiledFunction.__call__(wrong, tj.ones(1))
    empty = CompiledFunction.__new__(CompiledFunction)
    with pytest.raises(AttributeError, match="_region"):
        empty(tj.ones(1))
    f = tj.compile(scaled)
    for other in (5, scaled, type):
        f._region = other
        with pytest.raises((AttributeError, TypeError)):
            f(tj.ones(1))


def test_a_function_that_calls_itself_and_one_that_is_called_inside():
    @tj.compile
    def inner(x):
        return x * 2

    @tj.compile
    def outer(x, depth=2):
        return outer(inner(x), depth - 1) if depth else x + 1

    for _ in range(8):
        assert inner(tj.ones(1)).item() == 2.0
        assert outer(tj.ones(1)).item() == 5.0
