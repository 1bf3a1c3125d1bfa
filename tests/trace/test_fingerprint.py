"""Fingerprints: equal for what is the same program in another process, and never a reason to run the program's code."""

from __future__ import annotations

import functools
from typing import Any

import tracejit as tj
from tracejit import nn, optim
from tracejit.trace.fingerprint import fingerprint


def of(function: Any, *args: Any, **kwargs: Any) -> str:
    return fingerprint(function, args, kwargs)


def make(width: int, rate: float = 0.1, name: str = "net") -> Any:
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))
    opt = optim.Adam(model.parameters(), lr=rate)
    count = [0]

    def step(x):
        count[0] += 1
        opt.zero_grad()
        loss = model(x).sum() if name else model(x).mean()
        loss.backward()
        opt.step()
        return loss

    return step


X = tj.ones(2, 3)


def test_numbers_do_not_count_and_shapes_texts_and_flags_do():
    base = of(make(4), X)
    assert of(make(4), X) == base
    assert of(make(4, rate=0.5), X) == base
    assert of(make(5), X) != base
    assert of(make(4, name="other"), X) != base
    assert of(make(4), tj.ones(4, 3)) != base
    assert of(make(4), tj.ones(2, 3, dtype=tj.float64)) != base
    assert of(make(4), X, flag=True) != of(make(4), X, flag=False)
    with tj.no_grad():
        assert of(make(4), X) != base


def test_other_code_is_another_function():
    functions = [lambda x: x + 1, lambda x: x * 2]
    assert of(functions[0], X) != of(functions[1], X)
    calls = [functools.partial(f, X) for f in functions]
    assert of(calls[0]) != of(calls[1])

    def through(f: Any) -> Any:
        return lambda x: f(x)

    assert of(through(functions[0]), X) != of(through(functions[1]), X)
    assert of(through(tj.compile(functions[0])), X) != of(through(tj.compile(functions[1])), X)


def test_a_compiled_function_is_what_it_compiles():
    inner = tj.compile(lambda x: x.exp())
    base = of(lambda x: inner(x), X)
    assert len(base) == 64
    outer = lambda x: inner(x)  # noqa: E731
    before = of(outer, X)
    for _ in range(6):
        inner(X)
    assert of(outer, X) == before


def test_methods_of_instances():
    class Net:
        def __init__(self, width: int) -> None:
            self.w = tj.ones(3, width)
            self.me = self

        def call(self, x: Any) -> Any:
            return x @ self.w

    assert of(Net(2).call, X) == of(Net(2).call, X)
    assert of(Net(2).call, X) != of(Net(3).call, X)


def test_nothing_of_the_program_runs():
    def refuse(*_: Any) -> Any:
        raise AssertionError("the program's own code ran")

    class Hostile:
        __getattr__ = __getattribute__ = __len__ = __iter__ = __eq__ = __hash__ = __repr__ = refuse

    class Listed(list):
        __iter__ = __len__ = __getitem__ = __repr__ = refuse

    class Table(dict):
        items = keys = values = __iter__ = __len__ = __getitem__ = __repr__ = refuse

    given = (Hostile(), Listed([1, 2]), Table(a=1))
    assert len(of(lambda *a: a, *given)) == 64


def test_large_worlds_are_not_walked_to_their_end():
    numbers = list(range(1_000_000))
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(of(lambda x: (x, numbers, deep), X)) == 64
