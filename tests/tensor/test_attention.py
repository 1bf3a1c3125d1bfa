"""Attention as one operation: the bits of the operations one by one, where it applies, memory, second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import check, draw
from tracejit.tensor.functional import attention

F = tj.nn.functional
# Batch, heads, queries, keys, width, depth.
SIZES = [
    (1, 1, 5, 7, 3, 4), (2, 3, 70, 70, 32, 16), (1, 2, 33, 100, 17, 40), (1, 2, 49, 1, 8, 8), (1, 1, 1, 9, 4, 4),
    (1, 1, 60, 20, 8, 8), (1, 1, 7, 5000, 8, 8),
]  # fmt: skip
MASKS: dict[str, Callable[[Any, tuple[int, ...]], Any]] = {
    "none": lambda rng, sizes: None,
    "causal": lambda rng, sizes: None,
    "flags": lambda rng, sizes: rng.random(sizes[2:4]) > 0.5,
    "padding": lambda rng, sizes: rng.random((sizes[0], 1, 1, sizes[3])) > 0.3,
    "added": lambda rng, sizes: rng.standard_normal(sizes[:4]),
    "infinite": lambda rng, sizes: np.where(rng.random(sizes[2:4]) > 0.5, 0.5, -np.inf),
}


def operands(sizes: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> list[Any]:
    """Queries, keys and values as they come from projections, and a gradient of the result."""
    batch, heads, length, source, width, depth = sizes
    rng = np.random.default_rng(seed)
    shapes = [(length, width), (source, width), (source, depth), (length, depth)]
    return [tj.tensor(rng.standard_normal((batch, rows, heads, size)).astype(dtype)) for rows, size in shapes]


def gradients(function: Callable[..., Any], given: list[Any]) -> list[bytes]:
    """The result of a function of queries, keys and values, and their gradients."""
    *leaves, ct = [x.detach().requires_grad_() for x in given]
    out = function(*[x.transpose(1, 2) for x in leaves])
    found = [out, *tj.autograd.grad(out, leaves, ct.transpose(1, 2).detach())]
    return [x.detach().numpy().tobytes() for x in found]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_has_the_bits_of_the_operations_one_by_one(sizes: tuple[int, ...], dtype: str, mask: str) -> None:
    made = MASKS[mask](np.random.default_rng(1), sizes)
    if made is not None:
        made = np.asarray(made, bool if made.dtype == bool else dtype)
        made[..., 0, :] = False if made.dtype == bool else -np.inf
        made = tj.tensor(made)
    causal = mask == "causal"

    def fused(q: Any, k: Any, v: Any) -> Any:
        return attention._fused(q, k, v, made, causal, 0.3, small=True)

    def written_out(q: Any, k: Any, v: Any) -> Any:
        return attention._attention(q, k, v, made, None, causal, scale=0.3)

    given = operands(sizes, dtype)
    assert gradients(fused, given) == gradients(written_out, given)


def steps(t: Any) -> set[str]:
    """The names of the steps behind a tensor."""
    found: set[Any] = set()
    stack = [t.grad_fn]
    while stack:
        node = stack.pop()
        if node not in found and hasattr(node, "next_functions"):
            found.add(node)
            stack += [other for other, _ in node.next_functions]
    return {node.name() for node in found}


def is_fused(t: Any) -> bool:
    names = steps(t)
    assert ("MatmulBackward0" in names) != bool(names & {"AttentionBackward0", "MaskedAttentionBackward0"})
    return "MatmulBackward0" not in names


def test_where_it_applies() -> None:
    q = tj.randn(1, 2, 140, 8, requires_grad=True)
    large = tj.randn(1, 8, 512, 8, requires_grad=True)
    mask = tj.ones(512, 512, dtype=tj.bool)
    assert is_fused(F.scaled_dot_product_attention(q, q, q, is_causal=True))
    assert not is_fused(F.scaled_dot_product_attention(q, q, q))
    assert is_fused(F.scaled_dot_product_attention(q[:, :, :63], q, q))
    assert not is_fused(F.scaled_dot_product_attention(q[:, :, :64], q, q))
    assert not is_fused(F.scaled_dot_product_attention(q[:, :, :31], q, q, is_causal=True))
    assert is_fused(F.scaled_dot_product_attention(large, large, large))
    assert is_fused(F.scaled_dot_product_attention(large, large, large, mask))
    assert is_fused(F.scaled_dot_product_attention(large, large, large, mask.float()[None]))
    assert not is_fused(F.scaled_dot_product_attention(large, large, large, mask[:, :1]))
    assert not is_fused(F.scaled_dot_product_attention(large, large, large, mask.float().requires_grad_()))
    assert not is_fused(F.scaled_dot_product_attention(large, large, large, dropout_p=0.1))


@pytest.mark.parametrize(("length", "kernel"), [(16, "attention"), (15, "matmul")])
def test_without_gradients_it_applies_to_shorter_rows(length: int, kernel: str) -> None:
    region = tj.compile(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True))
    for _ in range(3):
        region(tj.randn(1, 2, length, 8))
    (program,) = tj.explain(region).programs
    assert kernel in {name for g in program["groups"] for name in g["ops"]}


def test_modules_use_it() -> None:
    x = tj.randn(2, 140, 16, requires_grad=True)
    hidden = tj.zeros(140, 140, dtype=tj.bool)
    layer = tj.nn.MultiheadAttention(16, 2, batch_first=True)
    out, _ = layer(x, x, x, need_weights=False, attn_mask=hidden, is_causal=True)
    assert "AttentionBackward0" in steps(out)
    encoder = tj.nn.TransformerEncoderLayer(16, 2, 8, dropout=0.0, batch_first=True)
    assert "AttentionBackward0" in steps(encoder(x, hidden, is_causal=True))
    long = tj.randn(8, 400, 16, requires_grad=True)
    assert "AttentionBackward0" in steps(layer(long, long, long, need_weights=False)[0])
    padding = tj.zeros(8, 400, dtype=tj.bool)
    out, _ = layer(long, long, long, need_weights=False, key_padding_mask=padding)
    assert "MaskedAttentionBackward0" in steps(out)


SHAPES = [
    [(2, 3, 130, 4), (2, 3, 137, 4), (2, 3, 137, 7)], [(130, 4), (40, 4), (40, 5)], [(3, 130, 4)] * 3,
    [(2, 1, 130, 4), (1, 3, 33, 4), (1, 3, 33, 7)], [(2, 2, 3, 128, 4)] * 3,
    [(2, 3, 130, 4), (2, 3, 137, 5), (2, 3, 137, 4)], [(1, 133, 4), (2, 2, 33, 4), (2, 33, 4)],
    [(2, 133, 4), (3, 33, 4), (3, 33, 4)], [(0, 2, 133, 4)] * 3, [(1, 2, 33, 4), (1, 2, 0, 4), (1, 2, 0, 3)],
    [(1, 2, 133, 0), (1, 2, 4, 0), (1, 2, 4, 3)],
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_beside_pytorch(shapes: list[tuple[int, ...]]) -> None:
    pytest.importorskip("torch")
    arrays = [draw(s, seed=k) * 0.3 for k, s in enumerate(shapes)]
    check("F.scaled_dot_product_attention(x, y, z, is_causal=True)", arrays)
    check("F.scaled_dot_product_attention(x, y, z, is_causal=True)", [a.astype(np.float64) for a in arrays])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mask", ["none", "causal", "flags", "infinite"])
def test_compiled_is_eager_and_takes_rows_where_they_are(mask: str, threads: int) -> None:
    sizes = (2, 3, 430, 430, 16, 16)
    made = MASKS[mask](np.random.default_rng(1), sizes)
    made = None if made is None else tj.tensor(made if made.dtype == bool else made.astype(np.float32))

    def step(x: Any, ct: Any) -> Any:
        q, k, v = (part.view(2, 430, 3, 16).transpose(1, 2) for part in x.chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v, made, is_causal=mask == "causal")
        joined = out.transpose(1, 2).reshape(2, 430, 48)
        return joined, *tj.autograd.grad(joined, x, ct)

    region = tj.compile(step)
    before = tj.get_num_threads()
    tj.set_num_threads(threads)
    try:
        for seed in range(4):
            x = tj.tensor(draw((2, 430, 144), seed=seed) * np.float32(0.3)).requires_grad_()
            ct = tj.tensor(draw((2, 430, 48), seed=seed))
            for ours, eager in zip(region(x, ct), step(x, ct), strict=True):
                assert ours.detach().numpy().tobytes() == eager.detach().numpy().tobytes()
    finally:
        tj.set_num_threads(before)
    (program,) = tj.explain(region).programs
    calls = [g["ops"] for g in program["groups"] if g["kind"] == "call"]
    name = "attention" if made is None else "masked_attention"
    assert calls == [[name], [f"{name}_grad"]]
    # Nothing else but the gradients of queries, keys and values being joined: operands and result are not copied.
    assert sum(len(g["ops"]) for g in program["groups"] if g["kind"] != "call") <= 6


def test_memory_grows_with_the_lengths_alone() -> None:
    def step(q: Any, k: Any, v: Any, ct: Any) -> Any:
        out = F.scaled_dot_product_attention(q, k, v)
        return out, *tj.autograd.grad(out, (q, k, v), ct)

    region = tj.compile(step)
    given = [x.transpose(1, 2) for x in operands((1, 1, 2048, 2048, 32, 32))]
    for x in given[:3]:
        x.requires_grad_()
    for _ in range(3):
        region(*given)
    (program,) = tj.explain(region).programs
    assert program["arena_bytes"] <= 10 * 2048 * 32 * 4 < 2048 * 2048 * 4 / 6


@pytest.mark.parametrize("mask", ["none", "causal", "flags", "infinite"])
@pytest.mark.parametrize("compiled", [False, True])
def test_second_derivatives(mask: str, compiled: bool) -> None:
    sizes = (1, 2, 6, 5, 3, 4)
    made = MASKS[mask](np.random.default_rng(1), sizes)
    if made is not None:
        made = tj.tensor(made)

    def second(small: bool, *given: Any) -> Any:
        leaves, ct = given[:3], given[3].transpose(1, 2)
        q, k, v = (x.transpose(1, 2) for x in leaves)
        if small:
            out = attention._fused(q, k, v, made, mask == "causal", 0.4, small=True)
        else:
            out = attention._attention(q, k, v, made, None, mask == "causal", scale=0.4)
        first = tj.autograd.grad((out * ct * ct).sum(), given, create_graph=True)
        return first, tj.autograd.grad(sum((g * g * g).sum() for g in first), given)

    function = tj.compile(second) if compiled else second
    for seed in range(3):
        given = [x.requires_grad_() for x in operands(sizes, "float64", seed)]
        for ours, other in zip(function(True, *given), second(False, *given), strict=True):
            for a, b in zip(ours, other, strict=True):
                np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_half_precision_is_computed_in_single() -> None:
    given = [x.half().transpose(1, 2) for x in operands((1, 2, 40, 40, 8, 8))[:3]]
    found = F.scaled_dot_product_attention(*given, is_causal=True)
    wide = F.scaled_dot_product_attention(*[x.float() for x in given], is_causal=True)
    assert found.dtype is tj.float16
    np.testing.assert_array_equal(found.numpy(), wide.half().numpy())


def test_lengths_that_change() -> None:
    def step(x: Any) -> Any:
        out = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        return out, *tj.autograd.grad(out, x, out.detach())

    region = tj.compile(step)
    for length in (140, 140, 140, 150, 164, 133, 200, 140, 190):
        x = tj.tensor(draw((2, 2, length, 8), seed=length) * np.float32(0.3)).requires_grad_()
        for ours, eager in zip(region(x), step(x), strict=True):
            assert ours.detach().numpy().tobytes() == eager.detach().numpy().tobytes()
    assert tj.explain(region).compiles <= 2
