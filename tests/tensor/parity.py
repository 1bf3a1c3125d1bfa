"""The same call on tracejit and on PyTorch, compared: values, types, shapes, gradients, exceptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tracejit.tensor import functional

torch = pytest.importorskip("torch")

Case = Callable[..., Any]
KINDS = {
    "f": np.float32,
    "d": np.float64,
    "h": np.float16,
    "i": np.int64,
    "s": np.int32,
    "u": np.uint8,
    "b": np.bool_,
}


def functions(m: Any) -> Any:
    """The functions of neural networks of either library."""
    return functional if m is tj else torch.nn.functional


def draw(shape: Sequence[int], kind: str = "f", seed: int = 0, low: int = -4, high: int = 5) -> Any:
    """An array of a shape and kind."""
    rng = np.random.default_rng([seed, *shape, ord(kind)])
    if kind == "b":
        return rng.random(shape) < 0.5
    if kind in "isu":
        return rng.integers(max(low, 0) if kind == "u" else low, high, shape).astype(KINDS[kind])
    return np.asarray(rng.standard_normal(shape) * 1.5, KINDS[kind])


def flat(out: Any) -> list[Any]:
    """The results of a call in order."""
    if isinstance(out, (tuple, list)):
        return [leaf for part in out for leaf in flat(part)]
    return [out]


def leaves(m: Any, arrays: Sequence[Any], grad: bool) -> list[Any]:
    """Tensors on copies of arrays; floating point ones require gradients if asked."""
    make = tj.from_numpy if m is tj else torch.from_numpy
    made = [make(np.array(a)) for a in arrays]
    for t in made:
        if grad and t.is_floating_point():
            t.requires_grad_()
    return made


def outcome(m: Any, case: Case, arrays: Sequence[Any], grad: bool) -> tuple[Any, Any, list[Any]]:
    """The exception's class or None, the results, and the gradients of the operands."""
    tensors = leaves(m, arrays, grad)
    try:
        out = flat(case(m, *tensors))
        return None, out, gradients(m, tensors, out) if grad else []
    except Exception as e:
        return type(e), e, []


def gradients(m: Any, tensors: list[Any], out: list[Any]) -> list[Any]:
    """The gradients of the operands for fixed gradients of the results."""
    roots = [o for o in out if hasattr(o, "requires_grad") and o.requires_grad]
    if not roots:
        return []
    total: Any = None
    for k, root in enumerate(roots):
        rng = np.random.default_rng([k, *root.shape])
        weight = np.asarray(rng.standard_normal(tuple(root.shape))).astype(root.detach().numpy().dtype)
        part = (root * (tj.from_numpy(weight) if m is tj else torch.from_numpy(weight))).sum()
        total = part if total is None else total + part
    total.backward()
    return [t.grad for t in tensors]


def same(ours: Any, theirs: Any, tolerance: float, what: str) -> None:
    """Assert that two results are the same in kind, type, shape and value."""
    if not isinstance(theirs, torch.Tensor):
        assert type(ours) is type(theirs) or not isinstance(theirs, (int, float, bool, str)), f"{what}: {ours!r}"
        if isinstance(theirs, float):
            assert ours == pytest.approx(theirs, rel=1e-5, nan_ok=True), what
        elif isinstance(theirs, (torch.Size, torch.dtype)):
            assert str(ours).removeprefix("tracejit.") == str(theirs).removeprefix("torch."), what
        elif theirs is None or isinstance(theirs, (int, bool, str)):
            assert ours == theirs, what
        return
    assert isinstance(ours, tj.Tensor), f"{what}: {type(ours)}"
    assert str(ours.dtype).split(".")[1] == str(theirs.dtype).split(".")[1], f"{what}: type"
    assert tuple(ours.shape) == tuple(theirs.shape), f"{what}: shape {tuple(ours.shape)}, PyTorch {tuple(theirs.shape)}"
    a, b = ours.detach().numpy(), theirs.detach().numpy()
    if a.dtype.kind == "f" and tolerance:
        slack = 2e-3 if a.dtype == np.float16 else tolerance
        np.testing.assert_allclose(a, b, rtol=slack, atol=slack, equal_nan=True, err_msg=what)
    else:
        np.testing.assert_array_equal(a, b, err_msg=what)


def compare(case: Case, *arrays: Any, grad: bool = True, tolerance: float = 1e-5) -> None:
    """Assert that a call means the same on both libraries."""
    wrong, out, grads = outcome(tj, case, arrays, grad)
    wrong_there, out_there, grads_there = outcome(torch, case, arrays, grad)
    if wrong_there is not None or wrong is not None:
        assert wrong is wrong_there, f"tracejit: {wrong} {out}; PyTorch: {wrong_there} {out_there}"
        return
    assert len(out) == len(out_there)
    for k, (a, b) in enumerate(zip(out, out_there, strict=True)):
        same(a, b, tolerance, f"result {k}")
        if isinstance(b, torch.Tensor):
            assert a.requires_grad == b.requires_grad, f"result {k}: requires_grad"
    assert len(grads) == len(grads_there)
    for k, (a, b) in enumerate(zip(grads, grads_there, strict=True)):
        if a is None or b is None:
            # Either may leave out what it knows to be zero.
            given = b if a is None else a
            assert given is None or not given.numpy().any(), f"gradient {k}"
        else:
            same(a, b, tolerance * 10, f"gradient {k}")


NAMES = ("x", "y", "z", "w")


def expression(text: str) -> Case:
    """A call from its text, over m (the library), F (its functions of networks) and the operands x, y, z, w."""
    code = compile(text, text, "eval")

    def case(m: Any, *operands: Any) -> Any:
        return eval(code, {"m": m, "F": functions(m), "np": np, **dict(zip(NAMES, operands, strict=False))})

    return case


def program(text: str) -> Case:
    """Statements that change y, at first x * 1, in place; y is the result."""
    code = compile(text, text, "exec")

    def case(m: Any, *operands: Any) -> Any:
        names: dict[str, Any] = {"m": m, "np": np, **dict(zip(("x", "v"), operands, strict=False))}
        names["y"] = names["x"] * 1
        exec(code, names)
        return names["y"]

    return case


def check(text: str, *choices: Sequence[Any], **options: Any) -> None:
    """Compare a call over several choices of operands, saying which one differs."""
    for arrays in choices:
        try:
            compare(expression(text), *arrays, **options)
        except AssertionError as e:
            kinds = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
            raise AssertionError(f"{text} on {kinds}: {e}") from None
