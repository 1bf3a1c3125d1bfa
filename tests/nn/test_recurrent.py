"""Recurrent layers and cells beside PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tracejit as tj
from tests.nn.parity import check, close, load, ours, pair

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
