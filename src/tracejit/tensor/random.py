"""Random tensors with PyTorch's arguments: everything is made of uniform numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.devices import device as device_
from tracejit.devices import require
from tracejit.dtypes import dtype as dtype_
from tracejit.eager import build_library, is_rare, run_op
from tracejit.ops.random import philox
from tracejit.ops.record import ops
from tracejit.runtime.ahead import AHEAD
from tracejit.tensor.composite import composite
from tracejit.tensor.creation import arange, sizes_of
from tracejit.tensor.dispatch import apply, made_on, wrap
from tracejit.tensor.generator import Generator, draw
from tracejit.tensor.host import host
from tracejit.tensor.inplace import assign
from tracejit.tensor.naming import named
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.reducing import amax, argmin, cumsum, sum
from tracejit.tensor.scalar import plain
from tracejit.tensor.shaping import narrow, unsqueeze
from tracejit.tensor.sorting import argsort
from tracejit.tensor.tensor import Tensor, method, on_gpu
from tracejit.tensor.transfer import moved


def uniform(shape: tuple[int, ...], dtype: dtype_, generator: Generator | None, where: device_) -> Any:
    """Numbers uniform in [0, 1)."""
    return made_on(where, ops.uniform, draw(generator), (shape, dtype))


@composite
def _bell(u: Tensor, v: Tensor) -> Any:
    """Normal numbers from two uniform ones.

    Source: Box and Muller, A note on the generation of random normal deviates (1958).
    """
    # 1 - u lies in (0, 1], so the logarithm is finite.
    radius = apply(ops.sqrt, (apply(ops.mul, (apply(ops.log, (apply(ops.sub, (1.0, u)),)), -2.0)),))
    return apply(ops.mul, (radius, apply(ops.cos, (apply(ops.mul, (v, 2.0 * math.pi)),))))


def bell(shape: tuple[int, ...], dtype: dtype_, generator: Generator | None, where: device_) -> Any:
    """Numbers of the standard normal distribution."""
    kind = dtypes.widened(dtype)
    u, v = uniform(shape, kind, generator, where), uniform(shape, kind, generator, where)
    return to_dtype(_bell(u, v), dtype)


def _float_type(dtype: dtype_ | None, name: str) -> dtype_:
    d = dtypes.get_default_dtype() if dtype is None else dtype
    if not d.is_floating_point:
        raise NotImplementedError(f"\"{name}\" not implemented for '{d.title}'")
    return d


def _finish(out: Any, requires_grad: bool) -> Tensor:
    return out.requires_grad_() if requires_grad else out  # type: ignore[no-any-return]


@named
def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: dtype_ | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers uniform in [0, 1).

    DType: the default float type if none is given.

    >>> import tracejit as tj
    >>> x = tj.rand(1000)
    >>> bool((x >= 0).all() & (x < 1).all())
    True
    """
    where = require(device)
    d = _float_type(dtype, "check_uniform_bounds")
    return _finish(uniform(sizes_of(size, "rand"), d, generator, where), requires_grad)


@named
def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: dtype_ | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers of the standard normal distribution.

    DType: the default float type if none is given. Edge: no float32 is beyond 5.8.
    """
    where = require(device)
    d = _float_type(dtype, "normal_kernel_cpu")
    return _finish(bell(sizes_of(size, "randn"), d, generator, where), requires_grad)


def _whole(
    low: int, high: int, shape: tuple[int, ...], dtype: dtype_, generator: Generator | None, where: device_
) -> Any:
    """Whole numbers in [low, high), each as likely as its share of 2**53 allows."""
    low, high = low.__index__(), high.__index__()
    if low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    u = uniform(shape, dtypes.float64, generator, where)
    steps = apply(ops.cast, (apply(ops.mul, (u, float(high - low))),), (dtypes.int64,))
    # A product of the largest number below 1 may be rounded up to the bound.
    steps = apply(ops.minimum, (steps, high - low - 1))
    return to_dtype(apply(ops.add, (steps, low)) if low else steps, dtype)


def randint(
    low: Any = None,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: dtype_ | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Whole numbers in [low, high); `randint(high, size)` starts at 0.

    DType: int64 if none is given. Raises: RuntimeError for an empty interval.
    """
    where = require(device)
    if size is None:
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    if size is None or high is None:
        raise TypeError("randint() received an invalid combination of arguments: a bound and a size are needed")
    shape = sizes_of((tuple(size),), "randint")
    return _finish(_whole(low or 0, high, shape, dtype or dtypes.int64, generator, where), requires_grad)


def rand_like(
    input: Tensor, *, dtype: dtype_ | None = None, device: Any = None, requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Numbers uniform in [0, 1) in the shape and type of a tensor."""
    return rand(input._shape, dtype=dtype or input._dtype, device=device or input.device, requires_grad=requires_grad,
                generator=generator)  # fmt: skip


def randn_like(
    input: Tensor, *, dtype: dtype_ | None = None, device: Any = None, requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Numbers of the standard normal distribution in the shape and type of a tensor."""
    return randn(input._shape, dtype=dtype or input._dtype, device=device or input.device, requires_grad=requires_grad,
                 generator=generator)  # fmt: skip


def randint_like(
    input: Tensor, low: int, high: int | None = None, *, dtype: dtype_ | None = None, device: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Whole numbers in [low, high), or [0, low), in the shape and type of a tensor."""
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, input._shape, dtype=dtype or input._dtype, device=device or input.device,
                   generator=generator)  # fmt: skip


def bernoulli(input: Tensor, p: Any = None, *, generator: Generator | None = None) -> Any:
    """1 with the probability that each element (or `p`) gives, else 0.

    DType: kept. Raises: NotImplementedError for a type that is not floating point.
    """
    if p is None and not input._dtype.is_floating_point:
        raise NotImplementedError(f"\"bernoulli_tensor_cpu_p_\" not implemented for '{input._dtype.title}'")
    source = input if p is None else p
    if isinstance(source, Tensor):
        kind = dtypes.widened(source._dtype)
        if not kind.is_floating_point:
            kind = dtypes.get_default_dtype()
        chance: Any = to_dtype(source.detach(), kind)
    else:
        kind = dtypes.get_default_dtype()
        chance = source
        if not 0 <= plain(source) <= 1:
            raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={plain(source)}")
    u = uniform(input._shape, kind, generator, input.device)
    return to_dtype(apply(ops.lt, (u, chance)), input._dtype)


method()(bernoulli)


def normal(
    mean: Any, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None, dtype: dtype_ | None = None,
    device: Any = None, requires_grad: bool = False,
) -> Any:  # fmt: skip
    """Numbers of normal distributions with the means and standard deviations given, which are tensors or numbers.

    Raises: RuntimeError for a negative standard deviation that is a number.
    """
    _check_std(std)
    tensors = [v for v in (mean, std) if isinstance(v, Tensor)]
    if size is not None:
        shape = sizes_of((tuple(size),), "normal")
        where = require(device)
        d = dtype or dtypes.get_default_dtype()
    elif tensors:
        shape = _common(tensors)
        where = tensors[0].device
        d = dtype or tensors[0]._dtype
    else:
        raise TypeError("normal(): 'size' is needed where neither mean nor std is a tensor")
    z = bell(shape, _float_type(d, "normal_kernel_cpu"), generator, where)
    return _finish(apply(ops.add, (apply(ops.mul, (z, _detached(std, d))), _detached(mean, d))), requires_grad)


def _check_std(std: Any) -> None:
    if not isinstance(std, Tensor) and not plain(std) >= 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {plain(std)}")


def _common(tensors: list[Tensor]) -> tuple[int, ...]:
    return np.broadcast_shapes(*(t._shape for t in tensors))


def _detached(x: Any, d: dtype_) -> Any:
    return to_dtype(x.detach(), d) if isinstance(x, Tensor) else x


# --- in place ---------------------------------------------------------------------------------------------------------

_OF_WEIGHTS = {2: ("gemm_panel_f32",), 4: ("conv_channels_f32", "conv_pack_f32")}
"""Kernels that take long, by the dimensions of the weights that they are for."""
_MANY_WEIGHTS = 1 << 12
"""Elements of a matrix from which on: the products of a smaller model may be such that other kernels do them, and what
two processes cost each other, 25 ms for the memory that both write to, would be most of its start."""


@contextmanager
def _foreseeing(weights: Tensor) -> Iterator[None]:
    """A block in which weights get values. Where a kernel is compiled for that, another process compiles those that
    take longest of what a model with such weights needs.
    """
    shape = weights._shape
    names = _OF_WEIGHTS.get(len(shape), ()) if weights._requires_grad else ()
    is_small = len(shape) == 2 and math.prod(shape) < _MANY_WEIGHTS
    if not names or is_small or weights._dtype is not dtypes.float32 or on_gpu(weights) or AHEAD.is_expecting:
        yield
        return
    with AHEAD.expecting(lambda: [partial(build_library, name) for name in names], fewest=1):
        yield


@method()
@named(**{"from": "a", "to": "b"})
def uniform_(self: Tensor, a: Any = 0.0, b: Any = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with numbers uniform in [a, b). Raises: RuntimeError if a > b."""
    low, high = plain(a), plain(b)
    if not low <= high:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low} > to={high}")
    with _foreseeing(self):
        u = uniform(self._shape, _float_type(self._dtype, "check_uniform_bounds"), generator, self.device)
    return assign(self, _stretched(u, low=float(low), width=float(high - low)))


@composite
def _stretched(u: Tensor, *, low: Any, width: Any) -> Any:
    return apply(ops.add, (apply(ops.mul, (u, width)), low))


@method()
def normal_(self: Tensor, mean: Any = 0.0, std: Any = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with numbers of a normal distribution."""
    _check_std(std)
    with _foreseeing(self):
        z = bell(self._shape, _float_type(self._dtype, "normal_kernel_cpu"), generator, self.device)
    return assign(self, _stretched(z, low=float(mean), width=float(std)))


@method()
def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill with 1 with probability `p`, else 0."""
    return assign(self, bernoulli(self, p, generator=generator))


@method()
@named(**{"from": "low", "to": "high"})
def random_(self: Tensor, low: Any = None, high: Any = None, *, generator: Generator | None = None) -> Tensor:
    """Fill with whole numbers in [low, high), [0, low), or all that the type holds exactly."""
    if low is None and high is None:
        widest = {0: 2, 2: 2 ** {2: 11, 4: 24, 8: 53}[self._dtype.itemsize] + 1 if self._dtype.is_floating_point else 0}
        low, high = 0, widest.get(self._dtype.category) or dtypes.iinfo(self._dtype).max
    elif high is None:
        low, high = 0, low
    return assign(self, _whole(low or 0, high, self._shape, self._dtype, generator, self.device))


@method()
def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with numbers of the exponential distribution of a rate. Raises: RuntimeError unless the rate is positive."""
    if not plain(lambd) > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={plain(lambd)}")
    d = _float_type(self._dtype, "exponential_kernel_cpu")
    u = uniform(self._shape, dtypes.widened(d), generator, self.device)
    waits = apply(ops.div, (apply(ops.log, (apply(ops.sub, (1.0, u)),)), -float(plain(lambd))))
    return assign(self, to_dtype(waits, d))


# --- of values --------------------------------------------------------------------------------------------------------


_FEW, _SORTED_WORK = 1 << 14, 16
"""Random numbers of which 31 leading bits are sorted first: two of so many are equal once in sixteen times. What NumPy
takes for one of the first uses counts as so many elements for `is_rare`."""


def _keys(count: int, drawn: tuple[int, int]) -> Any:
    """Random numbers of 64 bits, from a seed and an offset."""
    low, high = philox(*drawn, count)
    return low | (high << np.uint64(32))


def _are_distinct(ordered: Any) -> bool:
    return not (ordered[1:] == ordered[:-1]).any()


def _order(count: int, drawn: tuple[int, int]) -> Any:
    """The places of random numbers of 64 bits, the least first; of equal ones the first place first."""
    numbers = run_op(ops.uniform, drawn, ((count,), dtypes.float64))
    if count <= _FEW:
        leading = (numbers * 2.0**31).astype(np.int32)
        if is_rare(_order, count * _SORTED_WORK):
            words = np.sort(leading.astype(np.int64) << 32 | np.arange(count))
            order, leading = words & 0xFFFFFFFF, words >> 32
        else:
            order = run_op(ops.argsort, (leading,), (False,))
            leading = leading[order]
        if _are_distinct(leading):
            return order
    order = run_op(ops.argsort, (numbers,), (False,))
    return order if _are_distinct(numbers[order]) else np.argsort(_keys(count, drawn), kind="stable")


@host
def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    dtype: dtype_ | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A random order of 0, ..., n - 1."""
    where = require(device)
    if n < 0:
        raise RuntimeError(f"n must be non-negative, got {n}")
    order = _order(n, draw(generator)).astype((dtype or dtypes.int64).np, copy=False)
    return _finish(moved(wrap(order), where), requires_grad)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Places drawn from each row of weights, each in proportion to its weight.

    Raises: RuntimeError for weights that are negative, not finite or all 0, or fewer above 0 than draws without
    replacement.
    Source: without replacement as Efraimidis and Spirakis, Weighted random sampling with a reservoir (2006).

    >>> import tracejit as tj
    >>> tj.multinomial(tj.tensor([0.0, 3.0, 0.0]), 2, replacement=True)
    tensor([1, 1])
    """
    shape = input._shape
    if len(shape) not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if not input._dtype.is_floating_point:
        raise RuntimeError(f"multinomial only supports floating-point dtypes for input, got: {input._dtype.name}")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and shape[-1] < num_samples:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    if on_gpu(input) or not input.numel() or (replacement and input.numel() * num_samples > _LOOKS):
        return _drawn_by_search(input, num_samples, replacement, generator)
    weights = apply(
        ops.check_weights, (to_dtype(input.detach(), dtypes.float64),), (1 if replacement else num_samples,)
    )
    if replacement:
        return _drawn_again(weights, uniform((*shape[:-1], num_samples), dtypes.float64, generator, input.device))
    return _drawn_once(weights, uniform(shape, dtypes.float64, generator, input.device), num_samples)


_LOOKS = 1 << 24
"""Comparisons up to which each draw is compared with all classes, instead of looking for its class step by step."""


@host
def _drawn_by_search(input: Tensor, num_samples: int, replacement: bool, generator: Generator | None) -> Tensor:
    weights = np.atleast_2d(input._data()).astype(np.float64)
    weights = run_op(ops.check_weights, (weights,), (1 if replacement else num_samples,))
    rows, classes = weights.shape
    if replacement:
        u = (_keys(rows * num_samples, draw(generator)) >> np.uint64(11)) * 2.0**-53
        ends = np.cumsum(weights, 1)
        out = np.empty((rows, num_samples), np.int64)
        for r in range(rows):
            found = np.searchsorted(ends[r], u[r * num_samples : (r + 1) * num_samples] * ends[r, -1], side="right")
            out[r] = np.minimum(found, np.flatnonzero(weights[r])[-1])
    else:
        u = ((_keys(rows * classes, draw(generator)) >> np.uint64(11)) * 2.0**-53).reshape(rows, classes)
        waits = np.full(weights.shape, np.inf)
        np.divide(-np.log1p(-u), weights, out=waits, where=weights > 0)
        out = np.argsort(waits, 1, kind="stable")[:, :num_samples]
    return wrap(np.ascontiguousarray(out[0] if input._data().ndim == 1 else out))


@composite
def _drawn_again(weights: Tensor, u: Tensor) -> Any:
    """Of each row the first class whose end on a line of all weights lies beyond a draw.

    Rounding may put a draw at the end of the line; its class is then the last one with a weight.
    """
    ends = cumsum(weights, -1)
    aims = unsqueeze(u * narrow(ends, -1, ends._shape[-1] - 1, 1), -1)
    found = sum(unsqueeze(ends, -2) <= aims, -1)
    places = apply(ops.where, (apply(ops.gt, (weights, 0.0)), arange(ends._shape[-1]), 0))
    return apply(ops.minimum, (found, amax(places, -1, keepdim=True)))


@composite
def _drawn_once(weights: Tensor, u: Tensor, count: int) -> Any:
    waits = apply(ops.div, (apply(ops.neg, (apply(ops.log1p, (apply(ops.neg, (u,)),)),)), weights))
    waits = apply(ops.where, (apply(ops.gt, (weights, 0.0)), waits, math.inf))
    if count == 1:
        return argmin(waits, -1, keepdim=True)
    return narrow(argsort(waits, -1), -1, 0, count)


method()(multinomial)
