"""bfloat16 beside PyTorch's on the CPU: types, values to the bit where both round once, limits, printing, errors."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.programs import same_bits
from tracejit.eager import run_op
from tracejit.ops import ops

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X, Y = (RNG.standard_normal((50, 40)).astype(np.float32) for _ in range(2))
X[0, :6] = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-3)

Call = Callable[[Any, Any, Any], Any]


def F(t: Any) -> Any:
    return t.nn.functional


SAME: dict[str, Call] = {
    "add": lambda t, x, y: x + y,
    "sub": lambda t, x, y: x - y,
    "mul": lambda t, x, y: x * y,
    "div": lambda t, x, y: x / y,
    "number added": lambda t, x, y: x + 0.1,
    "number subtracted": lambda t, x, y: x - 0.1,
    "from a number": lambda t, x, y: 0.1 - x,
    "times a number": lambda t, x, y: x * 0.1,
    "by a number": lambda t, x, y: x / 0.3,
    "plus a whole number": lambda t, x, y: x + 3,
    "less than a number": lambda t, x, y: x < 0.1,
    "equal a number": lambda t, x, y: x == float(X[3, 3]),
    "plus a tensor without dimensions": lambda t, x, y: x + t.tensor(0.1),
    "square": lambda t, x, y: x**2,
    "power of a number": lambda t, x, y: x[1:].abs() ** 1.7,
    "addcmul": lambda t, x, y: t.addcmul(x, x, y, value=0.3),
    "addcdiv": lambda t, x, y: t.addcdiv(x, x, y, value=0.3),
    "maximum": lambda t, x, y: t.maximum(x, y),
    "clamp": lambda t, x, y: x.clamp(-0.3, 0.7),
    "where": lambda t, x, y: t.where(x > 0, x, y),
    "masked_fill": lambda t, x, y: x.masked_fill(x > 0, 0.1),
    "exp": lambda t, x, y: x.exp(),
    "log": lambda t, x, y: x.abs().log(),
    "tanh": lambda t, x, y: x.tanh(),
    "sigmoid": lambda t, x, y: x.sigmoid(),
    "erf": lambda t, x, y: x.erf(),
    "sqrt": lambda t, x, y: x.abs().sqrt(),
    "reciprocal": lambda t, x, y: x.reciprocal(),
    "gelu": lambda t, x, y: F(t).gelu(x[1:]),
    "gelu by tanh": lambda t, x, y: F(t).gelu(x[1:], approximate="tanh"),
    "silu": lambda t, x, y: F(t).silu(x[1:]),
    "elu": lambda t, x, y: F(t).elu(x),
    "softplus": lambda t, x, y: F(t).softplus(x),
    "hardswish": lambda t, x, y: F(t).hardswish(x[1:]),
    "sum": lambda t, x, y: x[1:].sum(),
    "sum of columns": lambda t, x, y: x.sum(0),
    "mean": lambda t, x, y: x[1:].mean(),
    "mean of rows": lambda t, x, y: x.mean(1),
    "var": lambda t, x, y: x.var(1),
    "std": lambda t, x, y: x.std(0),
    "norm": lambda t, x, y: x[1:].norm(),
    "amax": lambda t, x, y: x.amax(1),
    "argmax": lambda t, x, y: x.argmax(1),
    "cumsum": lambda t, x, y: x.cumsum(1),
    "softmax": lambda t, x, y: x[1:].softmax(1),
    "layer_norm": lambda t, x, y: F(t).layer_norm(x[1:], (40,), y[0], y[1]),
    "matmul": lambda t, x, y: x[1:] @ y.t(),
    "linear": lambda t, x, y: F(t).linear(x[1:], y, y[:, 0]),
    "cross_entropy": lambda t, x, y: F(t).cross_entropy(x[1:], t.arange(49) % 40),
    "sort": lambda t, x, y: x.sort(1)[0],
    "topk": lambda t, x, y: x[1:].topk(3)[0],
    "median": lambda t, x, y: x[1:].median(),
    "unique": lambda t, x, y: x[1:].unique(),
    "cat": lambda t, x, y: t.cat([x, y.float()]),
    "stack": lambda t, x, y: t.stack([x, y]),
    "gather": lambda t, x, y: x.gather(1, (t.arange(50) % 40).reshape(50, 1)),
    "masked": lambda t, x, y: x[x > 0],
    "embedding": lambda t, x, y: F(t).embedding(t.arange(10), x),
    "max_pool2d": lambda t, x, y: F(t).max_pool2d(x[1:41].reshape(2, 4, 10, 20), 2),
    "avg_pool2d": lambda t, x, y: F(t).avg_pool2d(x[1:41].reshape(2, 4, 10, 20), 3, padding=1),
    "to int": lambda t, x, y: (x[1:] * 100).int(),
    "to bool": lambda t, x, y: x.bool(),
    "to half": lambda t, x, y: x.half(),
    "from int": lambda t, x, y: (t.arange(1000) * 1234567).bfloat16(),
    "from double": lambda t, x, y: (x.double() * (1 + 2.0**-8 + 2.0**-40)).bfloat16(),
    "with half": lambda t, x, y: x + y.half(),
    "with int": lambda t, x, y: x + t.arange(40),
    "with double": lambda t, x, y: x * y.double(),
    "with a bool": lambda t, x, y: x * (y > 0),
    "arange": lambda t, x, y: t.arange(0, 5, 0.3, dtype=t.bfloat16),
    "linspace": lambda t, x, y: t.linspace(0, 1, 17, dtype=t.bfloat16),
    "full": lambda t, x, y: t.full((3,), 0.1, dtype=t.bfloat16),
    "eye": lambda t, x, y: t.eye(3, dtype=t.bfloat16),
    "round": lambda t, x, y: (x * 10).round(),
    "sign": lambda t, x, y: x.sign(),
    "isnan": lambda t, x, y: t.isnan(x),
    "view of bits": lambda t, x, y: y.view(t.int16),
}
NEAR: dict[str, Call] = {
    "mse_loss": lambda t, x, y: F(t).mse_loss(x[1:], y[1:]),
    "lerp": lambda t, x, y: t.lerp(x[1:], y[1:], 0.3),
    "scaled sum": lambda t, x, y: t.add(x[1:], y[1:], alpha=0.25),
    "rsqrt": lambda t, x, y: x.abs().rsqrt(),
    "log_softmax": lambda t, x, y: x[1:].log_softmax(1),
    "logsumexp": lambda t, x, y: x[1:].logsumexp(1),
    "mish": lambda t, x, y: F(t).mish(x[1:]),
    "batch_norm": lambda t, x, y: F(t).batch_norm(x[1:], None, None, training=True),
    "normalize": lambda t, x, y: F(t).normalize(x[1:]),
    "conv2d": lambda t, x, y: F(t).conv2d(x[1:3].reshape(1, 2, 5, 8), y[:3, :18].reshape(3, 2, 3, 3), y[:3, 0]),
    "attention": lambda t, x, y: F(t).scaled_dot_product_attention(
        *(v[1:41].reshape(2, 4, 10, 20) for v in (x, y, x)), is_causal=True
    ),
}


def given(t: Any) -> tuple[Any, Any]:
    return tuple(t.tensor(v).to(t.bfloat16) for v in (X, Y))  # type: ignore[return-value]


def plain(x: Any) -> Any:
    return x.double().numpy() if x.dtype.is_floating_point else x.numpy()


@pytest.mark.parametrize("what", SAME)
def test_values_are_those_of_torch(what: str) -> None:
    expected, found = (SAME[what](t, *given(t)) for t in (torch, tj))
    assert str(found.dtype).split(".")[1] == str(expected.dtype).split(".")[1]
    np.testing.assert_array_equal(plain(found), plain(expected))


@pytest.mark.parametrize("what", NEAR)
def test_values_are_near_those_of_torch(what: str) -> None:
    expected, found = (NEAR[what](t, *given(t)) for t in (torch, tj))
    assert str(found.dtype).split(".")[1] == str(expected.dtype).split(".")[1]
    np.testing.assert_allclose(plain(found), plain(expected), rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("what", [*SAME, *NEAR])
def test_compiled_has_the_bits_of_eager(what: str) -> None:
    call = SAME.get(what) or NEAR[what]
    compiled = tj.compile(lambda x, y: call(tj, x, y))
    x, y = given(tj)
    expected = call(tj, x, y)
    for _ in range(4):
        found = compiled(x, y)
        assert same_bits(found._data(), expected._data())


GRADIENTS: dict[str, Call] = {
    "mlp": lambda t, x, y: (x @ y.t()).relu().mean(),
    "softmax": lambda t, x, y: (x.softmax(1) * y).sum(),
    "layer_norm": lambda t, x, y: (F(t).layer_norm(x, (40,)) * y).sum(),
    "gelu": lambda t, x, y: (F(t).gelu(x) * y).sum(),
    "norm": lambda t, x, y: x.norm() * y.std(),
    "cross_entropy": lambda t, x, y: F(t).cross_entropy(x, t.arange(49) % 40) * y.sum(),
    "attention": lambda t, x, y: F(t).scaled_dot_product_attention(
        *(v[:40].reshape(2, 4, 10, 20) for v in (x, y, x))
    ).sum(),
    "convolution": lambda t, x, y: F(t).conv2d(x[:2].reshape(1, 2, 5, 8), y[:3, :18].reshape(3, 2, 3, 3)).sum(),
}


@pytest.mark.parametrize("what", GRADIENTS)
def test_gradients_are_near_those_of_torch_and_the_same_compiled(what: str) -> None:
    found = []
    for t in (torch, tj):
        leaves = [t.tensor(v[1:]).to(t.bfloat16).requires_grad_() for v in (X, Y)]
        GRADIENTS[what](t, *leaves).backward()
        found.append([leaf.grad for leaf in leaves])
        assert all(leaf.grad.dtype is t.bfloat16 for leaf in leaves)
    for expected, ours in zip(*found, strict=True):
        size = float(expected.abs().max())
        np.testing.assert_allclose(plain(ours), plain(expected), rtol=2**-4, atol=size * 2**-5 + 1e-6)
    leaves = [tj.tensor(v[1:]).to(tj.bfloat16).requires_grad_() for v in (X, Y)]

    @tj.compile
    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        GRADIENTS[what](tj, *leaves).backward()

    for _ in range(4):
        step()
        for leaf, ours in zip(leaves, found[1], strict=True):
            assert same_bits(leaf.grad._data(), ours._data())


OPTIMIZERS = [("SGD", {"lr": 0.1, "momentum": 0.9}), ("Adam", {"lr": 0.01}), ("AdamW", {"lr": 0.01}), ("RMSprop", {}),
              ("Adagrad", {}), ("Adamax", {"lr": 0.01}), ("NAdam", {"lr": 0.01}), ("RAdam", {"lr": 0.01}),
              ("Adadelta", {}), ("Rprop", {}), ("ASGD", {"lr": 0.1})]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=str)
def test_optimizers_train_parameters_of_bfloat16(name: str, options: dict[str, Any]) -> None:
    def train(t: Any, wrap: Any = lambda f: f) -> Any:
        model = t.nn.Linear(6, 3).bfloat16()
        with t.no_grad():
            model.weight.copy_(t.tensor(X[1:4, :6].tolist()))
            model.bias.copy_(t.tensor([0.1, -0.2, 0.3]))
        optimizer = getattr(t.optim, name)(model.parameters(), **options)
        x = t.tensor(Y[:8, :6].tolist()).to(t.bfloat16)

        def step() -> Any:
            optimizer.zero_grad()
            loss = F(t).mse_loss(model(x), t.zeros(8, 3, dtype=t.bfloat16))
            loss.backward()
            optimizer.step()
            return loss

        run = wrap(step)
        losses = [run().item() for _ in range(8)]
        assert all(p.dtype is t.bfloat16 for p in model.parameters())
        return losses, model.weight.detach().float().numpy()

    expected, weight = train(torch)
    losses, ours = train(tj)
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    np.testing.assert_allclose(ours, weight, rtol=0.05, atol=0.02)
    again, compiled = train(tj, tj.compile)
    assert again == losses
    assert compiled.tobytes() == ours.tobytes()


def test_limits_names_and_promotion() -> None:
    ours, theirs = tj.finfo(tj.bfloat16), torch.finfo(torch.bfloat16)
    for field in ("bits", "eps", "max", "min", "tiny", "smallest_normal", "resolution", "dtype"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert (tj.bfloat16.itemsize, tj.bfloat16.is_floating_point, repr(tj.bfloat16)) == (2, True, "tracejit.bfloat16")
    assert pickle.loads(pickle.dumps(tj.bfloat16)) is tj.bfloat16 is copy.deepcopy(tj.bfloat16)
    names = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
    for name in names:
        expected = torch.promote_types(torch.bfloat16, getattr(torch, name))
        for pair in ((tj.bfloat16, getattr(tj, name)), (getattr(tj, name), tj.bfloat16)):
            assert repr(tj.promote_types(*pair)) == repr(expected).replace("torch", "tracejit")
    assert tj.result_type(tj.ones(2, dtype=tj.bfloat16), 1.5) is tj.bfloat16


def test_printing_pickling_and_copies() -> None:
    for v in ([1.5, 2.0], [0.1, 1e-3, 300.0], [float("nan"), float("inf"), -0.0], []):
        expected = repr(torch.tensor(v, dtype=torch.bfloat16)).replace("torch.", "tracejit.")
        assert repr(tj.tensor(v, dtype=tj.bfloat16)) == expected
    x = tj.tensor([0.1, 2.0], dtype=tj.bfloat16)
    for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), x.clone(), tj.tensor(x), tj.tensor([x[0], x[1]])):
        assert y.dtype is tj.bfloat16
        assert y.tolist() == x.tolist() == [0.10009765625, 2.0]
    assert type(x[0].item()) is float
    assert (x.element_size(), x.nbytes) == (2, 4)


def test_numpy_has_none() -> None:
    for t in (torch, tj):
        x = t.ones(2, dtype=t.bfloat16)
        for call in (x.numpy, lambda x=x: np.asarray(x)):
            with pytest.raises(TypeError, match="Got unsupported ScalarType BFloat16"):
                call()


def test_arrays_of_the_type_are_taken() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([0.5, 3.0], ml_dtypes.bfloat16)
    for x in (tj.from_numpy(array), tj.tensor(array), tj.as_tensor(array)):
        assert x.dtype is tj.bfloat16
        assert x.tolist() == [0.5, 3.0]


def test_modules_and_the_default_type() -> None:
    model = tj.nn.Sequential(tj.nn.Linear(3, 4), tj.nn.BatchNorm1d(4), tj.nn.Linear(4, 2)).bfloat16()
    assert {p.dtype for p in model.parameters()} == {tj.bfloat16}
    assert model[1].num_batches_tracked.dtype is tj.int64
    assert model(tj.ones(5, 3, dtype=tj.bfloat16)).dtype is tj.bfloat16
    assert model.to(tj.float32)[0].weight.dtype is tj.float32
    tj.set_default_dtype(tj.bfloat16)
    try:
        assert tj.ones(2).dtype is tj.tensor(1.5).dtype is tj.rand(2).dtype is (tj.arange(3) / 2).dtype is tj.bfloat16
    finally:
        tj.set_default_dtype(tj.float32)


def test_random_numbers() -> None:
    tj.manual_seed(0)
    u, n = tj.rand(20_000, dtype=tj.bfloat16), tj.randn(20_000, dtype=tj.bfloat16)
    assert u.dtype is n.dtype is tj.bfloat16
    assert u.min().item() == 0
    assert u.max().item() == 1 - 2.0**-8
    assert abs(u.float().mean().item() - 0.5 + 2.0**-9) < 0.01
    assert abs(n.float().std().item() - 1) < 0.02
    assert tj.dropout(tj.ones(1000, dtype=tj.bfloat16), 0.5).dtype is tj.bfloat16


@pytest.mark.parametrize("kind", [tj.float16, tj.bfloat16])
def test_kernels_draw_the_uniform_numbers_of_the_record(kind: Any) -> None:
    attrs = ((5000,), kind)
    assert same_bits(run_op(ops.uniform, (7, 3), attrs), ops.uniform.numpy(7, 3, *attrs))


def test_bits_seen_as_another_type_are_the_same_memory() -> None:
    for t in (torch, tj):
        x = t.ones(2, 4, dtype=t.bfloat16)
        assert x.view(t.int32).shape == (2, 2)
        assert x.view(t.uint8).shape == (2, 8)
        x.view(t.int16).fill_(0x4000)
        assert x.tolist() == [[2.0] * 4] * 2
        with pytest.raises(RuntimeError):
            t.ones(2, 3, dtype=t.bfloat16).view(t.int32)


def test_types_as_arguments_are_part_of_what_is_compiled() -> None:
    @tj.compile
    def f(x: Any) -> Any:
        return x.softmax(1, dtype=tj.bfloat16).sum(0, dtype=tj.float32), x.to(tj.bfloat16)

    for _ in range(5):
        a, b = f(tj.ones(4, 5))
        assert (a.dtype, b.dtype) == (tj.float32, tj.bfloat16)
    assert next(event.kind for event in f._region.events(f._region.stops[0][0])) == "composite"


def test_nan_is_no_difference_to_verification() -> None:
    f = tj.compile(lambda x: (x * 2).relu(), verify="first")
    x = tj.tensor([1.0, float("nan"), -2.0], dtype=tj.bfloat16)
    for _ in range(4):
        assert str(f(x).tolist()) == "[2.0, nan, 0.0]"


def test_loaders_make_batches_of_it() -> None:
    data = tj.data.TensorDataset(tj.ones(6, 2, dtype=tj.bfloat16))
    for (batch,) in tj.data.DataLoader(data, batch_size=3):
        assert batch.dtype is tj.bfloat16


def test_programs_without_it_do_not_load_it() -> None:
    text = """
import sys, tracejit as tj
model = tj.nn.Linear(3, 2)
optimizer = tj.optim.Adam(model.parameters())
step = tj.compile(lambda x: model(x).sum())
for _ in range(4):
    step(tj.ones(4, 3))
assert tj.promote_types(tj.int64, tj.bfloat16) is tj.bfloat16
assert 'ml_dtypes' not in sys.modules
x = tj.ones(2, dtype=tj.bfloat16)
assert 'ml_dtypes' in sys.modules
assert (x + 0.1).tolist() == [1.1015625, 1.1015625]
assert (tj.ones(2) + 0.5).tolist() == [1.5, 1.5]
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", text], check=True, env=environment)
