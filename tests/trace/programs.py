"""Random programs: lists of instructions over a pool of tensors, with Python state beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import tracejit as tj
from tracejit.nn import functional as F

SHAPES = [(), (3,), (4, 3), (1, 3), (2, 4, 3), (0, 3), (5, 1)]
DTYPES = [tj.float32, tj.float32, tj.float32, tj.float64, tj.int64, tj.bool, tj.float16, tj.bfloat16]

UNARY = ["exp", "tanh", "sigmoid", "neg", "abs", "sin", "sqrt", "relu", "floor", "sign", "log1p", "erf", "square"]
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum", "eq", "lt", "pow"]
REDUCTIONS = ["sum", "mean", "amax", "amin", "prod", "var", "any", "argmax", "logsumexp", "cumsum", "cumprod"]
VIEWS = ["T", "flatten", "unsqueeze", "slice", "flip", "expand", "select", "reverse_reshape"]
IN_PLACE = ["add_", "mul_", "tanh_", "copy_", "setitem", "view_add_", "fill_", "clamp_"]
JOINS = ["cat", "stack", "where", "matmul", "outer", "linear"]
COMPOSITES = ["softmax", "log_softmax", "layer_norm", "gelu", "dropout"]
INDEXING = ["take", "gather", "mask", "index_list", "scatter_add", "one_hot"]
PYTHON = ["branch", "append", "count", "loop", "number", "read", "exception", "detach", "clone", "noise", "cast"]
PYTHON += ["best"]
GRADIENT = ["backward", "grad", "no_grad", "double"]

KINDS = [UNARY, BINARY, REDUCTIONS, VIEWS, IN_PLACE, JOINS, COMPOSITES, INDEXING, PYTHON, GRADIENT]


@dataclass(frozen=True)
class Instruction:
    """What to do, with which members of the pool, and numbers to choose details by."""

    name: str
    a: int
    b: int
    k: int
    x: float


instructions = st.builds(
    Instruction,
    st.sampled_from(KINDS).flatmap(st.sampled_from),
    st.integers(0, 7),
    st.integers(0, 7),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.5, -1.5, 2.0, 1e-3]),
)

programs = st.tuples(
    st.lists(instructions, min_size=1, max_size=10),
    st.lists(st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.booleans()), min_size=1, max_size=3),
    st.integers(0, 2**16),
)


looks = st.builds(
    Instruction,
    st.sampled_from(["branch", "read", "best", "best"]),
    st.integers(0, 7),
    st.integers(0, 7),
    st.integers(0, 5),
    st.just(0.0),
)


def interrupted(program: Any, reads: list[Instruction]) -> Any:
    """The program with instructions that look at values among the others, and without those that are never replayed."""
    steps, inputs, seed = program
    steps = [step for step in steps if step.name not in ("exception", "mask", "index_list", "one_hot", "append")]
    for k, read in enumerate(reads):
        steps.insert(min(len(steps), 1 + 3 * k + read.k % 2), read)
    return steps, inputs, seed


interrupted_programs = st.builds(interrupted, programs, st.lists(looks, min_size=1, max_size=3))


def quiet(program: Any) -> Any:
    """The program without the instructions that raise: exceptions keep calls from being replayed."""
    steps, inputs, seed = program
    raised = Machine(program).failing()
    return [step for place, step in enumerate(steps) if place not in raised], inputs, seed


class Machine:
    """Runs a program; what it keeps from call to call is `log`, `count`, `best`, the leaves and its generator."""

    def __init__(self, program: Any) -> None:
        self.instructions, self.inputs, self.seed = program
        rng = np.random.default_rng(self.seed)
        self.leaves = [tj.from_numpy(rng.standard_normal((4, 3)).astype(np.float32)) for _ in range(2)]
        for leaf in self.leaves:
            leaf.requires_grad_()
        self.log: list[Any] = []
        self.count = 0
        self.best = 0.0
        self.generator = tj.Generator().manual_seed(self.seed)

    def arguments(self, call: int) -> list[tj.Tensor]:
        """The tensors of a call: the same shapes, other values. What was logged long ago is forgotten."""
        del self.log[:-6]
        rng = np.random.default_rng(self.seed + 1000 * (call + 1))
        out = []
        for shape, dtype, requires_grad in self.inputs:
            t = tj.from_numpy(np.asarray(rng.standard_normal(shape) * 2).astype(dtype.np))
            if requires_grad and dtype.is_floating_point:
                t.requires_grad_()
            out.append(t)
        return out

    def run(self, *args: tj.Tensor) -> Any:
        """One call."""
        pool: list[Any] = [*args, *self.leaves]
        for step in self.instructions:
            a, b = pool[step.a % len(pool)], pool[step.b % len(pool)]
            try:
                out = self.step(step, a, b)
            except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as e:
                self.log.append(type(e).__name__)
                continue
            if isinstance(out, tj.Tensor):
                pool.append(out)
        return pool[len(args) + 2 :]

    def failing(self) -> set[int]:
        """The places of instructions that raise in a first call."""
        before = len(self.log)
        raised: set[int] = set()
        pool: list[Any] = [*self.arguments(0), *self.leaves]
        for place, step in enumerate(self.instructions):
            a, b = pool[step.a % len(pool)], pool[step.b % len(pool)]
            try:
                out = self.step(step, a, b)
            except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
                raised.add(place)
                continue
            if isinstance(out, tj.Tensor):
                pool.append(out)
        del self.log[before:]
        return raised

    def step(self, step: Instruction, a: Any, b: Any) -> Any:
        """One instruction."""
        name, k, x = step.name, step.k, step.x
        if name in UNARY:
            return getattr(tj, name)(a) if name != "relu" else F.relu(a)
        if name in BINARY:
            return getattr(tj, name)(a, b if k % 3 else x)
        if name in REDUCTIONS:
            if name in ("logsumexp", "cumsum", "cumprod"):
                return getattr(a, name)(k % max(a.ndim, 1))
            if k % 2 or a.ndim == 0:
                return getattr(a, name)()
            return getattr(a, name)(dim=k % a.ndim, keepdim=bool(k % 3))
        if name in VIEWS:
            return self.view(name, a, k)
        if name in IN_PLACE:
            return self.in_place(name, a, b, k, x)
        if name in JOINS:
            return self.join(name, a, b, k)
        if name in COMPOSITES:
            return self.composite(name, a, k, x)
        if name in INDEXING:
            return self.index(name, a, k)
        if name in GRADIENT:
            return self.gradient(name, a, b)
        return self.python(name, a, b, k, x)

    def view(self, name: str, a: Any, k: int) -> Any:
        if name == "T":
            return a.transpose(0, -1) if a.ndim else a
        if name == "flatten":
            return a.reshape(-1)
        if name == "unsqueeze":
            return a.unsqueeze(k % (a.ndim + 1))
        if name == "slice":
            return a[k % 2 :: 1 + k % 2]
        if name == "flip":
            return a.flip(0)
        if name == "expand":
            return a.expand(2, *a.shape)
        if name == "select":
            return a[k % max(len(a), 1)]
        return a.reshape(tuple(reversed(a.shape)))

    def in_place(self, name: str, a: Any, b: Any, k: int, x: float) -> Any:
        if name == "setitem":
            a[k % max(len(a), 1)] = x
        elif name == "view_add_":
            a.reshape(-1).add_(x)
        elif name == "copy_":
            a.copy_(b)
        elif name == "fill_":
            a.fill_(x)
        elif name == "clamp_":
            a.clamp_(-1, x)
        elif name == "tanh_":
            a.tanh_()
        else:
            getattr(a, name)(b if k % 2 else x)
        return a if k % 3 == 0 else None

    def join(self, name: str, a: Any, b: Any, k: int) -> Any:
        if name == "cat":
            return tj.cat([a, b, a], k % max(a.ndim, 1))
        if name == "stack":
            return tj.stack([a, b], k % (a.ndim + 1))
        if name == "where":
            return tj.where(a > 0, a, b)
        if name == "matmul":
            return a @ (b if k % 2 else b.transpose(-1, -2))
        if name == "outer":
            return tj.outer(a.reshape(-1), b.reshape(-1))
        return F.linear(a, b)

    def composite(self, name: str, a: Any, k: int, x: float) -> Any:
        if name == "layer_norm":
            return F.layer_norm(a, a.shape[-1:])
        if name == "gelu":
            return F.gelu(a, approximate="tanh" if k % 2 else "none")
        if name == "dropout":
            tj.manual_seed(k + self.count)
            return F.dropout(a, 0.25 + abs(x) / 8, training=bool(k % 3))
        return getattr(F, name)(a, dim=k % max(a.ndim, 1))

    def index(self, name: str, a: Any, k: int) -> Any:
        if name == "take":
            return a.index_select(0, tj.tensor([0, k % max(len(a), 1), 0]))
        if name == "gather":
            return a.gather(0, (a * k).long().clamp(0, len(a) - 1 if k else 9))
        if name == "mask":
            return a[a > 0]
        if name == "index_list":
            return a[[0, -1, k]]
        if name == "scatter_add":
            return tj.zeros(4).scatter_add(0, tj.tensor([1, k, 1]), a.reshape(-1)[:3])
        return F.one_hot(tj.tensor([k, 0]), 4)

    def gradient(self, name: str, a: Any, b: Any) -> Any:
        if name == "backward":
            a.sum().backward()
            return None
        if name == "grad":
            return tj.autograd.grad(a.sum(), self.leaves[0], allow_unused=True, retain_graph=True)[0]
        if name == "double":
            (g,) = tj.autograd.grad((a * a).sum(), a, create_graph=True)
            return g
        with tj.no_grad():
            return a * 2 + b

    def python(self, name: str, a: Any, b: Any, k: int, x: float) -> Any:
        if name == "branch":
            return a * 2 if a.sum() > 0 else a - 1
        if name == "append":
            self.log.append(a)
        elif name == "count":
            self.count += 1
            return a + self.count
        elif name == "loop":
            out = a
            for i in range(1 + (self.count + k) % 3):
                out = out * 0.5 + i
            return out
        elif name == "number":
            self.count += 1
            return a * (x + self.count * 0.25)
        elif name == "read":
            self.log.append(a.float().sum().item())
        elif name == "best":
            return self.against_best(a, k)
        elif name == "exception":
            a.reshape(7, 7, 7)
        elif name == "detach":
            return a.detach()
        elif name == "clone":
            return a.clone()
        elif name == "noise":
            return a + tj.rand(3, generator=self.generator)
        elif name == "cast":
            return a.to([tj.float32, tj.int64, tj.float64, tj.bool, tj.float16, tj.bfloat16][k])
        return None

    def against_best(self, a: Any, k: int) -> Any:
        """Compare a value with the best so far, which changes; the arms are alike or not."""
        value = a.float().sum().item()
        better = value > self.best if k % 2 else value < self.best * 0.5 + 1
        if better:
            self.best = value
            return None if k < 2 else a * 2
        if k == 5:
            self.best = self.best - 0.5
        return None if k < 4 else a + 1

    def state(self) -> list[Any]:
        """Everything that lives on."""
        return [
            self.leaves,
            [leaf.grad for leaf in self.leaves],
            self.log,
            self.count,
            self.best,
            self.generator.get_state(),
            tj.get_rng_state(),
        ]
