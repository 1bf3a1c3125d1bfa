"""`verify=`: a program that computes other bits than eager is found, located, and does not harm the state."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import tracejit as tj
from tracejit import compiler, eager, eager_open
from tracejit.codegen import repeated
from tracejit.errors import TracejitError, VerificationError
from tracejit.ir import node as ir
from tracejit.ir.pattern import EXACT, Rule
from tracejit.nn import functional as F
from tracejit.ops.record import ops
from tracejit.passes import simplify
from tracejit.tools.demo.models import MODELS
from tracejit.trace import verify
from tracejit.trace.compiled import region_of


def arr(seed, *shape):
    return tj.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def broken_rule(monkeypatch, pattern, replacement):
    rule = Rule("broken", EXACT, pattern, replacement)
    monkeypatch.setattr(simplify, "RULES", (rule, *simplify.RULES))


def broken_text(monkeypatch, old, new, count=-1):
    """Kernels whose text has `old` get `new` in its place; library kernels are left alone."""
    generate = repeated.generate

    def broken(group, plan):
        return [[replace(k, text=k.text.replace(old, new, count)) for k in step] for step in generate(group, plan)]

    plan_with(monkeypatch, broken)


def plan_with(monkeypatch, generate):
    """Kernels' texts come from `generate`; programs are neither taken from the disk nor kept there."""
    monkeypatch.setattr(repeated, "generate", generate)
    monkeypatch.setattr(compiler, "_identity", lambda graph: (None, ""))


def warm(f, *args, calls=2):
    """The cold and the recorded call: all that eager needs is built, no program is."""
    for _ in range(calls):
        f(*args)


def test_a_rule_that_swaps_the_operands_of_sub(monkeypatch):
    f = tj.compile(lambda x, y: (x * y - y).exp(), verify="first")
    x, y = arr(0, 3, 4), arr(1, 3, 4)
    warm(f, x, y)
    broken_rule(monkeypatch, "sub(mul(a, b), c)", "sub(c, mul(a, b))")
    with pytest.raises(VerificationError, match="first operation that differs: sub") as caught:
        f(x, y)
    e = caught.value
    assert e.op == "sub"
    assert e.line.startswith(__file__)
    assert e.broken_pass == "simplified"
    assert e.count == 12
    assert e.index == (0, 0)
    assert e.eager == -e.compiled == float(x[0, 0] * y[0, 0] - y[0, 0])
    assert f"(0x{np.float32(e.eager).view(np.uint32):08x})" in str(e)
    assert isinstance(e, TracejitError)
    monkeypatch.undo()
    for _ in range(3):
        assert f(x, y).tolist() == (x * y - y).exp().tolist()


def test_a_wrong_constant_in_a_kernel(monkeypatch):
    f = tj.compile(lambda x: (x.tanh() * 2.0).sum(0), verify="first")
    x = arr(0, 5, 4)
    warm(f, x)
    broken_text(monkeypatch, "  # mul", " + float32(0.5)  # mul")
    with pytest.raises(VerificationError) as caught:
        f(x)
    e = caught.value
    assert e.op == "mul"
    assert e.broken_pass is None
    assert "the fault is in the plan or the kernel" in str(e)
    assert "+ float32(0.5)  # mul" in e.text
    assert e.kernel in e.text
    assert e.kernel in str(e)
    assert e.compiled == pytest.approx(e.eager + 0.5)


def test_a_reduction(monkeypatch):
    f = tj.compile(lambda x: (x + 1.0).sum(1) / 3.0, verify="first")
    x = arr(0, 5, 40)
    warm(f, x)
    broken_text(monkeypatch, "fold_sum_f32(", "1 + fold_sum_f32(")
    with pytest.raises(VerificationError) as caught:
        f(x)
    assert caught.value.op == "sum"
    assert caught.value.count == 5


def test_a_matrix_product(monkeypatch):
    w = arr(3, 4, 4)
    f = tj.compile(lambda x: ((x @ w).relu() @ w).sum(), verify=1)
    x = arr(0, 4, 4)
    warm(f, x)
    broken_rule(
        monkeypatch,
        "matmul(a, b)",
        lambda a, b: ir.apply(ops.matmul, a, ir.apply(ops.neg, b)) if b.op == ir.INPUT else None,
    )
    with pytest.raises(VerificationError) as caught:
        f(x)
    assert caught.value.op == "matmul"
    assert caught.value.broken_pass == "simplified"
    monkeypatch.undo()
    assert f(x).item() == ((x @ w).relu() @ w).sum().item()


def test_a_change_in_place_keeps_eagers_values(monkeypatch):
    def make():
        w = arr(0, 4, 3).requires_grad_()

        def step(x):
            w.grad = None
            loss = ((x @ w) ** 2).mean()
            loss.backward()
            with tj.no_grad():
                w.sub_(w.grad * 0.125)
            return loss

        return step, w

    plain, w = make()
    step, v = make()
    f = tj.compile(step, verify="first")
    x = arr(1, 6, 4)
    for i in range(6):
        if i == 2:
            broken_rule(monkeypatch, "sub(a, mul(b, c))", "sub(mul(b, c), a)")
            with pytest.raises(VerificationError) as caught:
                f(x)
            monkeypatch.undo()
            assert caught.value.op == "sub"
            assert caught.value.broken_pass == "simplified"
            expected = plain(x).item()
        else:
            expected = plain(x).item()
            assert f(x).item() == expected
        assert v.tolist() == w.tolist()
        assert v.grad.tolist() == w.grad.tolist()


def test_dropout_is_compared_with_the_same_random_numbers(monkeypatch):
    def f(x):
        return F.dropout(x, 0.5) - 1.0

    x = arr(0, 40)
    good = tj.compile(f, verify=1)
    tj.manual_seed(3)
    drawn = [good(x).tolist() for _ in range(6)]
    tj.manual_seed(3)
    assert drawn == [f(x).tolist() for _ in range(6)]
    bad = tj.compile(f, verify=1)
    tj.manual_seed(3)
    warm(bad, x)
    broken_text(monkeypatch, "# sub", "* float32(2.0)  # sub")
    with pytest.raises(VerificationError) as caught:
        bad(x)
    assert caught.value.op == "sub"
    assert [bad(x).tolist() for _ in range(3)] == drawn[3:]


def test_a_fault_that_needs_its_neighbours_in_one_kernel_is_still_found(monkeypatch):
    """If every step's value is an output, the pattern of the broken rule still matches; a text of three may not."""
    f = tj.compile(lambda x: ((x + 1.0) * x).tanh(), verify="first")
    x = arr(0, 7)
    warm(f, x)
    generate = repeated.generate

    def broken(group, plan):
        lone = sum(k.text.count("store_f32") for step in generate(group, plan) for k in step) == 1
        change = ("# mul", "* float32(3.0)  # mul") if lone else ("", "")
        return [[replace(k, text=k.text.replace(*change)) for k in step] for step in generate(group, plan)]

    plan_with(monkeypatch, broken)
    with pytest.raises(VerificationError) as caught:
        f(x)
    assert caught.value.op == "tanh"
    assert caught.value.kernel is not None
    assert "* float32(3.0)  # mul" in caught.value.text


def test_a_search_that_breaks_still_says_what_is_known(monkeypatch):
    f = tj.compile(lambda x: (x - 2.0).exp(), verify="first")
    x = arr(0, 5)
    warm(f, x)
    broken_text(monkeypatch, "# sub", "* float32(2.0)  # sub")

    def unable(*args):
        raise TypeError("no graph")

    monkeypatch.setattr(verify, "_translate", unable)
    with pytest.raises(VerificationError, match=r"the search ended with TypeError: no graph") as caught:
        f(x)
    assert caught.value.op == "exp"
    assert caught.value.kernel is not None
    assert f(x).tolist() == (x - 2.0).exp().tolist()


def test_a_wrong_program_in_the_middle_lets_the_rest_of_the_call_run_eagerly(monkeypatch):
    log = []

    def f(x):
        y = (x - 2.0).sum()
        log.append(y.item())
        z = (x - 3.0).sum() + y
        log.append(z.item())
        return z

    g = tj.compile(f, verify="first")
    x = arr(0, 5)
    warm(g, x)
    broken_text(monkeypatch, "# sub", "* float32(2.0)  # sub")
    with pytest.raises(VerificationError, match="element"):
        g(x)
    assert any("earlier in this call" in n.reason for n in region_of(g).notes if n.kind == "eager")
    # The program of the second part was built by then, is wrong too, and was not compared.
    with pytest.raises(VerificationError):
        g(x)
    monkeypatch.undo()
    assert g(x).item() == log[1]
    assert log == log[:2] * 5


def test_an_exception_of_the_user_is_the_cause(monkeypatch):
    def f(x, stop):
        if (x - 1.0).sum().item() != 0 and stop:
            raise KeyError("mine")
        return x

    g = tj.compile(f, verify="first")
    x = arr(0, 5)
    warm(g, x, False)
    broken_text(monkeypatch, "# sub", "* float32(2.0)  # sub")
    with pytest.raises(VerificationError) as caught:
        g(x, True)
    assert isinstance(caught.value.__cause__, KeyError)


def test_every_kth_call_is_compared():
    f = tj.compile(lambda x: x * 2, verify=3)
    for _ in range(2 + 7):
        f(arr(0, 3))
    (note,) = [n for n in region_of(f).notes if n.kind == "verification"]
    assert note.count == 2
    g = tj.compile(lambda x: x * 2, verify=1)
    for _ in range(2 + 7):
        g(arr(0, 3))
    (note,) = [n for n in region_of(g).notes if n.kind == "verification"]
    assert note.count == 7


def test_a_wrong_program_that_was_replayed_in_between(monkeypatch):
    f = tj.compile(lambda x: x - 2.0, verify=9)
    x = arr(0, 5)
    right = (x - 2.0).tolist()
    warm(f, x)
    broken_text(monkeypatch, "# sub", "* float32(2.0)  # sub")
    wrong = [f(x).tolist() for _ in range(8)]
    assert all(values != right for values in wrong)
    assert region_of(f).calls.replayed > 0
    with pytest.raises(VerificationError, match="first operation that differs: sub"):
        f(x)
    assert [f(x).tolist() for _ in range(9)] == [right] * 9


def test_first_is_once_for_each_program_and_so_for_each_size():
    def f(x, s):
        y = (x * s).sum()
        return y * 2 if y.item() > 0 else y - 1

    g = tj.compile(f, verify="first")
    for _ in range(5):
        g(tj.ones(3), 1.0)
    counts = lambda: sum(n.count for n in region_of(g).notes if n.kind == "verification")  # noqa: E731
    assert counts() == 2
    g(tj.ones(3), 2.0)
    g(tj.ones(3), 3.0)
    assert counts() == 2
    g(tj.ones(4), 3.0)
    assert counts() == 4


@pytest.mark.parametrize("name", MODELS)
def test_demo_models_pass_silently_and_keep_no_memory(name, monkeypatch):
    # Kernels that eager builds later on would count as memory that is kept.
    monkeypatch.setattr(eager, "_NUMPY_WORK", 0)
    monkeypatch.setattr(eager_open, "_PROGRAMS", 1 << 30)
    monkeypatch.setattr(eager_open, "_LAYOUTS", 1 << 30)
    tj.manual_seed(0)
    model = MODELS[name]()
    optimizer = tj.optim.Adam(model.parameters(), lr=1e-3)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = tj.compile(step, verify=2)
    x, y = arr(1, 16, 64), tj.from_numpy(np.random.default_rng(2).integers(0, 10, (16,)))
    for _ in range(6):
        run(x, y)
    gc.collect()
    tracemalloc.start()
    try:
        run(x, y), run(x, y)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            run(x, y)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    (note,) = [n for n in region_of(run).notes if n.kind == "verification"]
    assert note.count == 8
    assert region_of(run).eager_segments == 0


def test_views_casts_and_layouts_are_compared():
    w = arr(5, 3, 4)

    def f(x, i):
        v = x.T.reshape(2, -1)
        w.mul_(0.5)
        return v[:, ::2] * 2, x.T, (x > 0).to(tj.int32).sum(0), w.T @ x[:3], F.embedding(i, w), x.max(1)

    g = tj.compile(f, verify=1)
    for k in range(6):
        g(arr(k, 4, 6).T[:4] if k % 2 else arr(k, 4, 4), tj.tensor([0, 2, 1]))
    assert sum(n.count for n in region_of(g).notes if n.kind == "verification") >= 2


def test_an_index_out_of_range_raises_as_in_eager():
    def f(x):
        index = (x * 2).long()
        return tj.ones(5).index_select(0, index)

    g = tj.compile(f, verify=1)
    for _ in range(4):
        g(tj.tensor([0.5, 1.0]))
    with pytest.raises(IndexError, match=r"out of bounds|out of range"):
        g(tj.tensor([0.5, 9.0]))


@pytest.mark.parametrize(("value", "error"), [("last", ValueError), (0, ValueError), (-3, ValueError), (1.5, TypeError),
                                              (True, TypeError), ([1], TypeError)])
def test_wrong_values_of_verify(value, error):
    with pytest.raises(error, match=r"verify must be 'first' or a whole number from 1 on or None"):
        tj.compile(lambda x: x, verify=value)


def test_verify_reaches_methods_and_modules():
    class Model:
        @tj.compile(verify=1)
        def forward(self, x):
            return x * 2

    m = Model()
    net = tj.compile(tj.nn.Linear(3, 2), verify=1)
    for _ in range(4):
        m.forward(arr(0, 3))
        net(arr(0, 2, 3))
    for region in (m.forward._region, region_of(net)):
        assert sum(n.count for n in region.notes if n.kind == "verification") == 2
