"""Composites at changing sizes: one plan for all of them has the bits, errors and gradients of the operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracejit as tj
from tests.programs import same_bits
from tests.tensor import fusing
from tests.tensor.fusing import TYPES, bits, built, opened, outcome, step
from tracejit.nn import functional as F
from tracejit.tensor import fused, fused_open
from tracejit.tensor.fused_open import OpenFused
from tracejit.tensor.fused_step import FusedStep
from tracejit.tensor.tape import TapeNode

Sizes = tuple[int, int]
SHARED = (
    *("softmax", "softmax_columns", "log_softmax", "gelu", "gelu_tanh", "silu", "mish", "elu", "softplus"),
    *("leaky_relu", "cross_entropy", "variance", "logsumexp", "logsumexp_columns", "normalize"),
)
"""Those of the tests of single layouts that are for any sizes."""
COMPOSITES: dict[str, Callable[..., Any]] = {name: fusing.COMPOSITES[name] for name in SHARED} | {
    "layer_norm": lambda x, w, b, t: F.layer_norm(x, x.shape[1:], w, b),
    "rms_norm": lambda x, w, b, t: F.rms_norm(x, x.shape[1:], w),
    "group_norm": lambda x, w, b, t: F.group_norm(x[:, :, None].expand(-1, -1, 3), 1, w, b),
    "glu": lambda x, w, b, t: F.glu(x.T.repeat(1, 2)),
    "prelu": lambda x, w, b, t: F.prelu(x, w[:1]),
    "cross_entropy_weighted": lambda x, w, b, t: F.cross_entropy(x, t, w.detach(), label_smoothing=0.1),
    "cross_entropy_ignored": lambda x, w, b, t: F.cross_entropy(x, t, ignore_index=0, reduction="sum"),
    "cross_entropy_each": lambda x, w, b, t: F.cross_entropy(x, t, reduction="none"),
    "nll_loss": lambda x, w, b, t: F.nll_loss(x, t),
    "mse_loss": lambda x, w, b, t: F.mse_loss(x, b.expand_as(x)),
    "l1_loss": lambda x, w, b, t: F.l1_loss(x, x.detach() * 0.5),
    "smooth_l1_loss": lambda x, w, b, t: F.smooth_l1_loss(x, x.detach().flip(0)),
    "kl_div": lambda x, w, b, t: F.kl_div(x, x.detach().sigmoid(), reduction="batchmean"),
    "binary": lambda x, w, b, t: F.binary_cross_entropy_with_logits(x, x.detach().sigmoid()),
    "mean": lambda x, w, b, t: x.mean(),
    "mean_rows": lambda x, w, b, t: x.mean(1, keepdim=True),
    "deviation": lambda x, w, b, t: x.std((0, 1), correction=0, keepdim=True),
    "cosine": lambda x, w, b, t: F.cosine_similarity(x, x.detach().flip(0), 1),
    "linear": lambda x, w, b, t: F.linear(x, tj.stack([w, b, w]), w.new_ones(3)),
    "linear_of_three": lambda x, w, b, t: F.linear(x[None].expand(2, -1, -1), tj.outer(w, b), b),
    "linear_plain": lambda x, w, b, t: F.linear(x, tj.stack([w, b])),
    "linear_turned": lambda x, w, b, t: F.linear(x.T.contiguous().T, tj.stack([w, b])),
    "attention": lambda x, w, b, t: F.scaled_dot_product_attention(x[None], (x * w)[None], (x + b)[None]),
    "pairs": lambda x, w, b, t: tj.cdist(x, x.detach() * 0.5 + 1.0),
}
WITHOUT = ("cross_entropy_weighted", "pairs")
"""What is no one program at single sizes either."""
ROWS = [(n, 24) for n in (3, 5, 9, 6, 40, 2, 1, 7)]
COLUMNS = [(4, n) for n in (6, 10, 33, 8, 70, 2, 1, 12)]
BOTH = [(3, 6), (5, 9), (9, 8), (4, 33), (70, 3), (2, 2), (8, 8), (1, 4), (12, 1)]


def operands(kind: Any, sizes: Sizes, seed: int) -> list[tj.Tensor]:
    rows, columns = sizes
    rng = np.random.default_rng(seed)
    made = [tj.tensor(rng.standard_normal(s), dtype=kind, requires_grad=True) for s in (sizes, columns, columns)]
    return [*made, tj.tensor(rng.integers(0, columns, rows))]


def compared(function: Callable[..., Any], kind: Any, every: list[Sizes]) -> int:
    """How many plans calls at these sizes have, whose bits are those of the operations one by one."""
    with built(np.inf):
        expected = [outcome(function, operands(kind, sizes, k), k) for k, sizes in enumerate(every)]
    with opened():
        for k, sizes in enumerate(every):
            found = outcome(function, operands(kind, sizes, k), k)
            assert len(found) == len(expected[k])
            assert all(map(same_bits, found, expected[k])), sizes
        return sum(len(opening.ways) for opening in fused_open._openings.values())


@pytest.mark.parametrize("every", [ROWS, COLUMNS, BOTH], ids=["rows", "columns", "both"])
@pytest.mark.parametrize("name", COMPOSITES)
def test_bits_are_those_of_the_operations(name: str, every: list[Sizes]) -> None:
    plans = compared(COMPOSITES[name], tj.float32, every)
    # The factor of attention is a Python number made of the columns.
    assert (plans > 0) is (name not in WITHOUT and (name != "attention" or every is not COLUMNS))


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind is not tj.float32], ids=str)
@pytest.mark.parametrize("name", COMPOSITES)
def test_bits_of_other_types(name: str, kind: Any) -> None:
    compared(COMPOSITES[name], kind, BOTH)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(COMPOSITES)),
    st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=3, max_size=7),
)
def test_random_sizes(name: str, every: list[Sizes]) -> None:
    compared(COMPOSITES[name], tj.float32, every)


@pytest.mark.parametrize("sizes", [(300, 3), (5000, 2), (3, 5000)], ids=str)
@pytest.mark.parametrize("name", ["softmax_columns", "layer_norm", "linear", "cross_entropy", "mean", "normalize"])
def test_long_rows_and_columns_have_plans_of_their_own(name: str, sizes: Sizes) -> None:
    every = [(5, 2), (9, 2), sizes, (sizes[0] + 1, sizes[1]), (sizes[0], sizes[1] + 1), sizes, (7, 3)]
    assert compared(COMPOSITES[name], tj.float32, every)


def softmax_of(rows: int) -> tuple[tj.Tensor, tj.Tensor]:
    x = tj.tensor(np.random.default_rng(rows).standard_normal((rows, 8)), dtype=tj.float32, requires_grad=True)
    return x, F.softmax(x, 1)


def test_the_steps_are_one_from_the_second_layout_on() -> None:
    with opened():
        found = [step(softmax_of(rows)[1]) for rows in (3, 4, 5, 1, 6)]
    assert found == [TapeNode, FusedStep, FusedStep, TapeNode, FusedStep]


def test_a_layout_that_stays_gets_its_own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened():
        monkeypatch.setattr(fused, "WORK", 1 << 30)
        for rows in (3, 4):
            softmax_of(rows)
        units = [type(softmax_of(5)[1]._node.unit) for _ in range(70)]
    assert units[:60] == [OpenFused] * 60
    assert units[-1] is not OpenFused


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "cross_entropy", "mean", "linear", "normalize", "variance"])
def test_gradients_of_gradients(name: str) -> None:
    def second(sizes: Sizes) -> list[np.ndarray]:
        x, w, b, t = operands(tj.float64, sizes, 3)
        out = COMPOSITES[name](x, w, b, t)
        (g,) = tj.autograd.grad((out * out).sum(), x, create_graph=True)
        (g * g).sum().backward()
        return [bits(g), bits(x.grad)]

    with built(np.inf):
        expected = [second(sizes) for sizes in BOTH]
    with opened():
        for sizes, those in zip(BOTH, expected, strict=True):
            assert all(map(same_bits, second(sizes), those))


def test_who_looks_at_the_step_sees_those_of_the_operations() -> None:
    def seen(rows: int) -> list[Any]:
        x, out = softmax_of(rows)
        found: list[Any] = []
        out.register_hook(lambda g: found.append(bits(g)))
        node = out.grad_fn
        while isinstance(node, TapeNode):
            found.append((node.name(), [tuple(a.shape) if a else None for a in node.avals]))
            node = next((edge for edge, _ in node.next_functions if edge is not None), None)
        out.pow(2).sum().backward()
        return [*found, bits(x.grad)]

    with built(np.inf):
        expected = [seen(rows) for rows in (3, 4, 5)]
    with opened():
        for rows, those in zip((3, 4, 5), expected, strict=True):
            found = seen(rows)
            assert len(found) == len(those)
            assert all(
                same_bits(f, e) if isinstance(f, np.ndarray) else f == e for f, e in zip(found, those, strict=True)
            )


def test_what_was_changed_behind_a_composite_is_told() -> None:
    with opened():
        for rows in (3, 4, 5):
            x = tj.ones(rows, 4, requires_grad=True) * 1.0
            out = F.silu(x)
            x.add_(1.0)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                out.sum().backward()


def test_a_class_out_of_range_is_told() -> None:
    with opened():
        for rows in (3, 4, 5, 6):
            x, t = tj.zeros(rows, 4), tj.full((rows,), 4)
            F.cross_entropy(x, t - 1)
            with pytest.raises(IndexError):
                F.cross_entropy(x, t)


def test_wrong_sizes_are_told_as_ever() -> None:
    with opened():
        for rows in (3, 4, 5, 6):
            F.linear(tj.ones(rows, 4), tj.ones(2, 4))
            with pytest.raises(RuntimeError, match=f"{rows}x3"):
                F.linear(tj.ones(rows, 3), tj.ones(2, 4))


def test_a_composite_that_needs_a_whole_number_has_a_plan_for_that_alone() -> None:
    """Adaptive pooling cuts a length into parts, one by one."""
    def parts(rows: int) -> np.ndarray:
        return bits(F.adaptive_avg_pool1d(tj.arange(2.0 * rows).reshape(1, 2, rows), 3))

    with built(np.inf):
        expected = [parts(rows) for rows in (6, 7, 8, 9, 7)]
    with opened():
        assert all(map(same_bits, [parts(rows) for rows in (6, 7, 8, 9, 7)], expected))


def test_a_later_process_plans_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells the calls from others is on disk."""
    made: list[Any] = []
    monkeypatch.setattr(fused_open, "was_made", lambda kind: bool(made))
    monkeypatch.setattr(fused_open, "remember", made.append)
    monkeypatch.setattr(fused_open, "_WORK", -1)
    with built(np.inf):
        first = [step(softmax_of(rows)[1]) for rows in range(3, 20)]
        assert len(made) == 1
        fused_open.clear_openings()
        second = [step(softmax_of(rows)[1]) for rows in range(3, 20)]
    assert first.index(FusedStep) == fused_open._LAYOUTS - 1
    assert second.index(FusedStep) == fused_open._AGAIN - 1
