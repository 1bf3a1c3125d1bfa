"""Composites that run as one program: every bit, error and gradient is that of their operations one by one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracejit as tj
from tests.programs import same_bits
from tests.tensor.fusing import COMPOSITES, ROWS, SIZE, TYPES, bits, both, built, operands, outcome, step
from tracejit.nn import functional as F
from tracejit.tensor import array_program, composite, fused
from tracejit.tensor.fused_step import FusedStep
from tracejit.tensor.tape import TapeNode


def trained(function: Callable[..., Any], kind: Any, seed: int, edges: bool = False) -> list[np.ndarray]:
    """A result and the gradients of the operands."""
    return outcome(function, operands(kind, seed, edges), seed)


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("name", COMPOSITES)
def test_bits_are_those_of_the_operations(name: str, kind: Any, edges: bool) -> None:
    one, other = both(lambda: trained(COMPOSITES[name], kind, 3, edges))
    assert len(one) == len(other)
    assert all(map(same_bits, one, other))


@pytest.mark.parametrize("name", [name for name in COMPOSITES if name not in ("softmin", "mse_loss")])
def test_the_steps_are_one(name: str) -> None:
    x, w, b, t = operands(tj.float32, 0)
    with built(-1):
        assert step(COMPOSITES[name](x, w, b, t)) is FusedStep
        assert step(COMPOSITES[name](x, w, b, t)) is FusedStep


def test_programs_are_built_for_work() -> None:
    x = operands(tj.float32, 0)[0]
    with built(3 * (x.numel() + fused.TRACKED_USE_WORK)):
        found = [step(F.softmax(x, 1)) for _ in range(5)]
    assert found == [TapeNode, TapeNode, TapeNode, FusedStep, FusedStep]


def test_large_operands_are_met_more_than_once() -> None:
    x = tj.zeros(1000)
    with built(10):
        found = [step(F.softmax(x.requires_grad_(), 0)) for _ in range(4)]
    assert found == [TapeNode, TapeNode, FusedStep, FusedStep]


SMALLER = ("cross", "glu", "mse", "mean", "linear", "conv", "variance", "deviation", "logsumexp", "triplet")
names = st.sampled_from([name for name in COMPOSITES if not name.startswith(SMALLER)])


@settings(max_examples=60)
@given(st.lists(st.tuples(names, st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=5), st.integers(0, 99))
def test_values_that_are_read_by_many(steps: list[tuple[str, int, int]], seed: int) -> None:
    def run() -> list[np.ndarray]:
        x, w, b, t = operands(tj.float32, seed)
        values = [x, x * 1.5]
        for name, first, second in steps:
            made = COMPOSITES[name](values[first % len(values)], w, b, t)
            values.append(made + values[second % len(values)] if second else made)
        sum(v.sum() * (k + 1) for k, v in enumerate(values)).backward()
        return [bits(values[-1]), *[bits(leaf.grad) for leaf in (x, w, b) if leaf.grad is not None]]

    one, other = both(run)
    assert all(map(same_bits, one, other))


TWICE = ["softmax", "layer_norm", "gelu", "silu", "group_norm", "glu", "cross_entropy", "linear", "conv2d"]


@pytest.mark.parametrize("name", TWICE)
def test_second_gradients(name: str) -> None:
    def run() -> list[np.ndarray]:
        x, w, b, t = operands(tj.float64, 5)
        out = COMPOSITES[name](x * 1.0, w, b, t)
        first = tj.autograd.grad((out * out).sum(), [x, w], create_graph=True, allow_unused=True)
        sum((g * g).sum() for g in first if g is not None).backward()
        return [bits(g) for g in (*first, x.grad, w.grad) if g is not None]

    one, other = both(run)
    assert len(one) > 1
    assert all(map(same_bits, one, other))


def test_the_precision_of_products_makes_another_kind() -> None:
    def run() -> list[np.ndarray]:
        x, w = (tj.randn(256, 256, generator=tj.Generator().manual_seed(seed)) for seed in (1, 2))
        found = []
        for precision in ("highest", "medium", "highest"):
            tj.set_float32_matmul_precision(precision)
            found.append(bits(F.linear(x, w, w[0])))
        return found

    try:
        one, other = both(run)
    finally:
        tj.set_float32_matmul_precision("highest")
    assert all(map(same_bits, one, other))


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "silu", "linear", "conv2d"])
def test_gradients_of_chosen_inputs(name: str) -> None:
    def run() -> list[np.ndarray]:
        x, w, b, t = operands(tj.float32, 5)
        read = x * 1.0
        out = COMPOSITES[name](read, w, b, t)
        return [bits(g) for g in tj.autograd.grad(out.sum(), [read, x], retain_graph=True)]

    one, other = both(run)
    assert all(map(same_bits, one, other))


def test_hooks_and_kept_gradients() -> None:
    def run() -> list[np.ndarray]:
        x, w, b, _ = operands(tj.float32, 7)
        seen: list[np.ndarray] = []
        read = x * 1.0
        read.retain_grad()
        out = F.layer_norm(read, (SIZE,), w, b)
        out.retain_grad()
        out.register_hook(lambda g: (seen.append(bits(g)), g * 2.0)[1])
        w.register_hook(lambda g: (seen.append(bits(g)), g * 3.0)[1])
        (out * out).sum().backward()
        return [*seen, *[bits(t.grad) for t in (x, read, out, w, b)]]

    one, other = both(run)
    assert len(one) == 7
    assert all(map(same_bits, one, other))


def test_a_hook_on_steps_that_were_looked_at() -> None:
    x = operands(tj.float32, 7)[0]
    with built(-1):
        out = F.softmax(x, 1)
        handle = out.register_hook(lambda g: g * 2.0)
        assert out.grad_fn.name() == "MulBackward0"
        out.sum().backward()
        twice = bits(x.grad)
        x.grad = None
        handle.remove()
        out = F.softmax(x, 1)
        out.backward(tj.full(out.shape, 2.0))
    assert same_bits(twice, bits(x.grad))


def walked(node: Any) -> Any:
    """The steps that lead to one, as names."""
    if not isinstance(node, TapeNode):
        return None if node is None else "leaf"
    return node.name(), [walked(n) for n, _ in node.next_functions]


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "gelu_tanh", "glu", "cross_entropy", "prelu"])
def test_whoever_looks_sees_the_operations(name: str) -> None:
    def run() -> list[Any]:
        x, w, b, t = operands(tj.float32, 1)
        out = COMPOSITES[name](x * 1.0, w, b, t)
        before = walked(out.grad_fn)
        other = COMPOSITES[name](x * 1.0, w, b, t)
        other.sum().backward()
        return [before, walked(other.grad_fn)]

    one, other = both(run)
    assert one == other


@pytest.mark.parametrize("why", ["refused", "another type"])
def test_a_gradient_that_has_no_program(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    def run() -> list[np.ndarray]:
        x, w, b, _ = operands(tj.float32, 1)
        read = x * 1.0
        ct = tj.full((ROWS, SIZE), 0.3, dtype=tj.float32 if why == "refused" else tj.float64)
        out = F.layer_norm(read, (SIZE,), w, b)
        if why == "refused":
            monkeypatch.setattr(array_program, "compile_graph", refuse)
        out.backward(ct)
        monkeypatch.undo()
        return [bits(leaf.grad) for leaf in (x, w, b)]

    def refuse(*_: Any) -> Any:
        raise NotImplementedError

    one, other = both(run)
    assert all(map(same_bits, one, other))


def test_a_second_pass_needs_what_was_kept() -> None:
    x = operands(tj.float32, 1)[0]
    with built(-1):
        out = F.log_softmax(x, 1)
        out.sum().backward(retain_graph=True)
        first = bits(x.grad)
        x.grad = None
        out.sum().backward()
        assert same_bits(first, bits(x.grad))
        assert step(out) is FusedStep
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            out.sum().backward()


@pytest.mark.parametrize(("name", "again"), [("mean", True), ("glu", False), ("kept", False)])
def test_a_second_pass_needs_no_step_that_kept_numbers_alone(name: str, again: bool) -> None:
    made = {"mean": lambda x: x.mean(), "glu": F.glu, "kept": tj.composite(lambda x: x * tj.arange(float(SIZE)))}[name]

    def run() -> Any:
        x = operands(tj.float32, 1)[0]
        out = made(x).sum()
        out.backward()
        try:
            out.backward()
        except RuntimeError as e:
            return str(e)
        return bits(x.grad)

    one, other = both(run)
    # A region that goes backward by itself, called until it runs as a program.
    step = tj.compile(run)
    found = [one, other, *(step() for _ in range(5))]
    assert all(("second time" in a) is not again if isinstance(a, str) else again for a in found)
    assert all(a == b if isinstance(a, str) else same_bits(a, b) for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("name", ["softmax", "layer_norm_plain", "gelu", "silu", "glu", "log_softmax", "mish"])
@pytest.mark.parametrize("changed", ["operand", "result"])
def test_changes_in_place(name: str, changed: str) -> None:
    def run() -> Any:
        x, w, b, t = operands(tj.float32, 9)
        read = x * 1.0
        out = COMPOSITES[name](read, w, b, t)
        total = (out * 1.0).sum()
        (read if changed == "operand" else out).detach().mul_(3.0)
        try:
            total.backward()
        except RuntimeError as e:
            # What it says of the shape may be that of the operand or of the part of it that a step saved.
            return str(e).split("[")[0]
        return bits(x.grad)

    one, other = both(run)
    assert one == other if isinstance(one, str) else same_bits(one, other)
    keeps = ("layer_norm_plain", "gelu", "silu", "glu", "mish")
    assert isinstance(one, str) is (changed == "operand" and name in keeps)


def test_what_is_computed_again_is_not_taken_from_changed_memory() -> None:
    # The gradient of the gate needs the other half, which is kept, and the sigmoid, which is computed again.
    with built(-1):
        x = operands(tj.float32, 9)[0]
        read = x * 1.0
        out = F.silu(read)
        read.detach().mul_(3.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            tj.autograd.grad(out.sum(), read, create_graph=True)


def test_a_result_that_the_gradient_needs() -> None:
    def run() -> Any:
        x = operands(tj.float32, 9)[0]
        out = x.var(1, keepdim=True).std(0)
        copied = out * 1.0
        out.detach().mul_(2.0)
        try:
            copied.sum().backward()
        except RuntimeError as e:
            return str(e)
        return bits(x.grad)

    one, other = both(run)
    assert one == other if isinstance(one, str) else same_bits(one, other)


def test_one_tensor_for_two_operands() -> None:
    def run() -> list[np.ndarray]:
        x = tj.tensor(np.random.default_rng(0).standard_normal(SIZE), requires_grad=True)
        F.layer_norm(x, (SIZE,), x, x).sum().backward()
        return [bits(x.grad)]

    one, other = both(run)
    assert all(map(same_bits, one, other))


def test_without_gradients_there_is_no_step() -> None:
    x, w, b, _ = operands(tj.float32, 0)
    with built(-1):
        with tj.no_grad():
            out = F.layer_norm(x, (SIZE,), w, b)
        assert out._node is None
        assert not out.requires_grad
        assert F.layer_norm(x, (SIZE,), w, b).requires_grad
        assert step(F.layer_norm(x.detach(), (SIZE,), w.detach(), b)) is FusedStep


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "gelu", "cross_entropy", "glu"])
def test_operands_and_gradients_of_any_layout(name: str) -> None:
    def run() -> list[np.ndarray]:
        found = []
        base = tj.tensor(np.random.default_rng(0).standard_normal((SIZE, ROWS)), requires_grad=True)
        wide = tj.tensor(np.random.default_rng(1).standard_normal((ROWS, 2 * SIZE)), requires_grad=True)
        for x in (base.T, wide[:, ::2], base.flip(0).T):
            _, w, b, t = operands(tj.float64, 0)
            base.grad = wide.grad = None
            out = COMPOSITES[name](x, w, b, t)
            # The gradient that comes back is spread from one number, then turned.
            out.sum().backward(retain_graph=True)
            if out.ndim == 2:
                (out.T * tj.arange(ROWS)).sum().backward()
            found += [bits(out), bits((base if base.grad is not None else wide).grad)]
        return found

    one, other = both(run)
    assert all(map(same_bits, one, other))


def test_other_numbers_are_other_programs() -> None:
    def run() -> list[np.ndarray]:
        x = operands(tj.float32, 4)[0]
        return [
            bits(F.celu(x, alpha)) for alpha in (1.0, 2.0, 0.5, 1.0)
        ] + [bits(F.hardtanh(x, low, 1.0)) for low in (-0.0, 0.0, -1.0)]  # fmt: skip

    one, other = both(run)
    assert all(map(same_bits, one, other))


def test_a_class_out_of_range() -> None:
    x = operands(tj.float32, 4)[0]
    with built(-1):
        F.cross_entropy(x, tj.zeros(ROWS, dtype=tj.int64))
        with pytest.raises(IndexError):
            F.cross_entropy(x, tj.full((ROWS,), SIZE, dtype=tj.int64))


def test_composites_that_are_made_of_others_or_of_lookups_are_none() -> None:
    @composite
    def inner(x: tj.Tensor) -> Any:
        return x * 2.0

    @composite
    def outer(x: tj.Tensor) -> Any:
        return inner(x) + 1.0

    @composite
    def sums(x: tj.Tensor, reads: int) -> Any:
        return x.cumsum(reads % 2) if reads else x.exp() * 2.0

    x = tj.ones(3, 3)
    with built(-1):
        outer(x)
        assert inner.whole
        assert not outer.whole
        for reads in (1, 2, 3):
            sums(x, reads)
        assert sums.whole
        sums(x, 4)
        assert not sums.whole


def test_kinds_of_operands_are_judged_by_themselves() -> None:
    @composite
    def sums(x: tj.Tensor, reads: int) -> Any:
        return x.cumsum(reads % 2) if reads else x.exp() * 2.0

    x = tj.ones(3, 3, requires_grad=True)
    with built(-1):
        assert step(sums(x, 1)) is TapeNode
        assert step(sums(x, 0)) is FusedStep
        for reads in range(1, 9):
            sums(x, reads)
        assert step(sums(x, 0)) is FusedStep


def saved_bytes(out: tj.Tensor, given: list[tj.Tensor]) -> int:
    """The memory that the steps of a tape keep, beside the operands."""
    seen: dict[int, Any] = {}
    stack = [out._node]
    done = set()
    while stack:
        node = stack.pop()
        if node in done:
            continue
        done.add(node)
        if type(node) is FusedStep:
            seen |= {id(array): array for array in node.values or ()}
            stack.extend(e[0] for e in node.sources if type(e) is tuple)
            continue
        for t, _ in (*[entry for entry in node.saved if entry is not None], *node.results):
            if isinstance(t, tj.Tensor):
                array = (t if t._base is None else t._base)._array
                seen[id(array)] = array
        stack.extend(e[0] for e in node.edges if type(e) is tuple)
    return sum(array.nbytes for array in seen.values() if all(array is not t._array for t in given))


@pytest.mark.parametrize("kind", [tj.float32, tj.bfloat16], ids=str)
@pytest.mark.parametrize("name", COMPOSITES)
def test_no_more_memory_is_kept(name: str, kind: Any) -> None:
    def run() -> int:
        x, w, b, t = operands(kind, 2)
        return saved_bytes(COMPOSITES[name](x, w, b, t), [x, w, b, t])

    one, other = both(run)
    assert other <= one


def test_two_threads_may_build_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    x = operands(tj.float32, 0)[0]
    meeting, drawing = threading.Barrier(2), fused.Drawing
    found: list[Any] = []

    def draw(*args: Any) -> Any:
        meeting.wait(60)
        return drawing(*args)

    def work() -> None:
        try:
            found.append(step(F.softmax(x, 1)))
        except Exception as error:
            found.append(error)

    monkeypatch.setattr(fused, "Drawing", draw)
    with built(-1):
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [FusedStep, FusedStep]


def test_threads() -> None:
    with built(-1):
        expected = trained(COMPOSITES["layer_norm"], tj.float32, 0)
        wrong: list[Any] = []

        def work() -> None:
            for _ in range(30):
                found = trained(COMPOSITES["layer_norm"], tj.float32, 0)
                if not all(map(same_bits, found, expected)):
                    wrong.append(found)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_region_sees_the_operations() -> None:
    def run() -> list[np.ndarray]:
        x, w, b, _ = operands(tj.float32, 8)
        grads = []

        @tj.compile
        def back(out: tj.Tensor) -> tj.Tensor:
            (out * 2.0).sum().backward()
            return F.softmax(out, 1)

        for _ in range(5):
            x.grad = w.grad = b.grad = None
            last = back(F.layer_norm(x, (SIZE,), w, b))
            grads += [bits(last), *[bits(leaf.grad) for leaf in (x, w, b)]]
        return grads

    one, other = both(run)
    assert all(map(same_bits, one, other))


def test_a_changed_default_type_is_another_program() -> None:
    def run() -> list[np.ndarray]:
        x = operands(tj.float32, 8)[0]
        found = [bits(F.softplus(x))]
        tj.set_default_dtype(tj.float64)
        try:
            found.append(bits(F.softplus(x)))
        finally:
            tj.set_default_dtype(tj.float32)
        return found

    one, other = both(run)
    assert all(map(same_bits, one, other))
