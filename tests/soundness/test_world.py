"""Globals, closures, defaults and attributes that change; ways of calling; nested and recursive functions."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np

import tracejit as tj
from harness import Case, Topic, arr

topic = Topic()


def _module() -> Any:
    """A fresh namespace for functions that use globals."""
    space = types.ModuleType("space")
    space.tj = tj
    return space


def _in(space: Any, text: str) -> Any:
    exec(text, space.__dict__)
    return space


@topic.program("one program")
def global_number_changes():
    space = _in(_module(), "y = 1.0\ndef f(x): return x * y + y")

    def args(i):
        space.y = 1.0 + i // 2
        return arr(i, 3)

    return Case(space.f, args)


@topic.program("one program")
def global_tensor_is_replaced():
    space = _in(_module(), "y = tj.ones(3)\ndef f(x): return x + y")

    def args(i):
        if i % 3 == 0:
            space.y = arr(50 + i, 3)
        return arr(i, 3)

    return Case(space.f, args)


@topic.program("one program")
def global_is_assigned_inside():
    space = _in(_module(), "n = 0\nlast = None\ndef f(x):\n global n, last\n n += 1\n last = x * n\n return last")
    return Case(space.f, lambda i: arr(i, 3), lambda: (space.n, space.last))


@topic.program("branch")
def global_function_is_replaced():
    space = _in(_module(), "def g(x): return x.exp()\ndef f(x): return g(x) + 1")

    def args(i):
        if i == 4:
            space.g = lambda x: x.sin()
        return arr(i, 3)

    return Case(space.f, args)


@topic.program("one program")
def global_disappears():
    space = _in(_module(), "y = 2\ndef f(x): return x * y")

    def args(i):
        if i == 5:
            del space.y
        if i == 7:
            space.y = 3
        return arr(i, 3)

    return Case(space.f, args)


@topic.program("one program")
def closure_cell_changes():
    k = 1.0

    def bump():
        nonlocal k
        k += 0.5

    def args(i):
        if i % 2:
            bump()
        return arr(i, 3)

    return Case(lambda x: x * k, args)


@topic.program("branch")
def nonlocal_counter():
    n = 0

    def f(x):
        nonlocal n
        n += 1
        return x / n if n % 3 else x

    return Case(f, lambda i: arr(i, 3), lambda: n)


@topic.program("one program")
def mutable_default_argument():
    def f(x, seen=[]):  # noqa: B006 - the point
        seen.append(x.sum())
        return x * len(seen), seen[0]

    return Case(f, lambda i: arr(i, 3), lambda: f.__defaults__)


@topic.program("one program")
def defaults_are_replaced():
    def f(x, s=2.0, *, t=1.0):
        return x * s + t

    def args(i):
        if i == 4:
            f.__defaults__ = (3.0,)
        if i == 6:
            f.__kwdefaults__ = {"t": -1.0}
        return arr(i, 3)

    return Case(f, args)


@topic.program("branch")
def code_of_a_called_function_is_replaced():
    def g(x):
        return x + 1

    def args(i):
        if i == 5:
            g.__code__ = (lambda x: x - 1).__code__
        return arr(i, 3)

    return Case(lambda x: g(x) * 2, args)


@topic.program("one program")
def class_attribute_changes():
    class Config:
        scale = 1.0

    def args(i):
        if i % 4 == 3:
            Config.scale += 1
        return arr(i, 3)

    return Case(lambda x: x * Config.scale, args)


@topic.program("branch")
def method_is_monkey_patched():
    class Model:
        def act(self, x):
            return x.tanh()

    m = Model()

    def args(i):
        if i == 4:
            Model.act = lambda self, x: x.exp()
        if i == 7:
            m.act = lambda x: x * 0
        return arr(i, 3)

    return Case(lambda x: m.act(x) + 1, args)


@topic.program("one program")
def compiled_method_of_two_instances(jit):
    class Layer:
        def __init__(self, s):
            self.s = s

        @jit
        def forward(self, x):
            return x * self.s

    a, b = Layer(2.0), Layer(arr(0, 3))
    return Case(jit(lambda x: (a.forward(x), b.forward(x))), lambda i: arr(i, 3), jitted=True)


@topic.program("one program")
def compiled_method_called_alone(jit):
    class Layer:
        def __init__(self, s):
            self.s = s

        def forward(self, x):
            return x * self.s

    a, b = Layer(2.0), Layer(3.0)
    f = jit(a.forward)

    def args(i):
        a.s = 2.0 + i % 2
        return arr(i, 3), b.forward(arr(i, 3))

    return Case(jit(lambda x, y: f(x) + y), args, jitted=True)


@topic.program("one program")
def bound_method_partial_and_callable_object():
    class Scale:
        def __init__(self):
            self.n = 0

        def __call__(self, x, k=1):
            self.n += 1
            return x * self.n * k

    s = Scale()
    return Case(functools.partial(s, k=2), lambda i: arr(i, 3), lambda: s.n)


@topic.program("one program")
def static_and_class_methods():
    class Tools:
        factor = 2

        @staticmethod
        def double(x):
            return x * 2

        @classmethod
        def scaled(cls, x):
            return x * cls.factor

    def args(i):
        Tools.factor = 2 + i % 2
        return arr(i, 3)

    return Case(lambda x: Tools.double(x) + Tools.scaled(x), args)


@topic.program("one program")
def fresh_lambdas_each_call():
    def f(x, g):
        return g(x) + (lambda y: y * 2)(x)

    return Case(f, lambda i: (arr(i, 3), (lambda k: lambda x: x + k)(i % 3)))


@topic.program("branch")
def functions_as_arguments():
    table = [tj.exp, tj.tanh, lambda x: x]
    return Case(lambda x, g: g(x) * 2, lambda i: (arr(i, 3), table[i % 3]))


@topic.program("one program")
def decorated_and_wrapped():
    calls: list[str] = []

    def logged(g):
        @functools.wraps(g)
        def inner(*args):
            calls.append(g.__name__)
            return g(*args)

        return inner

    @logged
    def f(x):
        return x * 2

    return Case(f, lambda i: arr(i, 3), lambda: calls)


@topic.program("sizes")
def cached_function_of_python():
    @functools.lru_cache(maxsize=2)
    def table(n):
        return tj.arange(n) * 2.0

    return Case(lambda x, n: x + table(n)[0] + table(n).sum(), lambda i: (arr(i, 3), 2 + i % 3), table.cache_info)


@topic.program("branch")
def cached_tensor_made_inside():
    cache: dict[int, Any] = {}

    def f(x):
        n = x.shape[0]
        if n not in cache:
            cache[n] = tj.arange(n).float().exp()
        return x * cache[n]

    return Case(f, lambda i: arr(i, 2 + i % 3), lambda: cache)


@topic.program("branch")
def recursion():
    def f(x, depth):
        return x if depth == 0 else f(x * 0.5 + depth, depth - 1)

    return Case(f, lambda i: (arr(i, 3), i % 4))


@topic.program("branch")
def recursion_of_the_compiled_function(jit):
    @jit
    def f(x, depth):
        return x * 1.0 if depth == 0 else f(x * 0.5 + depth, depth - 1)

    return Case(f, lambda i: (arr(i, 3), i % 4), jitted=True)


@topic.program("branch")
def recursion_on_a_value():
    def f(x):
        return x if (x * x).sum() < 1 else f(x * 0.5)

    return Case(f, lambda i: arr(i, 3) * 3)


@topic.program("one program")
def nested_compiled_functions(jit):
    inner = jit(lambda x: x.exp() + 1)

    def f(x):
        return inner(x) * 2 + inner(x * 0.5)

    return Case(f, lambda i: arr(i, 3))


@topic.program("one program")
def inner_compiled_function_warm_before_outer(jit):
    inner = jit(lambda x: (x * 2).tanh())
    outer = jit(lambda x: inner(x) + inner(x + 1))

    def args(i):
        inner(arr(i, 3))
        return arr(i, 3)

    return Case(outer, args, jitted=True)


@topic.program("one program")
def compiled_inside_a_compiled_function(jit):
    def f(x, k):
        g = jit(lambda y: y * k)
        return g(x) + g(x)

    return Case(f, lambda i: (arr(i, 3), 1.0 + i % 2))


@topic.program("one program")
def callback_calls_the_compiled_function_again(jit):
    depth = [0]

    def call_back(x):
        depth[0] += 1
        return f(x * 0.5) if depth[0] % 3 else x

    @jit
    def f(x):
        return call_back(x + 1) * 2

    return Case(f, lambda i: arr(i, 3), lambda: depth, jitted=True)


@topic.program("branch")
def generators_used_inside():
    def halves(x):
        while True:
            x = x * 0.5
            yield x

    def f(x, n):
        g = halves(x)
        return sum(next(g) for _ in range(n + 1)), [y + 1 for y, _ in zip(g, range(2), strict=False)]

    return Case(f, lambda i: (arr(i, 3), i % 3))


@topic.program("one program")
def generator_that_lives_across_calls():
    def running():
        total = tj.zeros(3)
        while True:
            x = yield total
            total = total + x

    g = running()
    next(g)
    return Case(lambda x: g.send(x * 2), lambda i: arr(i, 3))


@topic.program("one program")
def generator_result_consumed_later():
    got: list[Any] = []

    def args(i):
        for g in got:
            list(g)
        got.clear()
        return arr(i, 3)

    def f(x):
        y = x * 2
        got.append(y + k for k in range(2))
        return y

    return Case(f, args)


@topic.program("one program")
def context_managers_of_the_user():
    import contextlib

    log: list[Any] = []

    @contextlib.contextmanager
    def timed(name):
        log.append(("in", name))
        try:
            yield len(log)
        finally:
            log.append(("out", name))

    def f(x):
        with timed("a") as n, tj.no_grad():
            return x * n

    return Case(f, lambda i: arr(i, 3), lambda: log)


@topic.program("one program")
def class_defined_inside():
    def f(x, k):
        class Local:
            scale = k

            def __call__(self, y):
                return y * self.scale

        return Local()(x), Local().scale

    return Case(f, lambda i: (arr(i, 3), i))


@topic.program("branch")
def object_identity_decides():
    a, b = arr(0, 3), arr(0, 3)

    def f(x):
        return x * 2 if x is a else x + 1

    return Case(f, lambda i: a if i % 3 == 2 else b)


@topic.program("branch")
def environment_and_type_checks():
    def f(x):
        if isinstance(x, tj.Tensor):
            return x * 2
        return tj.as_tensor(x) + 1

    return Case(f, lambda i: [arr(i, 3), [1.0, 2.0], 3.0, np.ones(2, np.float32)][i % 4])


@topic.program("one program")
def operators_of_user_classes_with_tensors():
    class Dual:
        def __init__(self, a, b):
            self.a, self.b = a, b

        def __mul__(self, other):
            return Dual(self.a * other.a, self.a * other.b + self.b * other.a)

        def __add__(self, other):
            return Dual(self.a + other.a, self.b + other.b)

    def f(x):
        d = Dual(x, tj.ones_like(x))
        e = d * d * d + d
        return e.a, e.b

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def hidden_state_on_self():
    class Recurrent:
        def __init__(self):
            self.h = None
            self.w = arr(0, 3, 3)

        def step(self, x):
            self.h = (x if self.h is None else x + self.h @ self.w).tanh()
            return self.h

        def reset(self):
            self.h = None

    r = Recurrent()

    def args(i):
        if i % 4 == 3:
            r.reset()
        return arr(i, 3)

    return Case(r.step, args, lambda: r.h)


@topic.program("branch")
def exec_eval_getattr_globals():
    def f(x, name):
        g = getattr(x, name)
        return g() + eval("x * 2"), locals()["name"]

    return Case(f, lambda i: (arr(i, 3), ["exp", "sin", "abs"][i % 3]))


test_program = topic.test()
