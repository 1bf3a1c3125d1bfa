"""Results of functions are tensors of their own, not views of what the functions made on the way."""

from __future__ import annotations

import pytest

import tracejit as tj
from tests.tensor.fusing import both
from tests.trace.values import arr, bits
from tracejit import composite
from tracejit.nn import functional as F
from tracejit.trace.compiled import region_of

FUNCTIONS = {
    "sum": lambda x: x.sum(0, keepdim=True),
    "mean": lambda x: x.mean(1, keepdim=True),
    "amax": lambda x: x.amax(0, keepdim=True),
    "prod": lambda x: x.prod(0, keepdim=True),
    "norm": lambda x: x.norm(dim=0, keepdim=True),
    "max": lambda x: x.max(0, keepdim=True).values,
    "matmul_vector": lambda x: x @ x[0],
    "vector_matmul": lambda x: x[0] @ x.t(),
    "matmul_stack": lambda x: x[None, None] @ x.t(),
    "matmul_stacks": lambda x: x[None, None] @ x.t()[None, None].expand(2, 3, -1, -1),
    "linear": lambda x: F.linear(x[None], x),
    "embedding": lambda x: F.embedding(tj.tensor([[0, 1]]), x),
    "index": lambda x: x[tj.tensor([[0, 1], [2, 0]])],
    "sort": lambda x: x.sort(0).values,
    "median": lambda x: x.median(),
    "kthvalue": lambda x: x.kthvalue(2).values,
    "repeat": lambda x: x.repeat(2, 2),
    "kron": lambda x: tj.kron(x, x),
    "conv1d": lambda x: F.conv1d(x[None], tj.ones(2, 3, 1)),
    "conv2d": lambda x: F.conv2d(x[None], tj.ones(2, 1, 2, 2)),
    "max_pool1d": lambda x: F.max_pool1d(x[None], 2),
    "max_pool2d": lambda x: F.max_pool2d(x[None], 2),
    "group_norm": lambda x: F.group_norm(x[None], 1),
    "unfold": lambda x: F.unfold(x[None, None], 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x[:, None].expand(3, 4, 4).transpose(0, 1), 2),
    "gather": lambda x: x[0, 0].gather(0, tj.tensor(0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_result_is_changed_in_place(name):
    """Eagerly, and as part of one program."""
    function = FUNCTIONS[name]

    def f(x):
        y = function(x)
        y.mul_(2)
        y += 1
        return y

    x = arr(0, 3, 4)
    assert function(x)._base is None
    expected = bits(function(x) * 2 + 1)
    assert bits(f(x)) == expected
    compiled = tj.compile(f)
    for _ in range(9):
        assert bits(compiled(x)) == expected
    region = region_of(compiled)
    assert region.calls.replayed >= 4, region.prover.obstacles
    assert not any(note.kind == "cut" for note in region.notes)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_go_through_a_change_in_place(name):
    function = FUNCTIONS[name]

    def run(change):
        x = arr(1, 3, 4).requires_grad_()
        try:
            change(function(x)).sum().backward()
        except RuntimeError as e:
            return str(e)[:40]
        return bits(x.grad)

    changed = run(lambda y: y.mul_(3))
    # A gradient that needs the result, such as that of amax, is refused.
    assert changed in (run(lambda y: y * 3), "one of the variables needed for gradient")


def test_what_a_gradient_needs_of_a_result_may_not_change():
    x = arr(0, 3, 4).requires_grad_()
    y = x.amax(0, keepdim=True)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_operands_across_memory_that_a_unit_copies():
    """What a unit keeps is as it made it, however an operand lies: reading it as that lies went beyond its end."""

    def run():
        operands = [arr(k, 16, 16, 4, 16).transpose(1, 2).requires_grad_() for k in range(3)]
        for t in operands:
            assert not t.is_contiguous()
        tj.manual_seed(0)
        out = F.scaled_dot_product_attention(*operands, dropout_p=0.1)
        (out**2).sum().backward()
        return [bits(t.grad) for t in operands]

    plain, fused = both(run)
    assert plain == fused


def test_operands_that_a_unit_copies_may_change_before_the_pass():
    @composite
    def product(x, w):
        return x.reshape(3, 2, 4) @ w

    def run():
        x, w = arr(3, 6, 4).t(), arr(4, 4, 6).requires_grad_()
        out = product(x, w)
        x.zero_()
        out.sum().backward()
        return bits(w.grad)

    plain, fused = both(run)
    assert plain == fused
