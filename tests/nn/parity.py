"""Running one of our modules beside PyTorch's with the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import tracejit as tj


def ours(value: Any) -> Any:
    """A PyTorch tensor, or one inside tuples, as ours."""
    if isinstance(value, torch.Tensor):
        result = tj.from_numpy(value.detach().numpy().copy())
        return result.requires_grad_() if value.requires_grad else result
    if isinstance(value, tuple):
        return tuple(ours(item) for item in value)
    return value


def load(mine: Any, theirs: torch.nn.Module) -> None:
    """Give our module the values of PyTorch's; their names must be the same."""
    state = {name: ours(value.detach()) for name, value in theirs.state_dict().items()}
    assert list(mine.state_dict()) == list(state)
    mine.load_state_dict(state)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in leaves(item)]
    return [] if value is None else [value]


def array(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy()


def close(mine: Any, theirs: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    for a, b in zip(leaves(mine), leaves(theirs), strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        np.testing.assert_allclose(array(a), array(b), rtol=rtol, atol=atol)


def text(theirs: torch.nn.Module) -> str:
    """How PyTorch shows a module, without a name that it gives a Linear for the sake of quantisation."""
    return repr(theirs).replace("NonDynamicallyQuantizableLinear", "Linear")


def check(mine: Any, theirs: Any, *args: Any, rtol: float = 1e-5, atol: float = 1e-6, **kwargs: Any) -> None:
    """Compare results and the gradients of all arguments and parameters, for random gradients of the results."""
    my_args = ours(args)
    my_kwargs = {name: ours(value) for name, value in kwargs.items()}
    my_out, their_out = leaves(mine(*my_args, **my_kwargs)), leaves(theirs(*args, **kwargs))
    close(my_out, their_out, rtol, atol)
    if not any(out.requires_grad for out in their_out):
        assert not any(out.requires_grad for out in my_out)
        return
    # Indices come beside what has gradients.
    my_out = [out for out in my_out if out.requires_grad]
    their_out = [out for out in their_out if out.requires_grad]
    weights = [torch.randn(out.shape, dtype=out.dtype) for out in their_out]
    sum((a * ours(w)).sum() for a, w in zip(my_out, weights, strict=True)).backward()
    sum((b * w).sum() for b, w in zip(their_out, weights, strict=True)).backward()
    for a, b in zip(leaves(my_args), leaves(args), strict=True):
        if isinstance(b, torch.Tensor) and b.requires_grad:
            close(a.grad, b.grad, rtol, atol)
    if isinstance(theirs, torch.nn.Module):
        check_gradients(mine, theirs, rtol, atol)


def check_gradients(mine: Any, theirs: torch.nn.Module, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Compare the gradients of all parameters, and the buffers."""
    parameters, buffers = dict(theirs.named_parameters()), dict(theirs.named_buffers())
    for name, parameter in mine.named_parameters():
        assert (parameter.grad is None) == (parameters[name].grad is None), name
        close(parameter.grad, parameters[name].grad, rtol, atol)
    for name, buffer in mine.named_buffers():
        close(buffer, buffers[name], rtol, atol)


def pair(name: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Our module and PyTorch's of the same name and options, with the same values."""
    mine, theirs = getattr(tj.nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    load(mine, theirs)
    return mine, theirs
