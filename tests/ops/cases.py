"""Sample calls of every record: operands by shape and kind, and attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.cpu import multiplies_bfloat16
from tracejit.kernels.gemm import panel_columns
from tracejit.ops.record import Op, ops


@dataclass(frozen=True)
class Values:
    """An operand of random values of the type under test, between the bounds of the record's sample."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Places:
    """An operand of int64 with given values."""

    values: Any


@dataclass(frozen=True)
class Given:
    """An operand of the type under test with given values."""

    values: Any


@dataclass(frozen=True)
class Singles:
    """An operand of random float32 whatever the type under test."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Flags:
    """An operand of random bools."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """An operand of bools with given values."""

    values: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One call of a record."""

    op: Op
    operands: tuple[Any, ...]
    attrs: dict[str, Any]
    types: str = "bif"

    @property
    def attr_values(self) -> tuple[Any, ...]:
        return self.op.pack(self.attrs)

    def __str__(self) -> str:
        return f"{self.op.name}({', '.join(map(str, [*self.operands, *self.attrs.values()]))})".replace(" ", "")

    def build(self, dtype: dtypes.dtype, layout: str = "contiguous", seed: int = 0) -> list[Any]:
        """Operands as arrays (and numbers as they are)."""
        rng = np.random.default_rng(seed)
        return [self._operand(o, dtype, layout, rng) for o in self.operands]

    def _operand(self, operand: Any, dtype: dtypes.dtype, layout: str, rng: np.random.Generator) -> Any:
        if isinstance(operand, Places):
            return np.array(operand.values, np.int64)
        if isinstance(operand, Held):
            return np.array(operand.values, bool)
        if isinstance(operand, Given):
            return np.array(operand.values, dtype.np)
        if isinstance(operand, Flags):
            return lay_out(np.asarray(rng.integers(0, 2, operand.shape), bool), layout)
        if isinstance(operand, Singles):
            return lay_out(random_array(rng, operand.shape, dtypes.float32, self.op.sample), layout)
        if isinstance(operand, Values):
            return lay_out(random_array(rng, operand.shape, dtype, self.op.sample), layout)
        return operand


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: dtypes.dtype, bounds: Any) -> Any:
    """Values of a type, inside the bounds."""
    low, high = bounds
    if dtype.is_floating_point:
        return np.asarray(rng.uniform(low, high, shape), dtype.np)
    if dtype is dtypes.bool:
        return np.asarray(rng.integers(0, 2, shape), bool)
    low = max(int(np.ceil(low)), 0 if not dtype.is_signed else -100)
    return np.asarray(rng.integers(low, int(high) + 1, shape), dtype.np)


def lay_out(x: Any, layout: str) -> Any:
    """The same values (of `broadcast`: a part of them, repeated) in another arrangement of memory."""
    if layout == "transposed" and x.ndim:
        return np.asfortranarray(x)
    if layout == "strided" and x.ndim:
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "broadcast" and x.ndim and x.size:
        return np.broadcast_to(x[:1], x.shape)
    if layout == "reversed" and x.ndim:
        return np.array(x[..., ::-1])[..., ::-1]
    return x


LAYOUTS = ("contiguous", "transposed", "strided", "broadcast", "reversed")


def of_family(op: Op) -> list[Case]:
    """The cases of an elementwise record: shapes that broadcast, 0-d, zero-size and Python numbers."""
    shapes: list[list[tuple[int, ...]]] = [[(2, 3), (2, 3), (2, 3)], [(), (), ()], [(0, 3), (0, 3), (0, 3)]]
    n = len(op.params)
    if n > 1:
        shapes += [[(2, 1, 4), (3, 1), (2, 3, 4)], [(3,), (2, 3), ()], [(0, 1), (1, 4), (1,)]]
    attrs = {"dtype": dtypes.float64} if "dtype" in op.attrs else {}
    first = Flags if op.name == "where" else Values
    out = [Case(op, (first(s[0]), *map(Values, s[1:n])), attrs) for s in shapes]
    if n == 2:
        out += [Case(op, (Values((2, 3)), 2), attrs, "if"), Case(op, (3, Values((2, 3))), attrs, "if")]
        if "f" in op.kinds:
            out += [Case(op, (Values((2, 3)), 1.5), attrs, "f"), Case(op, (0.75, Values((2, 3))), attrs, "f")]
    if op.name == "where":
        out.append(Case(op, (Flags((2, 3)), Values((3,)), 2), {}, "if"))
        out.append(Case(op, (Flags(()), 0, Values((2, 3))), {}, "if"))
    return out


_CONV = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
_CONV_2 = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
_POOL = {"kernel": (2, 3), "stride": (2, 1), "padding": (1, 1)}
_RESAMPLE: dict[str, Any] = {"ratio": 0.0, "taps": 2, "places": "middle"}
_AVG = {**_POOL, "ceil_mode": False, "count_include_pad": True, "divisor": 0}

FOR_CPUS = {
    *("pack_panels", "matmul_panels", "matmul_relu", "matmul_bias", "matmul_mul", "matmul_mask", "matmul_add_both"),
    "bfloat16_matmul", "check_index", "distances",
}
"""What a compiled program for the CPU makes of products and of what is picked by an index, and only that; products on a
CPU's tiles; what a GPU does by other operations."""

_PANEL = panel_columns("float32")
_HEADS = [Values((2, 3, 4, 5)), Values((2, 3, 6, 5)), Values((2, 3, 6, 2))]
_ALONE = [Values((1, 1, 3, 2)), Values((1, 1, 1, 2)), Values((1, 1, 1, 3))]
_BACK = [Values((1, 2, 2, 3)), Values((1, 2, 2, 5)), Values((1, 2, 4, 5)), Values((1, 2, 4, 3))]
# A row's maximum, about, and its sum.
_STATS = Given([[[[1, 3], [0.5, 2]], [[0, 4], [1, 1.5]]]])

_SIZES = ((3, 4, 5), (20, 9, 40), (2, 0, 3), (0, 2, 3))
_GATED: list[Any] = [([Values((m, k)), Values((k, n)), Values((m, n))], {}) for m, k, n in _SIZES]
_BIASED: list[Any] = [([Values((m, k)), Values((k, n)), Values((n,))], {}) for m, k, n in _SIZES]

_BY_NAME: dict[str, list[tuple[list[Any], dict[str, Any]]]] = {
    "full": [([2], {"shape": (2, 3), "dtype": dtypes.float32}), ([0.5], {"shape": (), "dtype": dtypes.float64})],
    "iota": [([], {"size": 5}), ([], {"size": 0})],
    "uniform": [
        ([7, 1], {"shape": (3, 5), "dtype": dtypes.float32}),
        ([2**40 + 1, 2**33], {"shape": (4,), "dtype": dtypes.float64}),
        ([0, 0], {"shape": (0, 2), "dtype": dtypes.float16}),
    ],
    "matmul": [
        ([Values((3, 4)), Values((4, 5))], {}),
        ([Values((2, 3, 4)), Values((2, 4, 1))], {}),
        ([Values((2, 0)), Values((0, 3))], {}),
    ],
    "standardize": [
        ([Values((2, 3, 4)), Values((1, 3, 1)), Values((1, 3, 1)), Values((1, 3, 1)), 1e-5], {}),
        ([Values((2, 3)), Values((2, 1)), Values((2, 1)), 1.0, 1e-5], {}),
        ([Values((0, 3)), Values((0, 1)), Values((0, 1)), 1.0, 1e-5], {}),
    ],
    "dot": [
        ([Values((7,))] * 2, {"dim": 0}),
        ([Values((0,))] * 2, {"dim": 0}),
        ([Values((3, 5))] * 2, {"dim": 0}),
        ([Values((2, 3, 5))] * 2, {"dim": 2}),
        ([Values((2, 0, 3))] * 2, {"dim": 1}),
    ],
    "distances": [
        ([Values((3, 4)), Values((5, 4))], {}),
        ([Values((2, 3, 4)), Values((2, 1, 4))], {}),
        ([Values((1, 5)), Values((20, 5))], {}),
        ([Values((2, 0)), Values((3, 0))], {}),
        ([Values((0, 3)), Values((2, 3))], {}),
    ],
    "bfloat16_matmul": [
        ([Singles((3, 4)), Singles((4, 5))], {"single": True}),
        ([Singles((2, 0)), Singles((0, 3))], {"single": True}),
        ([Singles((2, 20, 33)), Singles((2, 33, 18))], {"single": False}),
    ],
    "pack_panels": [
        ([Singles((4, 5))], {"columns": _PANEL}),
        ([Singles((9, 40))], {"columns": _PANEL}),
        ([Singles((0, 3))], {"columns": _PANEL}),
    ],
    "matmul_panels": [
        ([Singles((3, 4)), Singles((1, 4, _PANEL))], {"size": 5}),
        ([Singles((20, 9)), Singles((2, 9, _PANEL))], {"size": _PANEL + 3}),
        ([Singles((0, 2)), Singles((1, 2, _PANEL))], {"size": 3}),
    ],
    "matmul_add": [
        ([Values((3, 5)), Values((3, 4)), Values((4, 5))], {}),
        ([Values((20, 40)), *[Values((20, 9)), Values((9, 40))] * 3], {}),
        ([Values((2, 3)), Values((2, 0)), Values((0, 3))], {}),
        ([Values((0, 3)), Values((0, 2)), Values((2, 3))], {}),
    ],
    "matmul_add_both": [
        ([Values((3, 5)), Values((3, 5)), Values((3, 4)), Values((4, 5)), Values((4, 5))], {}),
        ([*[Values((20, 40))] * 2, *[Values((20, 9)), Values((9, 40)), Values((9, 40))] * 2], {}),
        ([*[Values((2, 3))] * 2, Values((2, 0)), Values((0, 3)), Values((0, 3))], {}),
    ],
    "matmul_mul": _GATED,
    "matmul_mask": _GATED,
    "matmul_bias": _BIASED,
    "matmul_relu": _BIASED,
    "attention": [
        (_HEADS, {"scale": 0.5, "causal": False}),
        (_HEADS, {"scale": -0.3, "causal": True}),
        (_ALONE, {"scale": 1.0, "causal": False}),
        ([Values((2, 0, 3, 2))] * 3, {"scale": 1.0, "causal": True}),
    ],
    "attention_grad": [
        ([*_BACK, _STATS], {"scale": 0.2, "causal": False}),
        ([*_BACK, _STATS], {"scale": 0.1, "causal": True}),
    ],
    "masked_attention": [
        ([*_HEADS, Flags((2, 3, 4, 6))], {"scale": 0.5}),
        ([*_ALONE, Flags((1, 1, 3, 1))], {"scale": 1.0}),
    ],
    "masked_attention_grad": [
        ([*_BACK, Flags((1, 2, 2, 4)), _STATS], {"scale": 0.2}),
        ([*_BACK, Values((1, 2, 2, 4)), _STATS], {"scale": 0.1}),
    ],
    "linear_recurrence": [
        *(([Values(shape), Values(shape)], {"dim": dim}) for shape, dim in (((2, 3, 4), 2), ((2, 3, 4), 0), ((1,), 0))),
        ([Values((0, 3)), Values((0, 3))], {"dim": 0}),
        ([Given([[2, 0, 3, 5], [0, 7, 0, 1]]), Given([[0, 1, 0, 2], [3, 0, 0, 5]])], {"dim": 1}),
    ],
    "take": [
        ([Values((4, 3)), Places([2, 0, 2])], {"dim": 0}),
        ([Values((2, 4, 3)), Places([3, 1])], {"dim": 1}),
        ([Values((4, 3)), Places([])], {"dim": 1}),
    ],
    "index_add": [
        ([Values((4, 3)), Places([2, 0, 2]), Values((3, 3))], {"dim": 0}),
        ([Values((2, 4)), Places([3, 1]), Values((2, 2))], {"dim": 1}),
    ],
    "index_copy": [
        ([Values((4, 3)), Places([2, 0]), Values((2, 3))], {"dim": 0}),
        ([Values((2, 4)), Places([3, 1, 0]), Values((2, 3))], {"dim": 1}),
    ],
    "gather": [
        ([Values((4, 3)), Places([[2, 0, 2], [1, 1, 3]])], {"dim": 0}),
        ([Values((4, 3)), Places([[2, 0, 2, 1], [1, 1, 0, 0]])], {"dim": 1}),
        ([Values((4,)), Places([])], {"dim": 0}),
    ],
    "scatter": [
        ([Values((4, 3)), Places([[2, 0, 2], [1, 1, 3]]), Values((2, 3))], {"dim": 0}),
        ([Values((4, 3)), Places([[2, 0], [1, 2]]), Values((3, 3))], {"dim": 1}),
    ],
    "scatter_add": [
        ([Values((4, 3)), Places([[2, 0, 2], [2, 1, 3]]), Values((2, 3))], {"dim": 0}),
        ([Values((4, 3)), Places([[2, 2], [1, 2]]), Values((3, 4))], {"dim": 1}),
    ],
    "argsort": [
        ([Values((3, 5))], {"descending": False}),
        ([Given([[2, 0, 2, 1, 0], [1, 1, 1, 1, 1]])], {"descending": True}),
        ([Values((2, 3, 70))], {"descending": True}),
        ([Values((7,))], {"descending": False}),
        ([Values((2, 0))], {"descending": False}),
    ],
    "topk": [
        ([Values((3, 5))], {"k": 2, "largest": True}),
        ([Given([[2, 0, 2, 1, 0], [1, 1, 1, 1, 1]])], {"k": 4, "largest": False}),
        ([Values((2, 3, 70))], {"k": 9, "largest": True}),
        ([Values((7,))], {"k": 0, "largest": False}),
        ([Values((0, 3))], {"k": 1, "largest": True}),
    ],
    "searchsorted": [
        ([Given([1, 1, 2, 5, 7]), Given([[0, 1, 2], [3, 7, 9]])], {"right": False}),
        ([Given([[1, 1, 2], [0, 4, 4]]), Given([[0, 1, 2, 1], [4, 5, 0, 1]])], {"right": True}),
        ([Given(list(range(100))), Values((3, 120))], {"right": True}),
        ([Values((0,)), Values((3,))], {"right": False}),
        ([Given([3]), Values(())], {"right": False}),
        ([Values((0, 3)), Values((0, 2))], {"right": False}),
    ],
    "check_weights": [
        ([Given([[0, 2, 1], [3, 0, 1]])], {"least": 2}),
        ([Given([1] * 9)], {"least": 1}),
        ([Values((0, 3))], {"least": 1}),
    ],
    "true_places": [
        ([Held((1, 0, 0, 1, 1))], {"count": 3}),
        ([Held((0, 0))], {"count": 0}),
        ([Held(())], {"count": 0}),
    ],
    "check_index": [([Places([0, 3, 2])], {"size": 4}), ([Places([])], {"size": 4})],
    "wrap_index": [([Places([-1, 0, 3, -4])], {"size": 4}), ([Places([])], {"size": 4})],
    "reshape": [
        ([Values((2, 6))], {"shape": (3, 4)}),
        ([Values(())], {"shape": (1, 1)}),
        ([Values((0, 2))], {"shape": (3, 0)}),
    ],
    "reshaped": [
        ([Values((2, 6))], {"shape": (3, 4)}),
        ([Values(())], {"shape": (1, 1)}),
        ([Values((0, 2))], {"shape": (3, 0)}),
    ],
    "permute": [([Values((2, 3, 4))], {"dims": (2, 0, 1)}), ([Values(())], {"dims": ()})],
    "expand": [
        ([Values((3, 1))], {"shape": (2, 3, 4)}),
        ([Values((1, 3, 1, 1))], {"shape": (5, 3, 2, 4)}),
        ([Values((2, 1))], {"shape": (2, 0)}),
        ([Values(())], {"shape": (2, 2)}),
    ],
    "slice": [
        ([Values((5, 4))], {"start": (1, 0), "length": (2, 4), "step": (2, 1)}),
        ([Values((3,))], {"start": (3,), "length": (0,), "step": (1,)}),
        ([Values(())], {"start": (), "length": (), "step": ()}),
    ],
    "unslice": [
        ([Values((2, 4))], {"shape": (5, 4), "start": (1, 0), "step": (2, 1)}),
        ([Values((0,))], {"shape": (3,), "start": (3,), "step": (1,)}),
    ],
    "place": [
        ([Values((5, 4)), Values((2, 3))], {"start": (1, 0), "step": (2, 1)}),
        ([Values((2, 2)), Values((2, 2))], {"start": (0, 0), "step": (1, 1)}),
    ],
    "dynamic_slice": [
        ([Values((5, 4)), 2], {"dim": 0, "length": 3}),
        ([Values((2, 4, 3)), 0], {"dim": 1, "length": 1}),
        ([Values((3,)), 3], {"dim": 0, "length": 0}),
    ],
    "dynamic_place": [
        ([Values((5, 4)), Values((2, 4)), 3], {"dim": 0}),
        ([Values((2, 4, 3)), Values((2, 1, 3)), 0], {"dim": 1}),
        ([Values((3,)), Values((3,)), 0], {"dim": 0}),
    ],
    "flip": [([Values((2, 3, 4))], {"dims": (0, 2)}), ([Values((0, 3))], {"dims": (1,)})],
    "diagonal": [([Values((3, 3))], {}), ([Values((2, 4, 4))], {}), ([Values((2, 0, 0))], {})],
    "windows": [
        ([Values((7,))], {"dim": 0, "size": 3, "step": 1}),
        ([Values((2, 7, 3))], {"dim": 1, "size": 3, "step": 2}),
        ([Values((2, 7))], {"dim": 1, "size": 2, "step": 2}),
        ([Values((8, 2))], {"dim": 0, "size": 2, "step": 3}),
        ([Values((5,))], {"dim": 0, "size": 4, "step": 3}),
        ([Values((7,))], {"dim": 0, "size": 2, "step": 4}),
        ([Values((2, 20))], {"dim": 1, "size": 9, "step": 4}),
        ([Values((2, 50))], {"dim": 1, "size": 36, "step": 7}),
        ([Values((4,))], {"dim": 0, "size": 0, "step": 2}),
        ([Values((0, 4))], {"dim": 1, "size": 2, "step": 1}),
    ],
    "cat": [
        ([Values((2, 3)), Values((2, 1)), Values((2, 0))], {"dim": 1}),
        ([Values((2, 3))], {"dim": 0}),
    ],
    "conv2d": [
        ([Values((2, 3, 5, 6)), Values((4, 3, 2, 3))], _CONV),
        ([Values((2, 4, 6, 5)), Values((6, 2, 3, 2))], _CONV_2),
    ],
    "conv2d_input_grad": [
        ([Values((2, 4, 4, 4)), Values((4, 3, 2, 3))], {**_CONV, "size": (5, 6)}),
        ([Values((2, 6, 3, 7)), Values((6, 2, 3, 2))], {**_CONV_2, "size": (6, 5)}),
    ],
    "conv2d_weight_grad": [
        ([Values((2, 4, 4, 4)), Values((2, 3, 5, 6))], {**_CONV, "kernel": (2, 3)}),
        ([Values((2, 6, 3, 7)), Values((2, 4, 6, 5))], {**_CONV_2, "kernel": (3, 2)}),
    ],
    "resample": [
        ([Values((2, 3, 5))], {**_RESAMPLE, "dim": 2, "size": 10}),
        ([Values((2, 5, 3))], {**_RESAMPLE, "dim": 1, "size": 3, "taps": 4}),
        ([Values((3, 4))], {**_RESAMPLE, "dim": 0, "size": 7, "taps": 1, "places": "left", "ratio": 0.4}),
        ([Values((3, 4))], {**_RESAMPLE, "dim": 1, "size": 9, "taps": 1, "places": "within"}),
        ([Values((20, 6))], {**_RESAMPLE, "dim": 1, "size": 70, "places": "corners"}),
        ([Values((0, 4))], {**_RESAMPLE, "dim": 1, "size": 5}),
    ],
    "resample_grad": [
        ([Values((2, 3, 10))], {**_RESAMPLE, "dim": 2, "size": 5}),
        ([Values((2, 3, 3))], {**_RESAMPLE, "dim": 1, "size": 5, "taps": 4}),
        ([Values((7, 4))], {**_RESAMPLE, "dim": 0, "size": 3, "taps": 1, "places": "left", "ratio": 0.4}),
        ([Values((3, 2))], {**_RESAMPLE, "dim": 1, "size": 40}),
        ([Values((18, 70))], {**_RESAMPLE, "dim": 1, "size": 6, "places": "corners"}),
    ],
    "max_pool2d": [
        ([Values((2, 3, 5, 6))], {**_POOL, "dilation": (1, 1), "ceil_mode": False}),
        ([Values((2, 1, 6, 6))], {**_POOL, "dilation": (2, 1), "ceil_mode": True}),
    ],
    "max_pool2d_grad": [
        (
            [Values((1, 2, 2, 3)), Places([[[[6, 2, 11], [18, 14, 23]], [[1, 8, 5], [12, 21, 16]]]])],
            {"size": (5, 6), "kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)},
        ),
        (
            [Values((1, 1, 2, 2)), Places([[[[4, 4], [4, 8]]]])],
            {"size": (3, 3), "kernel": (2, 2), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)},
        ),
    ],
    "avg_pool2d": [
        ([Values((2, 3, 5, 6))], _AVG),
        ([Values((1, 2, 6, 6))], {**_AVG, "ceil_mode": True, "count_include_pad": False}),
        ([Values((1, 2, 4, 4))], {**_AVG, "ceil_mode": True, "divisor": 5}),
    ],
    "avg_pool2d_grad": [
        ([Values((2, 3, 3, 6))], {**_AVG, "size": (5, 6)}),
        ([Values((1, 2, 4, 6))], {**_AVG, "size": (6, 6), "ceil_mode": True, "count_include_pad": False}),
    ],
}


def _along_a_dimension(op: Op) -> list[Case]:
    shapes: list[tuple[tuple[int, ...], int]] = [((2, 3, 4), 2), ((2, 3, 4), 0), ((3, 5), 1), ((7,), 0), ((0, 3), 1)]
    out = [Case(op, (Values(shape),), {"dim": dim}) for shape, dim in shapes]
    # Zeros are where a gradient that divides by the elements breaks.
    zeros = Case(op, (Given([[2, 0, 3, 5], [0, 7, 0, 1], [4, 3, 2, 1]]),), {"dim": 1})
    return [*out, zeros] if op.smooth else out


def cases(op: Op) -> list[Case]:
    """Sample calls of a record."""
    if op.name in _BY_NAME:
        return [Case(op, tuple(operands), attrs) for operands, attrs in _BY_NAME[op.name]]
    if op.family == "elementwise":
        return of_family(op)
    if op.params == ("x",) and op.attrs == ("dim",):
        return _along_a_dimension(op)
    raise LookupError(f"no cases of '{op.name}': give it some here")


ALL_CASES = [case for op in ops for case in cases(op)]

WITHOUT = () if multiplies_bfloat16() else (ops.bfloat16_matmul,)
"""What this CPU has no kernel for."""
