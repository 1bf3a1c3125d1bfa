"""Automatic casting against PyTorch's on the CPU: which type each operation takes and gives, nested, kept casts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tracejit as tj

torch = pytest.importorskip("torch")

SHORT = ("bfloat16", "float16")


def operands(t: Any, *shapes: tuple[int, ...], kind: str = "float32", grad: bool = False) -> list[Any]:
    rng = np.random.default_rng(3)
    made = [t.tensor(rng.uniform(0.1, 0.9, s).astype(np.float32).tolist()).to(getattr(t, kind)) for s in shapes]
    return [x.requires_grad_() for x in made] if grad else made


def name(x: Any) -> str:
    return str(x.dtype).split(".")[1]


CALLS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "matmul": (lambda t, a, b: a @ b, ((3, 4), (4, 2))),
    "stacked matmul": (lambda t, a, b: t.matmul(a, b), ((2, 3, 4), (4, 2))),
    "mm": (lambda t, a, b: a.mm(b), ((3, 4), (4, 2))),
    "bmm": (lambda t, a, b: t.bmm(a, b), ((2, 3, 4), (2, 4, 2))),
    "mv": (lambda t, a, b: t.mv(a, b), ((3, 4), (4,))),
    "dot": (lambda t, a, b: t.dot(a, b), ((4,), (4,))),
    "addmm": (lambda t, c, a, b: t.addmm(c, a, b, beta=2, alpha=3), ((3, 2), (3, 4), (4, 2))),
    "baddbmm": (lambda t, c, a, b: t.baddbmm(c, a, b), ((2, 3, 2), (2, 3, 4), (2, 4, 2))),
    "einsum": (lambda t, a, b: t.einsum("ij,jk->ki", a, b), ((3, 4), (4, 2))),
    "einsum of one": (lambda t, a: t.einsum("ij->ji", a), ((3, 4),)),
    "linear": (lambda t, x, w, b: t.nn.functional.linear(x, w, b), ((3, 4), (2, 4), (2,))),
    "conv1d": (lambda t, x, w: t.nn.functional.conv1d(x, w), ((2, 3, 8), (4, 3, 3))),
    "conv2d": (lambda t, x, w, b: t.nn.functional.conv2d(x, w, b), ((2, 3, 8, 8), (4, 3, 3, 3), (4,))),
    "conv_transpose2d": (lambda t, x, w: t.nn.functional.conv_transpose2d(x, w), ((2, 3, 4, 4), (3, 4, 3, 3))),
    "attention": (
        lambda t, q, k, v: t.nn.functional.scaled_dot_product_attention(q, k, v),
        ((2, 2, 5, 4), (2, 2, 6, 4), (2, 2, 6, 4)),
    ),
    "prelu": (lambda t, x, w: t.nn.functional.prelu(x, w), ((2, 3), (3,))),
    "mse_loss": (lambda t, x, y: t.nn.functional.mse_loss(x, y), ((3, 4), (3, 4))),
    "l1_loss": (lambda t, x, y: t.nn.functional.l1_loss(x, y), ((3, 4), (3, 4))),
    "smooth_l1_loss": (lambda t, x, y: t.nn.functional.smooth_l1_loss(x, y), ((3, 4), (3, 4))),
    "huber_loss": (lambda t, x, y: t.nn.functional.huber_loss(x, y), ((3, 4), (3, 4))),
    "kl_div": (lambda t, x, y: t.nn.functional.kl_div(x, y, reduction="sum"), ((3, 4), (3, 4))),
    "binary_cross_entropy": (lambda t, x, y: t.nn.functional.binary_cross_entropy(x, y), ((3, 4), (3, 4))),
    "with_logits": (lambda t, x, y: t.nn.functional.binary_cross_entropy_with_logits(x, y), ((3, 4), (3, 4))),
    "cross_entropy": (lambda t, x: t.nn.functional.cross_entropy(x, t.tensor([0, 3, 1])), ((3, 4),)),
    "nll_loss": (lambda t, x: t.nn.functional.nll_loss(x, t.tensor([0, 3, 1])), ((3, 4),)),
    "margin_ranking": (lambda t, *x: t.nn.functional.margin_ranking_loss(*x), ((3, 4), (3, 4), (3, 4))),
    "hinge_embedding": (lambda t, *x: t.nn.functional.hinge_embedding_loss(*x), ((3, 4), (3, 4))),
    "cosine_embedding": (lambda t, *x: t.nn.functional.cosine_embedding_loss(*x), ((3, 4), (3, 4), (3,))),
    "triplet_margin": (lambda t, *x: t.nn.functional.triplet_margin_loss(*x), ((3, 4), (3, 4), (3, 4))),
    "soft_margin": (lambda t, *x: t.nn.functional.soft_margin_loss(*x), ((3, 4), (3, 4))),
    "multilabel": (lambda t, *x: t.nn.functional.multilabel_soft_margin_loss(*x), ((3, 4), (3, 4))),
    "multi_margin": (lambda t, x: t.nn.functional.multi_margin_loss(x, t.tensor([0, 3, 1])), ((3, 4),)),
    "poisson_nll": (lambda t, *x: t.nn.functional.poisson_nll_loss(*x), ((3, 4), (3, 4))),
    "gaussian_nll": (lambda t, *x: t.nn.functional.gaussian_nll_loss(*x), ((3, 4), (3, 4), (3, 4))),
    "prod": (lambda t, x: x.prod(), ((3, 4),)),
    "cdist": (lambda t, x, y: t.cdist(x, y), ((3, 4), (2, 4))),
    "add": (lambda t, x, y: x + y, ((3, 4), (3, 4))),
    "softmax": (lambda t, x: x.softmax(-1), ((3, 4),)),
    "log_softmax": (lambda t, x: t.nn.functional.log_softmax(x, -1), ((3, 4),)),
    "layer_norm": (lambda t, x: t.nn.functional.layer_norm(x, (4,)), ((3, 4),)),
    "exp": (lambda t, x: x.exp(), ((3, 4),)),
    "sum": (lambda t, x: x.sum(), ((3, 4),)),
    "mean": (lambda t, x: x.mean(0), ((3, 4),)),
    "relu": (lambda t, x: x.relu(), ((3, 4),)),
    "gelu": (lambda t, x: t.nn.functional.gelu(x), ((3, 4),)),
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("given", ["float32", "bfloat16", "float64"])
def test_types_and_values_are_those_of_torch(what: str, given: str) -> None:
    call, shapes = CALLS[what]
    for short in SHORT:
        if given == "bfloat16" and short == "float16":
            continue
        found = []
        for t in (torch, tj):
            with t.autocast("cpu", dtype=getattr(t, short)):
                found.append(call(t, *operands(t, *shapes, kind=given)))
        expected, ours = found
        assert name(ours) == name(expected), short
        # A product that is rounded twice may be off by one place of bfloat16.
        tolerance = 2e-2 if "float16" in name(ours) else 1e-2
        np.testing.assert_allclose(ours.double().numpy(), expected.double().numpy(), rtol=tolerance, atol=tolerance)


def test_joined_tensors_take_the_widest_type() -> None:
    for join in ("cat", "stack"):
        for kinds in (("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("float64", "bfloat16")):
            found = []
            for t in (torch, tj):
                xs = [t.ones(2, 3, dtype=getattr(t, k)) for k in kinds]
                with t.autocast("cpu", dtype=t.bfloat16):
                    found.append(name(getattr(t, join)(xs)))
            assert found[0] == found[1], kinds


def blocks(t: Any) -> Iterator[Any]:
    """What a program asks and computes inside of nested blocks."""
    a, b = operands(t, (3, 4), (4, 2))
    yield t.is_autocast_enabled("cpu"), name(a @ b)
    with t.autocast("cpu"):
        yield t.is_autocast_enabled("cpu"), name(a @ b), name((a @ b).float() @ b.t().float())
        with t.autocast("cpu", enabled=False):
            yield t.is_autocast_enabled("cpu"), name(a @ b)
            with t.amp.autocast("cpu", dtype=t.float16):
                yield str(t.get_autocast_dtype("cpu")).split(".")[1], name(a @ b)
            yield t.is_autocast_enabled("cpu"), name(a @ b)
        yield name(a @ b), t.is_autocast_cache_enabled()
        with t.autocast("cpu", cache_enabled=False):
            yield t.is_autocast_cache_enabled()
    yield t.is_autocast_enabled("cpu"), name(a @ b), t.is_autocast_cache_enabled()
    block = t.autocast("cpu")
    for _ in range(2):
        with block:
            yield name(a @ b)
    yield name(a @ b)
    try:
        with t.autocast("cpu"):
            raise KeyError("left by an exception")
    except KeyError:
        yield t.is_autocast_enabled("cpu")

    @t.autocast("cpu", dtype=t.bfloat16)
    def inside(x: Any) -> Any:
        """A product."""
        return x @ b

    yield name(inside(a)), inside.__doc__, name(a @ b)
    t.set_autocast_dtype("cpu", t.float16)
    with t.autocast("cpu"):
        yield name(a @ b)
    t.set_autocast_dtype("cpu", t.bfloat16)
    t.set_autocast_enabled("cpu", True)
    yield name(a @ b), t.is_autocast_enabled("cpu")
    t.set_autocast_enabled("cpu", False)
    yield name(a @ b)


def test_nested_disabled_and_decorating_blocks() -> None:
    assert list(blocks(tj)) == list(blocks(torch))


def test_a_type_that_is_not_short_turns_it_off() -> None:
    for t in (torch, tj):
        with pytest.warns(UserWarning, match="CPU autocast, but the target dtype"):
            block = t.autocast("cpu", dtype=t.float32)
        with block:
            assert name(t.ones(2, 2) @ t.ones(2, 2)) == "float32"


def trained(t: Any, twice: bool) -> list[Any]:
    x, w, b = operands(t, (5, 4), (3, 4), (3,), grad=True)
    with t.autocast("cpu"):
        h = t.nn.functional.linear(x, w, b)
        out = t.nn.functional.linear(h.relu(), w.t(), None) if twice else h
        loss = t.nn.functional.mse_loss(out, t.zeros_like(out))
    loss.backward()
    return [loss, *(p.grad for p in (x, w, b) if p.grad is not None)]


@pytest.mark.parametrize("twice", [False, True])
def test_gradients_have_the_types_of_what_was_cast(twice: bool) -> None:
    for ours, expected in zip(trained(tj, twice), trained(torch, twice), strict=True):
        assert name(ours) == name(expected) == "float32"
        np.testing.assert_allclose(ours.detach().numpy(), expected.detach().numpy(), rtol=3e-2, atol=3e-3)


def test_casts_of_weights_are_kept_until_the_outermost_block_ends() -> None:
    w, x = tj.ones(3, 3, requires_grad=True), tj.ones(3, 3)
    seen: list[Any] = []

    def shared() -> Any:
        node = (x @ w).grad_fn.next_functions[1][0]
        seen.append(node)
        return node

    with tj.autocast("cpu"):
        first = shared()
        with tj.autocast("cpu"):
            assert shared() is first
        assert shared() is first
        tj.clear_autocast_cache()
        assert shared() is not first
        with tj.no_grad():
            assert not (x @ w).requires_grad
        assert (x @ w).requires_grad
        with tj.autocast("cpu", cache_enabled=False):
            assert shared() is not seen[-2]
    with tj.autocast("cpu"):
        assert shared() is not first


def step(model: Any, optimizer: Any, around: bool) -> Callable[..., Any]:
    def inner(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        with tj.autocast("cpu", enabled=not around):
            loss = tj.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return inner


def run(mode: str | None, around: bool, cell: bool) -> list[bytes]:
    tj.manual_seed(0)
    if cell:
        class Net(tj.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell, self.out = tj.nn.LSTM(6, 8, batch_first=True), tj.nn.Linear(8, 3)

            def forward(self, x: Any) -> Any:
                return self.out(self.cell(x.reshape(10, 2, 6))[0][:, -1])

        model: Any = Net()
    else:
        model = tj.nn.Sequential(tj.nn.Linear(12, 16), tj.nn.GELU(), tj.nn.LayerNorm(16), tj.nn.Linear(16, 3))
    optimizer = tj.optim.AdamW(model.parameters(), lr=0.05)
    f = step(model, optimizer, around)
    f = f if mode is None else tj.compile(f, mode=mode)
    losses = []
    x, y = tj.randn(10, 12), tj.arange(10) % 3
    for _ in range(6):
        if around:
            with tj.autocast("cpu"):
                losses.append(f(x, y).detach())
        else:
            losses.append(f(x, y).detach())
    return [t.detach().numpy().tobytes() for t in (*losses, *model.parameters())]


@pytest.mark.parametrize("cell", [False, True])
def test_compiled_steps_have_the_bits_of_eager(cell: bool) -> None:
    assert run("replay", False, cell) == run(None, False, cell)


def test_a_block_around_a_compiled_function_is_seen_by_it() -> None:
    assert run("follow", True, False) == run("auto", True, False) == run(None, True, False)


def test_a_block_that_is_off_around_a_compiled_function_keeps_its_casts() -> None:
    """The outermost block ends behind several calls, so that a weight's cast outlives each of them, as in torch."""
    found = []
    for t, wrap in ((torch, lambda f: f), (tj, lambda f: f), (tj, tj.compile)):
        w, x = t.ones(2, 2, requires_grad=True), t.ones(2, 2)

        def f(x: Any, t: Any = t, w: Any = w) -> Any:
            with t.autocast("cpu"):
                return (x @ w).sum()

        run, seen = wrap(f), []
        for _ in range(3):
            for _ in range(3):
                seen.append(run(x).item())
            with t.autocast("cpu", enabled=False):
                for _ in range(3):
                    seen.append(run(x).item())
                    with t.no_grad():
                        w += 1
        found.append(seen)
    assert found[0] == found[1] == found[2]


def test_a_replay_knows_whether_a_block_is_around_it() -> None:
    f = tj.compile(lambda a, b: a @ b)
    a, b = tj.ones(3, 4), tj.ones(4, 2)
    for _ in range(5):
        assert f(a, b).dtype is tj.float32
    with tj.autocast("cpu"):
        for _ in range(3):
            assert f(a, b).dtype is tj.bfloat16
    assert f(a, b).dtype is tj.float32


def test_a_replay_knows_the_type_that_blocks_take() -> None:
    @tj.compile
    def f(a: Any, b: Any) -> Any:
        with tj.autocast("cpu"):
            return a @ b

    a, b = tj.ones(3, 4), tj.ones(4, 2)
    for _ in range(5):
        assert f(a, b).dtype is tj.bfloat16
    tj.set_autocast_dtype("cpu", tj.float16)
    try:
        assert f(a, b).dtype is tj.float16
    finally:
        tj.set_autocast_dtype("cpu", tj.bfloat16)
    assert f(a, b).dtype is tj.bfloat16


def test_what_leaves_the_tree_inside_of_a_block_is_repeated_as_it_was() -> None:
    """The part of a segment that was matched outside of the block is computed without it."""
    flags: list[bool] = []

    def f(x: Any, w: Any, b: Any) -> Any:
        h = tj.nn.functional.linear(x, w, b)
        with tj.autocast("cpu"):
            out = tj.nn.functional.linear(h, w, b)
            return out.relu() if flags[-1] else out.tanh()

    g = tj.compile(f)
    x, w, b = tj.randn(4, 3), tj.randn(3, 3), tj.randn(3)
    for flag in (True, True, True, True, False, False, False, True):
        flags.append(flag)
        expected, found = f(x, w, b), g(x, w, b)
        assert found.dtype is expected.dtype is tj.bfloat16
        assert found.float().numpy().tobytes() == expected.float().numpy().tobytes()
