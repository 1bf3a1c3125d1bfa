"""Random programs of views, detached tensors, changes in place and gradients, eagerly and compiled: equal in every bit.

What `test_random_programs.py` seldom meets: memory that several tensors show, with a history that changes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import pytest

import tracejit as tj
from tests.trace.values import bits

COUNT = int(os.environ.get("TRACEJIT_RANDOM_PROGRAMS", "300"))
CALLS = 5

VIEWS = {
    "T": lambda x, k: x.transpose(0, -1) if x.ndim else x.reshape(1),
    "select": lambda x, k: x[k % len(x)] if x.ndim and len(x) else None,
    "slice": lambda x, k: (x[k % 2 :] if k % 3 else x[..., :1]) if x.ndim else None,
    "reshape": lambda x, k: x.reshape(-1),
    "unsqueeze": lambda x, k: x.unsqueeze(k % (x.ndim + 1)),
    "expand": lambda x, k: x.unsqueeze(0).expand(2, *x.shape),
    "detach": lambda x, k: x.detach(),
    "diagonal": lambda x, k: x.diagonal(k % 2) if x.ndim > 1 else None,
    "unfold": lambda x, k: x.unfold(0, min(len(x), 1 + k % 3), 1 + k % 2) if x.ndim and len(x) else None,
    "chunk": lambda x, k: x.chunk(2, 0)[k % 2] if x.ndim and len(x) > 1 else None,
}
CHANGES = {
    "mul_": lambda x, y, k: x.mul_(0.5),
    "add_": lambda x, y, k: x.add_(y),
    "sub_": lambda x, y, k: x.sub_(y),
    "copy_": lambda x, y, k: x.copy_(y),
    "zero_": lambda x, y, k: x.zero_(),
    "relu_": lambda x, y, k: x.relu_(),
    "sigmoid_": lambda x, y, k: x.sigmoid_(),
    "set": lambda x, y, k: x.__setitem__(k % max(len(x), 1), y if k % 3 else -1.5),
}
RESULTS = {
    "mul": lambda x, y, k: x * y if k % 2 else x * 2.0,
    "add": lambda x, y, k: x + y if k % 2 else x + 0.5,
    "exp": lambda x, y, k: tj.exp(x * 0.1),
    "square": lambda x, y, k: x * x,
    "where": lambda x, y, k: tj.where(x > 0, x, y),
    "cat": lambda x, y, k: tj.cat([x.reshape(-1), y.reshape(-1)]),
    "matmul": lambda x, y, k: x @ y,
    "sum": lambda x, y, k: x.sum() if k % 2 or not x.ndim else x.sum(0),
}
OTHERS = ("read", "asked", "backward", "changed without gradients", "looked at without gradients")
REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError)


def drawn(seed: int) -> tuple[list[tuple[str, int, int, int]], int]:
    """A program, and which of its two arguments require gradients."""
    rng = random.Random(seed)
    kinds = rng.choices([VIEWS, CHANGES, RESULTS, OTHERS], [38, 32, 20, 10], k=rng.randrange(3, 11))
    return [(rng.choice(list(kind)), *(rng.randrange(100) for _ in range(3))) for kind in kinds], rng.randrange(4)


class Program:
    """Runs the instructions on a pool of tensors; `log` is what it saw beside them."""

    def __init__(self, instructions: list[tuple[str, int, int, int]]) -> None:
        self.instructions = instructions
        self.log: list[Any] = []

    def run(self, *leaves: tj.Tensor) -> list[tj.Tensor]:
        pool = list(leaves)
        for name, a, b, k in self.instructions:
            try:
                out = self._step(name, pool[a % len(pool)], pool[b % len(pool)], k)
            except REFUSALS as e:
                self.log.append(type(e).__name__)
                if name not in VIEWS and name not in RESULTS:
                    return pool
                continue
            if out is not None:
                pool.append(out)
        total = sum(((t * t).sum() for t in pool[2:] if t.requires_grad), tj.zeros(()))
        try:
            total.backward()
        except RuntimeError:
            self.log.append("no gradients")
        return pool

    def _step(self, name: str, x: tj.Tensor, y: tj.Tensor, k: int) -> tj.Tensor | None:
        if name in VIEWS:
            return VIEWS[name](x, k)
        if name in RESULTS:
            return RESULTS[name](x, y, k)
        if name in CHANGES:
            CHANGES[name](x, y, k)
        elif name == "read":
            self.log.append(x.detach().sum().item())
        elif name == "asked":
            self.log.append((x.requires_grad, x.is_leaf, x.grad_fn is None)[k % 3])
        elif name == "backward":
            x.sum().backward(retain_graph=bool(k % 2))
        else:
            with tj.no_grad():
                if name == "looked at without gradients":
                    return x * 0.5
                x.mul_(2.0)
        return None


@pytest.mark.parametrize("first", range(0, COUNT, 50))
def test_compiled_equals_eager(first: int, request: pytest.FixtureRequest) -> None:
    first += int(request.config.getoption("--hypothesis-seed") or 0)
    for seed in range(first, first + 50):
        compare(seed)


@pytest.mark.parametrize("seed", [424624, 779237, 779249])
def test_programs_that_once_differed(seed: int) -> None:
    compare(seed)


def compare(seed: int) -> None:
    """A program, called several times eagerly and compiled."""
    instructions, mask = drawn(seed)
    assert_equal(seed, mask, Program(instructions), Program(instructions), 2, [{}] * CALLS)


def assert_equal(
    seed: int, mask: int, plain: Program, traced: Program, rows: int, calls: Sequence[dict[str, Any]]
) -> None:
    """Two programs of the same instructions, one compiled, called with what each call sets of them."""
    compiled = tj.compile(traced.run)
    for call, given in enumerate(calls):
        seen = []
        for program, run in ((plain, plain.run), (traced, compiled)):
            vars(program).update(given)
            tj.manual_seed(seed + call)
            leaves = [tj.randn(rows, 3), tj.randn(3)]
            for k, leaf in enumerate(leaves):
                leaf.requires_grad_(bool(mask >> k & 1))
            pool = run(*leaves)
            seen.append((bits(pool), [t.requires_grad for t in pool], [bits(t.grad) for t in leaves]))
        assert (seen[0], plain.log) == (seen[1], traced.log), f"program {seed}, call {call}: {plain.instructions}"
