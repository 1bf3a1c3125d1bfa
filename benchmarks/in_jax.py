"""The workloads in JAX, each step under jax.jit; parameters are a dict with PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.models import LSTM_WIDTH, VOCABULARY
from benchmarks.workloads import DEEP, LEARNING_RATE, WORKLOADS, Case, Workload, endless, initial_value

Params = dict[str, jax.Array]
ROOT = math.sqrt(2 / math.pi)


def linear(p: Params, name: str, x: jax.Array) -> jax.Array:
    """x times the transposed weight, plus the bias."""
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def dropped(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Dropout."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0) if rate else x


def mlp(p: Params, x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Linear layers with ReLU between them."""
    depth = len(p) // 2
    for i in range(depth - 1):
        x = jax.nn.relu(linear(p, f"layers.{i}", x))
    return linear(p, f"layers.{depth - 1}", x)


def convolution(p: Params, name: str, x: jax.Array) -> jax.Array:
    """A 3x3 convolution with padding 1, ReLU and 2x2 max pooling."""
    x = lax.conv_general_dilated(
        x, p[f"{name}.weight"], (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    x = jax.nn.relu(x + p[f"{name}.bias"][:, None, None])
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def cnn(p: Params, x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Two convolutions and two linear layers."""
    side = int(np.sqrt(x.size // x.shape[0]))
    x = convolution(p, "conv2", convolution(p, "conv1", x.reshape(-1, 1, side, side)))
    x = jax.nn.relu(linear(p, "fc1", x.reshape(len(x), -1)))
    return linear(p, "fc2", dropped(x, key, rate))


def normed(p: Params, name: str, x: jax.Array) -> jax.Array:
    """Layer norm."""
    return layer_norm(x) * p[f"{name}.weight"] + p[f"{name}.bias"]


def layer_norm(x: jax.Array) -> jax.Array:
    """Layer norm without weights."""
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def attention(p: Params, name: str, x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Self-attention with four heads."""
    n, t, width = x.shape
    qkv = x @ p[f"{name}.in_proj_weight"].T + p[f"{name}.in_proj_bias"]
    q, k, v = (part.reshape(n, t, 4, -1).transpose(0, 2, 1, 3) for part in jnp.split(qkv, 3, -1))
    weights = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(width // 4).astype(np.float32), -1)
    mixed = (dropped(weights, key, rate) @ v).transpose(0, 2, 1, 3).reshape(n, t, width)
    return linear(p, f"{name}.out_proj", mixed)


def transformer(p: Params, x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """The demo's transformer over sixteen 2x2 patches."""
    keys = iter(jax.random.split(key, 7))
    patches = x.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)
    x = dropped(linear(p, "embed", patches) + p["position"], next(keys), rate)
    for i in range(2):
        name = f"blocks.{i}"
        h = attention(p, f"{name}.attention", normed(p, f"{name}.norm1", x), next(keys), rate)
        x = x + dropped(h, next(keys), rate)
        h = jax.nn.gelu(linear(p, f"{name}.fc1", normed(p, f"{name}.norm2", x)), approximate=False)
        x = x + dropped(linear(p, f"{name}.fc2", h), next(keys), rate)
    return linear(p, "head", normed(p, "norm", x).mean(1))


def batch_norm(p: Params, name: str, x: jax.Array) -> jax.Array:
    """Batch norm with the statistics of the batch."""
    mean = x.mean((0, 2, 3), keepdims=True)
    var = jnp.square(x - mean).mean((0, 2, 3), keepdims=True)
    scale, shift = (p[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
    return (x - mean) * lax.rsqrt(var + 1e-5) * scale + shift


def plain_convolution(p: Params, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution without bias, padded so that a stride of 1 keeps the size."""
    weight = p[f"{name}.weight"]
    pad = (weight.shape[2] // 2,) * 2
    return lax.conv_general_dilated(x, weight, (stride, stride), (pad, pad), dimension_numbers=("NCHW", "OIHW", "NCHW"))


def residual_block(p: Params, name: str, x: jax.Array, stride: int) -> jax.Array:
    """Two convolutions with batch norm beside a shortcut."""
    h = jax.nn.relu(batch_norm(p, f"{name}.norm1", plain_convolution(p, f"{name}.conv1", x, stride)))
    h = batch_norm(p, f"{name}.norm2", plain_convolution(p, f"{name}.conv2", h))
    if stride != 1:
        x = batch_norm(p, f"{name}.shortcut.1", plain_convolution(p, f"{name}.shortcut.0", x, stride))
    return jax.nn.relu(h + x)


def resnet(p: Params, x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """A convolution and two residual blocks. The running statistics of batch norm are left out."""
    x = jax.nn.relu(batch_norm(p, "norm", plain_convolution(p, "conv", x)))
    x = residual_block(p, "block2", residual_block(p, "block1", x, 1), 2)
    return linear(p, "head", x.mean((2, 3)))


def lstm(p: Params, x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """An LSTM as a scan over time."""

    def cell(state: tuple[jax.Array, jax.Array], now: jax.Array) -> Any:
        h, c = state
        i, f, g, o = jnp.split(linear(p, "inputs", now) + linear(p, "hidden", h), 4, 1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    zeros = jnp.zeros((x.shape[0], LSTM_WIDTH))
    (h, _), _ = lax.scan(cell, (zeros, zeros), x.transpose(1, 0, 2))
    return linear(p, "head", h)


def gpt(p: Params, x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """A GPT over characters."""
    n, t = x.shape
    h = p["token.weight"][x] + p["position.weight"][:t]
    hidden = jnp.where(jnp.tril(jnp.ones((t, t), bool)), 0.0, -jnp.inf)
    for i in range(4):
        name = f"blocks.{i}"
        parts = jnp.split(linear(p, f"{name}.qkv", normed(p, f"{name}.norm1", h)), 3, -1)
        q, k, v = (part.reshape(n, t, 4, -1).transpose(0, 2, 1, 3) for part in parts)
        weights = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]).astype(np.float32) + hidden, -1)
        h = h + linear(p, f"{name}.out", (weights @ v).transpose(0, 2, 1, 3).reshape(n, t, -1))
        inner = jax.nn.gelu(linear(p, f"{name}.fc1", normed(p, f"{name}.norm2", h)), approximate=False)
        h = h + linear(p, f"{name}.fc2", inner)
    return (normed(p, "norm", h) @ p["head.weight"].T).reshape(n * t, -1)


def _linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _mlp_shapes(*sizes: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for i, (a, b) in enumerate(pairwise(sizes)):
        shapes |= _linear_shapes(f"layers.{i}", a, b)
    return shapes


def _cnn_shapes(side: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        "conv1.weight": (16, 1, 3, 3),
        "conv1.bias": (16,),
        "conv2.weight": (32, 16, 3, 3),
        "conv2.bias": (32,),
        **_linear_shapes("fc1", 32 * (side // 4) ** 2, hidden),
        **_linear_shapes("fc2", hidden, 10),
    }


def _transformer_shapes(width: int = 64) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {**_linear_shapes("embed", 4, width), "position": (16, width)}
    norms = ["norm"]
    for i in range(2):
        name = f"blocks.{i}"
        norms += [f"{name}.norm1", f"{name}.norm2"]
        shapes |= {
            f"{name}.attention.in_proj_weight": (3 * width, width),
            f"{name}.attention.in_proj_bias": (3 * width,),
            **_linear_shapes(f"{name}.attention.out_proj", width, width),
            **_linear_shapes(f"{name}.fc1", width, 4 * width),
            **_linear_shapes(f"{name}.fc2", 4 * width, width),
        }
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes | _linear_shapes("head", width, 10)


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _resnet_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"conv.weight": (32, 3, 3, 3), **_norm_shapes("norm", 32)}
    for name, inputs, outputs in (("block1", 32, 32), ("block2", 32, 64)):
        for number, before in (("1", inputs), ("2", outputs)):
            shapes |= {f"{name}.conv{number}.weight": (outputs, before, 3, 3)}
            shapes |= _norm_shapes(f"{name}.norm{number}", outputs)
    shapes |= {"block2.shortcut.0.weight": (64, 32, 1, 1), **_norm_shapes("block2.shortcut.1", 64)}
    return shapes | _linear_shapes("head", 64, 10)


def _lstm_shapes() -> dict[str, tuple[int, ...]]:
    gates = 4 * LSTM_WIDTH
    parts = {"inputs": (LSTM_WIDTH, gates), "hidden": (LSTM_WIDTH, gates), "head": (LSTM_WIDTH, 10)}
    return {key: shape for name, sizes in parts.items() for key, shape in _linear_shapes(name, *sizes).items()}


def _gpt_shapes(width: int = 128) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token.weight": (VOCABULARY, width), "position.weight": (64, width)}
    for i in range(4):
        name = f"blocks.{i}"
        shapes |= {
            **_norm_shapes(f"{name}.norm1", width),
            **_linear_shapes(f"{name}.qkv", width, 3 * width),
            **_linear_shapes(f"{name}.out", width, width),
            **_norm_shapes(f"{name}.norm2", width),
            **_linear_shapes(f"{name}.fc1", width, 4 * width),
            **_linear_shapes(f"{name}.fc2", 4 * width, width),
        }
    return {**shapes, **_norm_shapes("norm", width), "head.weight": (VOCABULARY, width)}


Model = tuple[Callable[..., jax.Array], dict[str, tuple[int, ...]]]
MODELS: dict[str, Model] = {
    "mlp-tiny": (mlp, _mlp_shapes(4, 64, 64, 2)),
    "mlp-small": (mlp, _mlp_shapes(64, 128, 128, 10)),
    "mlp-wide": (mlp, _mlp_shapes(784, 512, 512, 10)),
    **{name: (mlp, _mlp_shapes(*sizes)) for name, sizes in DEEP.items()},
    "cnn-demo": (cnn, _cnn_shapes(8, 64)),
    "transformer-demo": (transformer, _transformer_shapes()),
    "cnn-28": (cnn, _cnn_shapes(28, 128)),
    "resnet": (resnet, _resnet_shapes()),
    "lstm": (lstm, _lstm_shapes()),
    "gpt": (gpt, _gpt_shapes()),
}

FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "chain-4m": lambda x, y: jnp.exp(jnp.tanh(x * y + 1) * jax.nn.sigmoid(x) - y / 2),
    "gelu-4m": lambda x: 0.5 * x * (1 + jnp.tanh(ROOT * (x + 0.044715 * x * x * x))),
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "layer-norm": layer_norm,
    "sum-squares": lambda x: (x * x).sum(),
    "column-sums": lambda x: x.sum(0),
    "axpy": lambda x, y: 1.5 * x + y,
    "symmetrize": lambda x: (x + x.T) / 2,
    "matmul-1024": lambda x, y: x @ y,
    "matmul-512-bias-relu": lambda x, y, b: jax.nn.relu(x @ y + b),
    "matmul-32": lambda x, y: x @ y,
}


def set_threads(count: int) -> None:
    """Nothing to do: XLA takes as many threads as the process may use CPUs, and the runner limits those."""


def versions() -> dict[str, str]:
    """What is timed."""
    return {"jax": jax.__version__}


def build(name: str, compiled: bool, deterministic: bool) -> Case:
    """The named workload, freshly initialised."""
    workload = WORKLOADS[name]
    if name in FUNCTIONS:
        function = jax.jit(FUNCTIONS[name])
        inputs = tuple(jnp.asarray(a) for a in workload.data()[0])
        return Case(lambda: function(*inputs).block_until_ready(), np.asarray)
    if name == "adam-100":
        return _updates(workload)
    if name == "policy":
        return _inference(workload)
    rate = 0.1 if workload.random and not deterministic else 0.0
    return _training(workload, *MODELS[name], rate)


def adam(p: Params, grads: Params, first: Params, second: Params, count: jax.Array) -> tuple[Params, Params, Params]:
    """Parameters and moments after a step of Adam, the `count`th."""
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
    size, scale = LEARNING_RATE / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
    p = jax.tree.map(lambda w, m, v: w - size * m / (jnp.sqrt(v) / scale + 1e-8), p, first, second)
    return p, first, second


def _updates(workload: Workload) -> Case:
    def train(state: Any, grads: Params) -> Any:
        *held, count = state
        count = count + 1
        return (*adam(held[0], grads, *held[1:], count), count)

    step = jax.jit(train, donate_argnums=0)
    params, grads = ({f"tensors.{i}": jnp.asarray(a) for i, a in enumerate(batch)} for batch in workload.data())
    zeros = {name: jnp.zeros_like(value) for name, value in params.items()}
    current = [(params, zeros, jax.tree.map(jnp.copy, zeros), jnp.float32(0))]
    last = f"tensors.{len(params) - 1}"

    def update() -> jax.Array:
        current[0] = step(current[0], grads)
        return current[0][0][last].block_until_ready()

    return Case(update, np.array, lambda: {f"param.{name}": np.array(value) for name, value in current[0][0].items()})


def _inference(workload: Workload) -> Case:
    p = {name: jnp.asarray(initial_value(name, shape)) for name, shape in _mlp_shapes(4, 64, 64, 2).items()}
    policy = jax.jit(lambda x: jax.nn.softmax(mlp(p, x, x, 0.0), -1))
    batches = endless([(jnp.asarray(x),) for x, _ in workload.data()])
    return Case(lambda: policy(*next(batches)).block_until_ready(), np.asarray)


def _training(workload: Workload, forward: Callable[..., jax.Array], shapes: dict[str, Any], rate: float) -> Case:
    def loss_of(p: Params, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        scores = jax.nn.log_softmax(forward(p, x, key, rate), -1)
        return -jnp.take_along_axis(scores, y[:, None], 1).mean()

    def train(state: Any, x: jax.Array, y: jax.Array) -> Any:
        p, first, second, count, key = state
        key, drawn = jax.random.split(key) if rate else (key, key)
        loss, grads = jax.value_and_grad(loss_of)(p, x, y, drawn)
        count = count + 1
        return (*adam(p, grads, first, second, count), count, key), loss

    train = jax.jit(train, donate_argnums=0)
    params = {name: jnp.asarray(initial_value(name, shape)) for name, shape in shapes.items()}
    zeros = {name: jnp.zeros_like(value) for name, value in params.items()}
    current = [(params, zeros, jax.tree.map(jnp.copy, zeros), jnp.float32(0), jax.random.key(0))]
    batches = endless([tuple(map(_narrow, batch)) for batch in workload.data()])

    def step() -> jax.Array:
        current[0], loss = train(current[0], *next(batches))
        return loss.block_until_ready()

    return Case(step, np.asarray, lambda: {f"param.{name}": np.array(value) for name, value in current[0][0].items()})


def _narrow(array: Any) -> jax.Array:
    return jnp.asarray(array.astype(np.int32) if array.dtype == np.int64 else array)
