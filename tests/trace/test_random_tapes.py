"""Random programs about gradients: graphs that are walked back behind reads, twice, in part, after changes in place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tracejit as tj
from programs import Instruction, Machine
from test_random_programs import bits
from tracejit.trace import pullback

COUNT = int(os.environ.get("TRACEJIT_RANDOM_PROGRAMS", "300")) // 2
CALLS = 5

OPERATIONS = ["exp", "tanh", "relu", "square", "add", "mul", "sub", "sum", "mean", "matmul", "linear", "softmax"]
MOVES = ["T", "flatten", "slice", "flip", "expand", "select", "cat", "stack", "gather", "take", "clone", "detach"]
LOOKS = ["read", "read", "read", "branch", "append"]
WALKS = ["walk", "walk", "chosen", "chosen", "penalty", "step", "forget"]
CHANGES = ["add_", "mul_", "tanh_", "scaled", "number", "hook", "retain"]

instructions = st.builds(
    Instruction,
    st.sampled_from([OPERATIONS, OPERATIONS, MOVES, LOOKS, WALKS, WALKS, CHANGES]).flatmap(st.sampled_from),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 7),
    st.sampled_from([0.5, -1.5, 2.0]),
)

programs = st.tuples(
    st.lists(instructions, min_size=3, max_size=14),
    st.lists(st.tuples(st.sampled_from([(), (3,), (4, 3)]), st.just(tj.float32), st.booleans()), max_size=2),
    st.integers(0, 2**16),
)


class Tapes(Machine):
    """A machine with more ways to walk a tape back."""

    def step(self, step: Instruction, a: Any, b: Any) -> Any:
        """One instruction."""
        name, k = step.name, step.k
        if name == "walk":
            return (a.sum() if k % 3 else a).backward(
                retain_graph=bool(k % 2), inputs=[b] if k == 7 else None, create_graph=k == 6
            )
        if name == "chosen":
            wanted = [b, self.leaves[k % 2]] if k % 3 else [b]
            found = tj.autograd.grad(
                (a * step.x).sum(), wanted, allow_unused=True, retain_graph=bool(k % 2) or None, create_graph=k > 3
            )
            return next((g for g in found if g is not None), None)
        if name == "penalty":
            (g,) = tj.autograd.grad(a.sum(), self.leaves[k % 2], create_graph=True)
            if k % 3 == 0:
                self.log.append((g * g).sum().item())
            return (g * g).sum() + a.sum()
        if name == "step":
            with tj.no_grad():
                for leaf in self.leaves:
                    if leaf.grad is not None:
                        leaf.sub_(leaf.grad, alpha=0.125)
            return None
        if name == "forget":
            self.leaves[k % 2].grad = None
            return None
        if name == "scaled":
            return a * (1.0 + abs(a.sum().item()) % 1.0)
        if name == "hook":
            if k == 0:
                a.register_hook(lambda g: g * 2)
            return None
        if name == "retain":
            if k == 1:
                a.retain_grad()
            return None
        return super().step(step, a, b)


def walked(results: list[Any]) -> Any:
    """What a caller finds who walks the results back after the call."""
    found = []
    for t in results[::2]:
        if isinstance(t, tj.Tensor) and t.requires_grad:
            try:
                t.sum().backward()
                found.append(t.grad_fn.name() if t.grad_fn is not None else None)
            except RuntimeError as e:
                found.append(str(e))
    return found


@pytest.fixture(autouse=True, scope="module")
def at_once() -> Iterator[None]:
    """A pass that begins outside of the region takes a program wherever there can be one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pullback, "WORK", 0)
        yield


@settings(max_examples=COUNT, suppress_health_check=list(HealthCheck))
@given(programs)
def test_tapes_behind_reads_equal_eager(program: Any) -> None:
    eager, traced = Tapes(program), Tapes(program)
    compiled = tj.compile(traced.run)
    for call in range(CALLS):
        given_eager, given_traced = eager.arguments(call), traced.arguments(call)
        a, b = eager.run(*given_eager), compiled(*given_traced)
        assert bits([a, given_eager, eager.state()]) == bits([b, given_traced, traced.state()]), f"call {call}"
        if call % 2:
            assert walked(a) == walked(b), f"call {call}"
            assert bits([given_eager, eager.leaves]) == bits([given_traced, traced.leaves]), f"call {call}"
