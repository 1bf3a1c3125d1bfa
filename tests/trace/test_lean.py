"""Lean tapes: what a run keeps is less than what its steps saved, and whoever looks at them finds what eager saved."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref

import pytest

import tracejit as tj
from tests.trace.values import arr, bits
from tracejit import nn
from tracejit.nn import functional as F
from tracejit.trace import deferred, lean, pullback
from tracejit.trace.compiled import region_of

SCRIPT = '''
import os
import sys
import tracejit as tj
from tracejit import nn
from tracejit.trace import lean, pullback
from tracejit.trace.compiled import region_of

pullback.WORK, lean.WORTH = 0, int(os.environ.get("WORTH", 0))
tj.manual_seed(3)
model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
f = tj.compile(model)
for i in range(12):
    model.zero_grad()
    out = f(tj.randn(3, 1, 6, 6))
    for _, e in region_of(f).executables():
        print("fat" if e.tape.lean is None else "lean", file=sys.stderr)
    out.sum().backward()
    print([p.grad.sum().item().hex() for p in model.parameters()])
'''


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass is worth a program, and every byte a lean tape."""
    monkeypatch.setattr(pullback, "WORK", 0)
    monkeypatch.setattr(lean, "WORTH", 0)


class Normed(nn.Module):
    """A norm whose output has two ways on; nothing of them is a product."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.more = nn.Parameter(arr(7, 2, 1, 1))
        with tj.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(arr(k, *p.shape))

    def forward(self, x):
        h = F.relu(self.norm(self.conv(x)))
        return (h * self.more).sum((2, 3)), F.max_pool2d(h, 2)


def tapes(f):
    """The lean tapes that programs of a compiled function leave."""
    return [e.tape.lean for _, e in region_of(f).executables() if e.tape is not None and e.tape.lean is not None]


def kept_bytes(out):
    """What a tape holds of values that its run left."""
    return sum(a.nbytes for a in out.grad_fn.batch.run.kept if a is not None)


def walks(model, out, x):
    """Ways back that are not the usual one: each gives what is to be compared."""
    ps = list(model.parameters())
    more, weight, _, scale, shift = ps
    a, b = out

    def usual():
        (a.sum() + (b * b).sum()).backward()
        return [p.grad for p in ps]

    def chosen():
        return list(tj.autograd.grad(a.sum() + b.sum(), [scale, weight]))

    def unused():
        return list(tj.autograd.grad(b.sum(), ps, allow_unused=True))

    def twice():
        (g,) = tj.autograd.grad((a * a).sum(), [weight], create_graph=True)
        (g * g).sum().backward()
        return [g, *[p.grad for p in ps]]

    def again():
        loss = a.sum() + b.sum()
        loss.backward(retain_graph=True)
        b.sum().backward()
        with pytest.raises(RuntimeError, match="a second time") as e:
            loss.backward()
        return [str(e.value), *[p.grad for p in ps]]

    def half():
        a.sum().backward()
        found = [p.grad.clone() for p in ps if p.grad is not None]
        try:
            b.sum().backward()
        except RuntimeError as e:
            found.append(str(e))
        return found

    def hooked():
        seen = []
        a.register_hook(lambda g: seen.append(bits(g)))
        b.retain_grad()
        ((a * a).sum() + (b * b).sum()).backward()
        return [seen, b.grad, *[p.grad for p in ps]]

    def looked():
        names = [out.grad_fn.name() for out in (a, b)]
        edges = [n.name() for n, _ in a.grad_fn.next_functions if n is not None]
        a.sum().backward()
        return [names, edges, *[p.grad for p in ps]]

    def changed():
        # No step saved it.
        with tj.no_grad():
            shift.add_(1)
        (a.sum() + b.sum()).backward()
        return [p.grad for p in ps]

    def spoilt():
        with tj.no_grad():
            scale.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation") as e:
            (a.sum() + b.sum()).backward()
        return [str(e.value)]

    def beside():
        # What is not on the way may change.
        with tj.no_grad():
            more.mul_(2)
        return list(tj.autograd.grad(b.sum(), [weight, scale]))

    def inside():
        return compiled_pass(a, b, ps)

    return [usual, chosen, unused, twice, again, half, hooked, looked, changed, spoilt, beside, inside, usual]


def compiled_pass(a, b, ps):
    (a.sum() + b.sum()).backward()
    return [p.grad for p in ps]


WALKS = 13
APART = 200
"""Bytes from which on values have arrays of their own, others a place in a block."""


def run(kind, which, rounds=3):
    tj.manual_seed(1)
    model = Normed()
    f, log = kind(model), []
    for i in range(5 + rounds):
        for p in model.parameters():
            p.grad = None
        x = arr(i, 3, 1, 6, 6)
        out = f(x)
        way = walks(model, out, x)[which if i >= 5 else 0]
        log.append([way.__name__, bits(list(way())), bits(list(model.buffers()))])
        with tj.no_grad():
            for p in model.parameters():
                p.sub_(0.01 if p.grad is None else p.grad * 0.01)
    return log, f


@pytest.mark.parametrize("which", range(WALKS))
@pytest.mark.parametrize("apart", [False, True])
def test_ways_back(monkeypatch, which, apart):
    if apart:
        monkeypatch.setattr(lean, "BLOCK_BYTES", APART)
    log, f = run(tj.compile, which)
    assert log == run(lambda f: f, which)[0]
    assert tapes(f)


def test_a_pass_in_another_region_takes_what_the_steps_saved(monkeypatch):
    inside = 11
    expected = run(lambda f: f, inside, 6)[0]
    monkeypatch.setitem(globals(), "compiled_pass", tj.compile(compiled_pass))
    log, f = run(tj.compile, inside, 6)
    assert log == expected
    assert tapes(f)


def lean_model(rounds=5):
    """A compiled model whose runs leave lean tapes, and an operand."""
    model = Normed()
    f = tj.compile(model)
    for i in range(rounds):
        a, b = f(arr(i, 3, 1, 6, 6))
        (a.sum() + b.sum()).backward()
    assert tapes(f)
    return f, arr(9, 3, 1, 6, 6)


def test_a_norm_keeps_what_it_was_made_of():
    f, x = lean_model()
    a, b = f(x)
    (plan,) = tapes(f)
    whole = 3 * 2 * 36 * 4
    # The convolution's result and the index of the maxima, beside a few numbers for each channel; eager keeps the
    # differences from the mean, the quotients, and the relu's result.
    assert whole < kept_bytes(a) <= 2 * whole
    assert sum(a.grad_fn.batch.tensors[i] is not None for i in a.grad_fn.batch.part.away[0]) == 0
    assert len(plan.away) > 3
    del a, b


def test_what_is_kept_goes_with_the_pass():
    f, x = lean_model()
    a, b = f(x)
    run = a.grad_fn.batch.run
    found = [weakref.ref(array) for array in run.kept]
    a.sum().backward(retain_graph=True)
    assert all(array() is not None for array in found)
    (a.sum() + b.sum()).backward()
    gc.collect()
    assert [array() for array in found] == [None] * len(found)
    with pytest.raises(RuntimeError, match="a second time"):
        a.sum().backward()


def test_what_one_result_still_needs_stays(monkeypatch):
    monkeypatch.setattr(lean, "BLOCK_BYTES", APART)
    f, x = lean_model()
    a, b = f(x)
    run = a.grad_fn.batch.run
    a.sum().backward()
    left = {k for k, array in enumerate(run.kept) if array is not None}
    assert 0 < len(left) < len(run.kept)
    # The maxima's places, which their own step needs, as no gradient came to it.
    step = b.grad_fn
    assert not step.done
    assert step.next_functions[0][0].done
    assert [t.shape for t, _ in step.results] == [b.shape]


def test_values_without_elements_have_places_too(monkeypatch):
    monkeypatch.setattr(lean, "MANY", 0)

    def run(kind):
        w, log = arr(0, 4).requires_grad_(), []
        f = kind(lambda x: (x * w).exp().tanh() * w)
        for i in range(6):
            f(arr(i, 0, 4)).sum().backward()
            log.append(bits(w.grad))
        return log, f

    log, f = run(tj.compile)
    assert log == run(lambda f: f)[0]
    assert tapes(f)


def test_who_always_looks_gets_all_that_was_saved():
    def run(kind):
        model, log = Normed(), []
        f = kind(model)
        for i in range(5 + 2 * deferred.LOOKS):
            a, b = f(arr(i, 3, 1, 6, 6))
            if i < 5:
                (a.sum() + b.sum()).backward()
            else:
                log.append(bits(tj.autograd.grad((a * a).sum() + b.sum(), [model.conv.weight])))
        return log, f

    log, f = run(tj.compile)
    assert log == run(lambda f: f)[0]
    assert not tapes(f)


def test_a_later_process_leaves_lean_tapes_at_once(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "TRACEJIT_TREES": "1", "TRACEJIT_CACHE_DIR": str(tmp_path / "cache")}
    said = []
    for _ in range(3):
        command = [sys.executable, str(script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
        said.append((done.stdout, done.stderr.split()))
    (printed, first), *later = said
    assert first[0] == "fat"
    assert first[-1] == "lean"
    for again, tapes_of in later:
        assert again == printed
        assert set(tapes_of) == {"lean"}
    # One that thinks otherwise of what a lean tape is worth takes no program that leaves one.
    environment["WORTH"] = str(1 << 60)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == printed
    assert set(done.stderr.split()) == {"fat"}
