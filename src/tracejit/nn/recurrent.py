"""RNN, LSTM, GRU and their cells, as loops over time steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

from tracejit.nn import functional as F
from tracejit.nn import init
from tracejit.nn.module import Module
from tracejit.nn.parameter import Parameter
from tracejit.tensor import Tensor, cat, composite, empty, sigmoid, stack, tanh, zeros

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

# One step: the input's and the state's projections and the state, to the new state; the first part of it is the output.
_State = tuple[Tensor, ...]
_Step = Callable[[Tensor, Tensor, _State], _State]


def _tanh_step(from_input: Tensor, from_state: Tensor, state: _State) -> _State:
    return (tanh(from_input + from_state),)


def _relu_step(from_input: Tensor, from_state: Tensor, state: _State) -> _State:
    return (F.relu(from_input + from_state),)


@composite
def _lstm_memory(from_input: Tensor, from_state: Tensor, memory: Tensor) -> Any:
    size = 3 * memory.shape[-1]
    enter, forget, cell = (from_input.narrow(-1, 0, size) + from_state.narrow(-1, 0, size)).chunk(3, -1)
    return sigmoid(forget) * memory + sigmoid(enter) * tanh(cell)


@composite
def _lstm_output(from_input: Tensor, from_state: Tensor, memory: Tensor) -> Any:
    size = memory.shape[-1]
    return sigmoid(from_input.narrow(-1, 3 * size, size) + from_state.narrow(-1, 3 * size, size)) * tanh(memory)


def _lstm_step(from_input: Tensor, from_state: Tensor, state: _State) -> _State:
    # Two units rather than one: outside of regions each is a program of its own.
    memory = _lstm_memory(from_input, from_state, state[1])
    return _lstm_output(from_input, from_state, memory), memory


@composite
def _gru_state(from_input: Tensor, from_state: Tensor, state: Tensor) -> Any:
    reset_i, update_i, new_i = from_input.chunk(3, -1)
    reset_h, update_h, new_h = from_state.chunk(3, -1)
    update = sigmoid(update_i + update_h)
    new = tanh(new_i + sigmoid(reset_i + reset_h) * new_h)
    return new + update * (state - new)


def _gru_step(from_input: Tensor, from_state: Tensor, state: _State) -> _State:
    return (_gru_state(from_input, from_state, state[0]),)


_PROGRAM_CALLS = 32
"""Calls of a layer from which on one program is worth it: for each time step it takes 15 ms to build, or 3 to load from
disk, and saves 0.35 in each call."""

_STEPS: dict[str, _Step] = {"tanh": _tanh_step, "relu": _relu_step, "lstm": _lstm_step, "gru": _gru_step}


@composite(open=True, deep=_PROGRAM_CALLS)
def _scan(
    projected: Tensor, state: _State, weight: Tensor, bias: Tensor | None, *, kind: str, backward: bool
) -> Tensor:
    """All steps of one layer in one direction: the outputs of each, behind them what else is in the last state.

    One tensor, as outside of regions a layer is one program.
    """
    step = _STEPS[kind]
    outputs: list[Tensor] = []
    times = range(projected.shape[0])
    for time in reversed(times) if backward else times:
        state = step(projected[time], F.linear(state[0], weight, bias), state)
        outputs.append(state[0])
    if backward:
        outputs.reverse()
    return stack([*outputs, *state[1:]])


def _next(
    input: Tensor,
    state: _State,
    weight_input: Tensor,
    weight_state: Tensor,
    bias_input: Tensor | None,
    bias_state: Tensor | None,
    *,
    kind: str,
) -> _State:
    """One step of a cell."""
    from_input = F.linear(input, weight_input, bias_input)
    return _STEPS[kind](from_input, F.linear(state[0], weight_state, bias_state), state)


@composite(open=True)
def _one(*operands: Any, kind: str) -> _State:
    """One step of a cell."""
    return _next(*operands, kind=kind)


@composite(open=True, deep=2)
def _one_of_one_part(*operands: Any, kind: str) -> Tensor:
    """One step of a cell whose state is one tensor: outside of regions a program."""
    return _next(*operands, kind=kind)[0]


class _Recurrent(Module):
    """Layers of one kind of cell over a sequence, in one or both directions."""

    gates: ClassVar[int] = 1
    parts: ClassVar[int] = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(hidden_size, int):
            raise TypeError(f"hidden_size should be of type int, got: {type(hidden_size).__name__}")
        if hidden_size <= 0:
            raise ValueError("hidden_size must be greater than zero")
        if num_layers <= 0:
            raise ValueError("num_layers must be greater than zero")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
            )
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                UserWarning,
                stacklevel=2,
            )
        if proj_size != 0:
            raise NotImplementedError(f"{name}: proj_size is not supported")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        where = {"device": device, "dtype": dtype}
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            columns = input_size if layer == 0 else hidden_size * (2 if bidirectional else 1)
            for suffix in self._suffixes(layer):
                setattr(self, f"weight_ih_{suffix}", Parameter(empty(rows, columns, **where)))
                setattr(self, f"weight_hh_{suffix}", Parameter(empty(rows, hidden_size, **where)))
                if bias:
                    setattr(self, f"bias_ih_{suffix}", Parameter(empty(rows, **where)))
                    setattr(self, f"bias_hh_{suffix}", Parameter(empty(rows, **where)))
        self.reset_parameters()

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        return (f"l{layer}", f"l{layer}_reverse") if self.bidirectional else (f"l{layer}",)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniform within ``1 / sqrt(hidden_size)``."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing to do: PyTorch's name for a step that its GPU library wants."""

    def _kind(self) -> str:
        raise NotImplementedError

    def _run(self, input: Tensor, initial: _State | None) -> tuple[Tensor, _State]:
        if not isinstance(input, Tensor):
            raise TypeError(
                f"{type(self).__name__}: expected a Tensor, got {type(input).__name__}; "
                "packed sequences are not supported"
            )
        if input.dim() not in (2, 3):
            raise ValueError(f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
            )
        batched = input.dim() == 3
        if not batched:
            input = input.unsqueeze(1)
        elif self.batch_first:
            input = input.transpose(0, 1)
        first_state = self._zero_state(input) if initial is None else self._checked_state(initial, input, batched)
        finals: list[_State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction, suffix in enumerate(self._suffixes(layer)):
                first = tuple(part[layer * len(self._suffixes(0)) + direction] for part in first_state)
                output, last = self._direction(input, first, suffix, backward=direction == 1)
                outputs.append(output)
                finals.append(last)
            input = cat(outputs, -1) if len(outputs) > 1 else outputs[0]
            if self.dropout > 0 and self.training and layer < self.num_layers - 1:
                input = F.dropout(input, self.dropout)
        final = tuple(stack([state[part] for state in finals]) for part in range(self.parts))
        if not batched:
            return input.squeeze(1), tuple(part.squeeze(1) for part in final)
        return input.transpose(0, 1) if self.batch_first else input, final

    def _direction(self, input: Tensor, state: _State, suffix: str, *, backward: bool) -> tuple[Tensor, _State]:
        weight = getattr(self, f"weight_hh_{suffix}")
        bias_input = getattr(self, f"bias_ih_{suffix}") if self.bias else None
        bias_state = getattr(self, f"bias_hh_{suffix}") if self.bias else None
        # The input's part does not depend on the state: one product for all time steps.
        projected = F.linear(input, getattr(self, f"weight_ih_{suffix}"), bias_input)
        found = _scan(projected, state, weight, bias_state, kind=self._kind(), backward=backward)
        steps = input.shape[0]
        last = found[0 if backward else steps - 1]
        return found[:steps], (last, *[found[steps + k] for k in range(self.parts - 1)])

    def _zero_state(self, input: Tensor) -> _State:
        directions = len(self._suffixes(0))
        shape = (self.num_layers * directions, input.shape[1], self.hidden_size)
        return tuple(zeros(shape, dtype=input.dtype, device=input.device) for _ in range(self.parts))

    def _checked_state(self, state: _State, input: Tensor, batched: bool) -> _State:
        wanted = (self.num_layers * len(self._suffixes(0)), input.shape[1], self.hidden_size)
        checked = []
        for part in state:
            if part.dim() != (3 if batched else 2):
                raise RuntimeError(
                    f"For {'batched 3-D' if batched else 'unbatched 2-D'} input, hx should also be "
                    f"{'3-D' if batched else '2-D'} but got {part.dim()}-D tensor"
                )
            full = part if batched else part.unsqueeze(1)
            if tuple(full.shape) != wanted:
                raise RuntimeError(f"Expected hidden size {wanted}, got {list(part.shape)}")
            checked.append(full)
        return tuple(checked)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        if self.batch_first is not False:
            text += f", batch_first={self.batch_first}"
        if self.dropout != 0:
            text += f", dropout={self.dropout}"
        if self.bidirectional is not False:
            text += f", bidirectional={self.bidirectional}"
        return text


class RNN(_Recurrent):
    """Layers of ``tanh(W_ih x + b_ih + W_hh h + b_hh)`` over a sequence.

    Shape: ``(L, N, input_size)``, ``(N, L, input_size)`` with ``batch_first``, or ``(L, input_size)``.
    Raises: ValueError for a nonlinearity other than "tanh" and "relu".

    >>> import tracejit as tj
    >>> out, h = tj.nn.RNN(3, 4)(tj.randn(5, 2, 3))
    >>> out.shape, h.shape
    (tracejit.Size([5, 2, 4]), tracejit.Size([1, 2, 4]))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", **options: Any
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, **options)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        self.nonlinearity = nonlinearity

    def _kind(self) -> str:
        return self.nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, (hidden,) = self._run(input, None if hx is None else (hx,))
        return output, hidden


class GRU(_Recurrent):
    """Layers of gated recurrent units over a sequence.

    Shape: ``(L, N, input_size)``, ``(N, L, input_size)`` with ``batch_first``, or ``(L, input_size)``.
    Source: Cho et al. 2014, in the form whose reset gate follows the state's product.

    >>> import tracejit as tj
    >>> out, h = tj.nn.GRU(3, 4, num_layers=2)(tj.randn(5, 2, 3))
    >>> out.shape, h.shape
    (tracejit.Size([5, 2, 4]), tracejit.Size([2, 2, 4]))
    """

    gates = 3

    def _kind(self) -> str:
        return "gru"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, (hidden,) = self._run(input, None if hx is None else (hx,))
        return output, hidden


class LSTM(_Recurrent):
    """Layers of long short-term memory over a sequence.

    Shape: ``(L, N, input_size)``, ``(N, L, input_size)`` with ``batch_first``, or ``(L, input_size)``.
    Source: Hochreiter and Schmidhuber 1997, Gers et al. 2000.

    >>> import tracejit as tj
    >>> out, (h, c) = tj.nn.LSTM(3, 4, batch_first=True)(tj.randn(2, 5, 3))
    >>> out.shape, h.shape, c.shape
    (tracejit.Size([2, 5, 4]), tracejit.Size([1, 2, 4]), tracejit.Size([1, 2, 4]))
    """

    gates = 4
    parts = 2

    def _kind(self) -> str:
        return "lstm"

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, (hidden, memory) = self._run(input, hx)
        return output, (hidden, memory)


class _Cell(Module):
    """One time step of a recurrent layer."""

    gates: ClassVar[int] = 1
    parts: ClassVar[int] = 1

    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        where = {"device": device, "dtype": dtype}
        rows = self.gates * hidden_size
        self.weight_ih = Parameter(empty(rows, input_size, **where))
        self.weight_hh = Parameter(empty(rows, hidden_size, **where))
        self.register_parameter("bias_ih", Parameter(empty(rows, **where)) if bias else None)
        self.register_parameter("bias_hh", Parameter(empty(rows, **where)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniform within ``1 / sqrt(hidden_size)``."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _run(self, kind: str, input: Tensor, state: _State | None) -> _State:
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        batched = input.dim() == 2
        if not batched:
            input = input.unsqueeze(0)
        if state is None:
            shape = (input.shape[0], self.hidden_size)
            state = tuple(zeros(shape, dtype=input.dtype, device=input.device) for _ in range(self.parts))
        else:
            for part in state:
                if part.dim() not in (1, 2):
                    raise ValueError(f"{name}: Expected hx to be 1D or 2D, got {part.dim()}D instead")
            state = tuple(part if batched else part.unsqueeze(0) for part in state)
        operands = input, state, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
        state = _one(*operands, kind=kind) if self.parts > 1 else (_one_of_one_part(*operands, kind=kind),)
        return state if batched else tuple(part.squeeze(0) for part in state)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is True else f", bias={self.bias}")


class RNNCell(_Cell):
    """``tanh(W_ih x + b_ih + W_hh h + b_hh)``.

    >>> import tracejit as tj
    >>> tj.nn.RNNCell(3, 4)(tj.randn(2, 3)).shape
    tracejit.Size([2, 4])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return self._run(self.nonlinearity, input, None if hx is None else (hx,))[0]

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")


class GRUCell(_Cell):
    """One step of a gated recurrent unit.

    >>> import tracejit as tj
    >>> tj.nn.GRUCell(3, 4)(tj.randn(2, 3)).shape
    tracejit.Size([2, 4])
    """

    gates = 3

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._run("gru", input, None if hx is None else (hx,))[0]


class LSTMCell(_Cell):
    """One step of long short-term memory.

    >>> import tracejit as tj
    >>> h, c = tj.nn.LSTMCell(3, 4)(tj.randn(2, 3))
    >>> h.shape, c.shape
    (tracejit.Size([2, 4]), tracejit.Size([2, 4]))
    """

    gates = 4
    parts = 2

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        hidden, memory = self._run("lstm", input, hx)
        return hidden, memory
