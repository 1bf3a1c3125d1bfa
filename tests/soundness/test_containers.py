"""Containers and objects as arguments, captured state and results."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import tracejit as tj
from harness import Case, Topic, arr

topic = Topic()


@dataclasses.dataclass
class Batch:
    """A batch of a loader."""

    x: Any
    y: Any
    name: str = "batch"


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Options."""

    scale: float
    flags: tuple[bool, ...]


class Pair(NamedTuple):
    """Two tensors."""

    first: Any
    second: Any


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("h", "n")

    def __init__(self) -> None:
        self.h = tj.zeros(3)
        self.n = 0


@topic.program("one program")
def lists_and_dicts_as_arguments():
    def f(xs, d):
        return sum(x.sum() for x in xs) + d["a"] * d.get("b", 1)

    return Case(f, lambda i: ([arr(i + k, 2) for k in range(3)], {"a": arr(i, 2), "b": i % 3}))


@topic.program("branch")
def dict_with_other_keys_and_order():
    def f(d):
        return {k: v * 2 for k, v in d.items()}, next(iter(d.values())) + 1

    def args(i):
        keys = ["a", "b", "c"][: 1 + i % 3]
        return {k: arr(i + n, 2) for n, k in enumerate(reversed(keys) if i % 2 else keys)}

    return Case(f, args)


@topic.program("branch")
def list_argument_changed_by_the_function():
    def f(xs):
        xs.append(xs[-1] * 2)
        xs[0] = xs[0] + 1
        return len(xs)

    return Case(f, lambda i: ([arr(i + k, 2) for k in range(1 + i % 2)],))


@topic.program("one program")
def dataclass_in_and_out():
    def f(b):
        return dataclasses.replace(b, x=b.x * 2, y=b.y + b.x)

    return Case(f, lambda i: Batch(arr(i, 3), arr(i + 9, 3), f"batch {i}"))


@topic.program("branch")
def frozen_dataclass_of_options():
    def f(x, o):
        return (x * o.scale if o.flags[0] else x) + len(o.flags)

    return Case(f, lambda i: (arr(i, 3), Frozen(0.5 * i, (i % 2 == 0,) * (1 + i % 3))))


@topic.program("one program")
def named_tuple_in_and_out():
    return Case(lambda p: Pair(p.second * 2, p.first + p[1]), lambda i: Pair(arr(i, 3), arr(i + 9, 3)))


@topic.program("one program")
def nested_results():
    def f(x):
        y = x * 2
        return {"list": [y, y], "tuple": (x, (y + 1,)), "none": None, "number": 3, "set": {1, 2}, "generator": len([y])}

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def captured_list_grows():
    history: list[Any] = []

    def f(x):
        history.append(x * 2)
        return sum(h.sum() for h in history[-3:])

    return Case(f, lambda i: arr(i, 3), lambda: history)


@topic.program("branch")
def captured_dict_of_running_means():
    stats: dict[str, Any] = {}

    def f(x, name):
        stats[name] = 0.9 * stats[name] + 0.1 * x.mean() if name in stats else x.mean()
        return stats[name]

    return Case(f, lambda i: (arr(i, 3), "ab"[i % 2]), lambda: stats)


@topic.program("branch")
def deque_of_limited_length():
    window: collections.deque[Any] = collections.deque(maxlen=3)

    def f(x):
        window.append(x + 1)
        return tj.stack(list(window)).mean(0)

    return Case(f, lambda i: arr(i, 3), lambda: list(window))


@topic.program("one program")
def replay_buffer_overwritten_round_robin():
    buffer = tj.zeros(4, 3)
    world = {"at": 0}

    def f(x):
        buffer[world["at"] % 4] = x * 2
        world["at"] += 1
        return buffer.sum(0)

    return Case(f, lambda i: arr(i, 3), lambda: (buffer, world))


@topic.program("one program")
def object_with_slots():
    o = Slotted()

    def f(x):
        o.h = (o.h * 0.5 + x).tanh()
        o.n += 1
        return o.h * o.n

    return Case(f, lambda i: arr(i, 3), lambda: (o.h, o.n))


@topic.program("one program")
def property_computed_from_tensors():
    class Model:
        def __init__(self):
            self.w = arr(0, 3)
            self.reads = 0

        @property
        def norm(self):
            self.reads += 1
            return (self.w * self.w).sum().sqrt()

    m = Model()

    def f(x):
        m.w = m.w + x
        return m.w / m.norm

    return Case(f, lambda i: arr(i, 3), lambda: (m.w, m.reads))


@topic.program("one program")
def attributes_on_a_tensor():
    w = arr(0, 3)
    w.tag = 0

    def f(x):
        w.tag += 1
        y = x * w.tag
        y.origin = "here"
        return y, y.origin, hasattr(x * 1, "origin")

    return Case(f, lambda i: arr(i, 3), lambda: (w, w.tag))


@topic.program("one program")
def tensors_as_dictionary_keys_and_in_sets():
    a, b = arr(0, 3), arr(1, 3)
    table = {a: 2.0, b: 3.0}

    def f(x):
        y = x + 1
        local = {y: 5.0, **table}
        return y * local[y] + a * local[a], len({a, b, y, a})

    return Case(f, lambda i: arr(i, 3))


@topic.program("branch")
def star_arguments_and_keywords():
    def f(*xs, scale=1.0, **rest):
        return sum(xs) * scale + sum(rest.values())

    return Case(f, lambda i: (tuple(arr(i + k, 2) for k in range(1 + i % 2)), {"scale": 1.0 + i % 3, "z": arr(i, 2)}))


@topic.program("one program")
def positional_and_keyword_calls_of_the_same_function():
    def args(i):
        a, b = arr(i, 3), arr(i + 20, 3)
        return [((a, b), {}), ((a,), {"b": b}), ((), {"b": b, "a": a})][i % 3]

    return Case(lambda a, b: a * 2 - b, args)


@topic.program("cut")
def tree_of_parameters_as_an_argument():
    params = {"l1": {"w": arr(0, 3, 4), "b": tj.zeros(4)}, "l2": {"w": arr(1, 4, 1), "b": tj.zeros(1)}}

    def loss(p, x):
        h = (x @ p["l1"]["w"] + p["l1"]["b"]).tanh()
        return (h @ p["l2"]["w"] + p["l2"]["b"]).pow(2).mean()

    def f(p, x):
        leaves = [t.requires_grad_() for layer in p.values() for t in layer.values()]
        grads = tj.autograd.grad(loss(p, x), leaves)
        new = iter([(t - 0.1 * g).detach() for t, g in zip(leaves, grads, strict=True)])
        return {k: {n: next(new) for n in layer} for k, layer in p.items()}

    world = {"p": params}

    def step(x):
        world["p"] = f(world["p"], x)

    return Case(step, lambda i: arr(i, 5, 3), lambda: world)


@topic.program("one program")
def iterator_as_an_argument_is_consumed():
    def f(it):
        return next(it) * 2 + next(it)

    source = (arr(k, 3) for k in range(15))
    return Case(f, lambda i: (source,), lambda: source.gi_frame is None)


@topic.program("branch")
def dictionary_view_zip_enumerate():
    d = {"a": arr(0, 2), "b": arr(1, 2)}

    def f(x):
        out = x
        for n, (k, v) in enumerate(zip(d, d.values(), strict=True)):
            out = out + v * n + len(k)
        return out

    def args(i):
        if i == 5:
            d["c"] = arr(5, 2)
        if i == 7:
            del d["a"]
        return arr(i, 2)

    return Case(f, args)


@topic.program("one program")
def list_captured_by_reference_is_replaced_element_wise():
    ws = [arr(0, 3), arr(1, 3)]

    def args(i):
        if i % 3 == 2:
            ws[i % 2] = arr(i, 3)
        return arr(i, 3)

    return Case(lambda x: ws[0] * x + ws[1], args, lambda: ws)


@topic.program("branch")
def string_and_enum_options():
    import enum

    class Mode(enum.Enum):
        SUM = "sum"
        MEAN = "mean"

    def f(x, mode):
        return x.sum() if mode is Mode.SUM else x.mean() * len(mode.value)

    return Case(f, lambda i: (arr(i, 3), list(Mode)[i % 2]))


test_program = topic.test()
