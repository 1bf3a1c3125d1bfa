"""Recurrent layers and cells beside PyTorch's."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import tracejit as tj
from tests.nn.parity import check, close, load, ours, pair
from tests.programs import same_bits
from tests.tensor.fusing import bits, both, built
from tracejit.tensor.fused_step import FusedStep

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "batch_first": True},
    {"bidirectional": True, "bias": False},
    {"num_layers": 2, "bidirectional": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_layers(name: str, options: dict[str, Any]) -> None:
    mine, theirs = pair(name, 3, 4, **options)
    assert repr(mine) == repr(theirs)
    x = leaf(2, 6, 3) if options.get("batch_first") else leaf(6, 2, 3)
    check(mine, theirs, x, **TOLERANCE)
    mine.zero_grad()
    theirs.zero_grad()
    parts = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    state = (leaf(parts, 2, 4), leaf(parts, 2, 4)) if name == "LSTM" else leaf(parts, 2, 4)
    check(mine, theirs, x.detach().requires_grad_(), state, **TOLERANCE)
    mine.zero_grad()
    theirs.zero_grad()
    check(mine, theirs, leaf(6, 3), **TOLERANCE)


def test_relu_nonlinearity() -> None:
    mine, theirs = pair("RNN", 3, 4, nonlinearity="relu")
    check(mine, theirs, leaf(6, 2, 3), **TOLERANCE)
    with pytest.raises(ValueError, match="nonlinearity"):
        tj.nn.RNN(3, 4, nonlinearity="cube")


@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(name: str, bias: bool) -> None:
    mine, theirs = pair(name, 3, 4, bias=bias)
    assert repr(mine) == repr(theirs)
    check(mine, theirs, leaf(2, 3), **TOLERANCE)
    for shape in ((2,), ()):
        mine.zero_grad()
        theirs.zero_grad()
        state = (leaf(*shape, 4), leaf(*shape, 4)) if name == "LSTMCell" else leaf(*shape, 4)
        check(mine, theirs, leaf(*shape, 3), state, **TOLERANCE)


def test_a_loop_of_cells_is_the_layer() -> None:
    layer, cell = tj.nn.LSTM(3, 4), tj.nn.LSTMCell(3, 4)
    cell.load_state_dict({name.replace("_l0", ""): value for name, value in layer.state_dict().items()})
    x = tj.randn(5, 2, 3)
    state = None
    for step in x:
        state = cell(step, state)
    assert state is not None
    close(state[0], layer(x)[1][0][0])
    close(state[1], layer(x)[1][1][0])


def test_dropout_between_layers() -> None:
    layer = tj.nn.GRU(3, 4, num_layers=2, dropout=0.5)
    x = tj.randn(5, 2, 3)
    assert layer(x)[0].tolist() != layer(x)[0].tolist()
    theirs = torch.nn.GRU(3, 4, num_layers=2, dropout=0.5).eval()
    load(layer.eval(), theirs)
    check(layer, theirs, leaf(5, 2, 3), **TOLERANCE)
    assert repr(layer) == repr(theirs)


@pytest.mark.parametrize("lib", [tj, torch], ids=["tracejit", "torch"])
def test_wrong_inputs(lib: Any) -> None:
    layer = lib.nn.LSTM(3, 4)
    for error, call in (
        (RuntimeError, lambda: layer(lib.zeros(5, 2, 4))),
        (ValueError, lambda: layer(lib.zeros(5))),
        (RuntimeError, lambda: layer(lib.zeros(5, 2, 3), (lib.zeros(1, 3, 4), lib.zeros(1, 3, 4)))),
        (RuntimeError, lambda: layer(lib.zeros(5, 2, 3), (lib.zeros(1, 4), lib.zeros(1, 4)))),
        (ValueError, lambda: lib.nn.GRUCell(3, 4)(lib.zeros(1, 2, 3))),
        (RuntimeError, lambda: lib.nn.RNNCell(3, 4, nonlinearity="cube")(lib.zeros(2, 3))),
        (ValueError, lambda: lib.nn.GRU(3, 0)),
        (ValueError, lambda: lib.nn.GRU(3, 4, num_layers=0)),
        (TypeError, lambda: lib.nn.GRU(3, 4.5)),
        (ValueError, lambda: lib.nn.GRU(3, 4, num_layers=2, dropout=2.0)),
    ):
        with pytest.raises(error):
            call()
    with pytest.warns(UserWarning, match="num_layers"):
        lib.nn.GRU(3, 4, dropout=0.5)


def test_ours_takes_back_gradients_through_time() -> None:
    layer = tj.nn.LSTM(2, 3)
    x = ours(leaf(7, 1, 2))
    layer(x)[0][-1].sum().backward()
    assert float(x.grad[0].abs().sum()) > 0


def whole_results(layer: Any, *given: Any) -> list[np.ndarray]:
    """All that a layer gives, and all gradients, through every result."""

    def parts(found: Any) -> list[tj.Tensor]:
        return [found] if isinstance(found, tj.Tensor) else [p for part in found for p in parts(part)]

    outs = parts(layer(*given))
    total = sum((out * out * (k + 1)).sum() for k, out in enumerate(outs))
    total.backward()
    leaves = [*layer.parameters(), *[x for x in parts(given) if x.requires_grad]]
    found = [bits(out) for out in outs] + [bits(x.grad) for x in leaves]
    for x in leaves:
        x.grad = None
    return found


@pytest.mark.parametrize("kind", [tj.float32, tj.float64], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_layers_as_programs_have_the_bits_of_their_operations(name: str, options: dict[str, Any], kind: Any) -> None:
    layer = getattr(tj.nn, name)(3, 5, **options).to(kind)
    draw = np.random.default_rng(3)

    def tensor(*shape: int) -> tj.Tensor:
        return tj.tensor(draw.standard_normal(shape), dtype=kind).requires_grad_()

    x = tensor(4, 7, 3) if options.get("batch_first") else tensor(7, 4, 3)
    parts = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    state = (tensor(parts, 4, 5), tensor(parts, 4, 5)) if name == "LSTM" else tensor(parts, 4, 5)
    for given in ((x,), (x, state), (tensor(7, 3),), (x.detach(), state)):
        one, other = both(partial(whole_results, layer, *given))
        assert all(map(same_bits, one, other))
        assert len(one) == len(other)


@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_cells_as_programs_have_the_bits_of_their_operations(name: str) -> None:
    cell = getattr(tj.nn, name)(3, 5)

    def run(x: tj.Tensor) -> Any:
        state, found = None, []
        for k in range(6):
            state = cell(x[k], state)
            found.append(state)
        return tuple(found)

    run.parameters = cell.parameters  # type: ignore[attr-defined]
    x = tj.tensor(np.random.default_rng(1).standard_normal((6, 2, 3)), dtype=tj.float32).requires_grad_()
    one, other = both(lambda: whole_results(run, x))
    assert all(map(same_bits, one, other))


def test_a_layer_is_one_program() -> None:
    for name, x in (("LSTM", tj.randn(7, 4, 3)), ("GRU", tj.randn(7, 4, 3)), ("GRUCell", tj.randn(4, 3))):
        layer = getattr(tj.nn, name)(3, 5)
        with built(-1):
            out = layer(x)
            out = out if isinstance(out, tj.Tensor) else out[0]
            node = out._node
            while node is not None and type(node) is not FusedStep:
                node = next((edge[0] for edge in node.edges if type(edge) is tuple), None)
            assert type(node) is FusedStep, name


def test_results_of_a_layer_may_be_changed() -> None:
    def run(m: Any) -> list[Any]:
        layer = m.nn.LSTM(3, 4)
        with m.no_grad():
            for k, p in enumerate(layer.parameters()):
                p.copy_(m.arange(float(p.numel())).reshape(p.shape).sin() * (0.3 + 0.1 * k))
        x = m.arange(30.0).reshape(5, 2, 3).cos().requires_grad_()
        out, (hidden, memory) = layer(x)
        if m is torch:
            # There the gradient needs it.
            out = out.clone()
        out.mul_(2.0)
        out[2].zero_()
        memory.add_(1.0)
        hidden[0].zero_()
        (out.sum() + (hidden * 3).sum() + (memory * memory).sum()).backward()
        return [out.tolist(), hidden.tolist(), memory.tolist(), x.grad.tolist(), layer.weight_hh_l0.grad.tolist()]

    theirs = run(torch)
    for work in (math.inf, -1):
        with built(work):
            for mine, their in zip(run(tj), theirs, strict=True):
                np.testing.assert_allclose(mine, their, **TOLERANCE)


def test_second_gradients_through_a_layer() -> None:
    layer = tj.nn.GRU(3, 4).to(tj.float64)
    x = tj.tensor(np.random.default_rng(2).standard_normal((5, 2, 3)), dtype=tj.float64).requires_grad_()

    def run() -> list[np.ndarray]:
        out, _ = layer(x)
        (first,) = tj.autograd.grad((out * out).sum(), [x], create_graph=True)
        (first * first).sum().backward()
        found = [bits(first), bits(x.grad), *[bits(p.grad) for p in layer.parameters()]]
        layer.zero_grad()
        x.grad = None
        return found

    one, other = both(run)
    assert all(map(same_bits, one, other))
