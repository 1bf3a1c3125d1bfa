"""Replays see every change of the world between calls: numbers, attributes, containers, functions, classes, tensors."""

from __future__ import annotations

import math
import types

import tracejit as tj
from tests.trace.replaying import both, net
from tests.trace.values import arr, bits
from tracejit import nn
from tracejit.trace.compiled import region_of
from tracejit.trace.replay import proof

# --- the world --------------------------------------------------------------------------------------------------------

GLOBAL = 2.0
TABLE = {"scale": 3.0, "names": ["a", "b"]}


def scale(x):
    return x * GLOBAL


def changes():
    """Changes of the world between calls that a replay must see."""
    model = net(3, 4, 2)
    box = types.SimpleNamespace(k=1.5, items=[1, 2], on=True)
    box.sub = types.SimpleNamespace(f=math.sqrt, n=4)

    class Thing:
        factor = 1.0

        def __init__(self):
            self.w = arr(7, 2)

        def apply(self, x):
            return x * self.w * self.factor

    thing = Thing()
    cell = 0.25

    def f(x):
        y = thing.apply(scale(model(x))) * box.k + cell
        y = y * len(box.items) * TABLE["scale"] + box.sub.f(box.sub.n)
        if box.on and "b" in TABLE["names"]:
            y = y - box.items[0]
        return y

    def swap_method():
        Thing.apply = lambda self, x: x - self.w

    def set_cell():
        nonlocal cell
        cell = 4.0

    edits = [
        lambda: globals().__setitem__("GLOBAL", GLOBAL + 1),
        lambda: setattr(box, "k", box.k + 1),
        lambda: box.items.append(5),
        lambda: box.items.__setitem__(0, 9),
        lambda: TABLE.update(scale=TABLE["scale"] * 2),
        lambda: setattr(box.sub, "f", math.exp),
        lambda: setattr(box.sub, "n", 2),
        lambda: setattr(box, "on", False),
        lambda: setattr(box, "on", True),
        lambda: TABLE["names"].remove("b"),
        lambda: TABLE["names"].append("b"),
        lambda: setattr(Thing, "factor", 2.0),
        lambda: setattr(thing, "factor", 3.0),
        lambda: setattr(thing, "w", arr(8, 2)),
        lambda: thing.w.mul_(2.0),
        lambda: setattr(thing.w, "data", arr(9, 2)),
        swap_method,
        set_cell,
        lambda: setattr(model[0], "bias", None),
        lambda: setattr(model[0], "weight", nn.Parameter(arr(10, 4, 3))),
        lambda: model.eval(),
        lambda: model.__setattr__("0", nn.Linear(3, 4)),
        lambda: model.append(nn.Identity()),
        lambda: model.register_forward_hook(lambda m, a, out: out + 1),
        lambda: model[0].requires_grad_(False),
        lambda: globals().__setitem__("scale", lambda x: x + 100),
        lambda: globals().__setitem__("len", lambda x: 7),
        lambda: globals().pop("len"),
        lambda: setattr(thing, "__class__", type("Other", (Thing,), {"apply": lambda self, x: x * 9})),
        lambda: tj.set_grad_enabled(False),
        lambda: tj.set_grad_enabled(True),
    ]
    return f, edits


def test_every_change_of_the_world_is_seen():
    kept = GLOBAL, scale, {**TABLE, "names": list(TABLE["names"])}
    try:
        tj.manual_seed(3)
        f, edits = changes()
        compiled = tj.compile(f)
        for i in range(8):
            x = arr(i, 5, 3)
            assert bits(compiled(x)) == bits(f(x))
        region = region_of(compiled)
        assert region.calls.replayed >= 3, region.prover.obstacles
        for k, edit in enumerate(edits):
            edit()
            for i in range(5):
                x = arr(i + k, 5, 3)
                assert bits(compiled(x)) == bits(f(x)), (k, i)
        assert region.calls.replayed >= 20
    finally:
        tj.set_grad_enabled(True)
        globals().update(GLOBAL=kept[0], scale=kept[1])
        TABLE.update(kept[2])


def test_what_comes_into_a_table_of_a_module_before_others_is_seen():
    def make():
        model = nn.Module()
        model.register_buffer("w", arr(0, 3))
        edits = {
            8: lambda: model._modules.__setitem__("w", types.SimpleNamespace(scale=2.0)),
            16: lambda: model._parameters.__setitem__("w", nn.Parameter(arr(1, 3))),
            24: lambda: model._parameters.__delitem__("w"),
            32: lambda: object.__setattr__(model, "w", arr(2, 3)),
        }

        def f(i):
            w = model.w
            return i * (w.scale if isinstance(w, types.SimpleNamespace) else w)

        def args(i):
            edits.get(i, lambda: None)()
            return (arr(i, 3),)

        return f, args, list

    both(make, calls=40, least=10)


def test_a_number_that_changes_is_loaded_in_each_call():
    box = types.SimpleNamespace(k=0.0)
    f = tj.compile(lambda x: x * box.k + box.k**2)
    for i in range(30):
        box.k = i * 0.5
        x = arr(i, 3)
        assert f(x).tolist() == (x * box.k + box.k**2).tolist()
    region = region_of(f)
    assert region.calls.replayed >= 15
    assert region.compiles <= 3


def test_branches_on_numbers_are_guarded():
    box = types.SimpleNamespace(n=0)

    @tj.compile
    def f(x):
        box.n += 1
        if box.n % 3 == 0:
            return x - box.n
        return x * 2 if box.n < 20 else x

    for i in range(30):
        x = arr(i, 3)
        n = i + 1
        expected = x - n if n % 3 == 0 else x * 2 if n < 20 else x
        assert f(x).tolist() == expected.tolist(), i
        assert box.n == n
    assert region_of(f).calls.replayed >= 8


def test_negative_numbers_in_powers():
    box = types.SimpleNamespace(n=1)

    @tj.compile
    def f(x):
        box.n += 1
        return x * ((-2) ** box.n) + (-0.5) ** box.n - (-box.n) ** 2

    for i in range(10):
        n = i + 2
        x = arr(i, 3)
        assert f(x).tolist() == (x * ((-2) ** n) + (-0.5) ** n - (-n) ** 2).tolist()
    assert region_of(f).calls.replayed >= 3


def test_random_numbers_and_seeds_between_calls():
    def make():
        drop = nn.Dropout(0.4)
        own = tj.Generator().manual_seed(4)

        def f(x):
            return drop(x) + tj.rand(4) + tj.randn(4, generator=own)

        def args(i):
            if i == 7:
                tj.manual_seed(99)
            return (arr(i, 4),)

        return f, args, own.get_state

    both(make, least=7)


def test_a_proof_expects_that_updates_are_counted(monkeypatch):
    rounds, machine = [], proof.Machine

    def counted(*args):
        rounds.append(1)
        return machine(*args)

    monkeypatch.setattr(proof, "Machine", counted)
    model = net(3, 4, 1)
    opt = tj.optim.Adam(model.parameters())

    @tj.compile
    def step(x):
        opt.zero_grad()
        loss = model(x).sum()
        loss.backward()
        opt.step()
        return loss

    for _ in range(12):
        step(tj.ones(2, 3))
    assert region_of(step).calls.replayed > 0
    assert len(rounds) == 1
