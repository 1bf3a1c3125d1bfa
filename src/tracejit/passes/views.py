"""Rules on operations that only move elements: chains become one, and what moves nothing goes."""

from __future__ import annotations

from typing import Any

from tracejit import dtypes
from tracejit.ir.node import Node, apply
from tracejit.ir.pattern import EXACT, Rule
from tracejit.ops.record import ops

Ints = tuple[int, ...]


def _same_shape(x: Node, out: Node) -> Node | None:
    return x if x.shape == out.shape else None


def _compose(x: Node, a: Ints, b: Ints) -> Node:
    return apply(ops.permute, x, dims=tuple(a[d] for d in b))


def _without_ones(x: Node, dims: Ints, out: Node) -> Node | None:
    """A permutation that leaves the order of all dimensions longer than 1."""
    moved = [d for d in dims if x.shape[d] != 1]
    return apply(ops.reshape, x, shape=out.shape) if moved == sorted(moved) else None


def _slice_of_slice(x: Node, a: Ints, s: Ints, b: Ints, t: Ints, out: Node) -> Node:
    start = tuple(i + j * k for i, j, k in zip(a, b, s, strict=True))
    step = tuple(i * j for i, j in zip(s, t, strict=True))
    return apply(ops.slice, x, start=start, length=out.shape, step=step)


def _unslice_of_unslice(x: Node, a: Ints, s: Ints, b: Ints, t: Ints, out: Node) -> Node:
    start = tuple(j + i * k for i, j, k in zip(a, b, t, strict=True))
    step = tuple(i * j for i, j in zip(s, t, strict=True))
    return apply(ops.unslice, x, shape=out.shape, start=start, step=step)


def _slice_of_unslice(x: Node, a: Ints, s: Ints, b: Ints, t: Ints, out: Node) -> Node | None:
    return x if a == b and s == t and x.shape == out.shape else None


def _flip_longer(x: Node, dims: Ints) -> Node | None:
    longer = tuple(d for d in dims if x.shape[d] > 1)
    if longer == dims:
        return None
    return apply(ops.flip, x, dims=longer) if longer else x


def _flip_of_flip(x: Node, a: Ints, b: Ints) -> Node:
    dims = tuple(sorted(set(a) ^ set(b)))
    return apply(ops.flip, x, dims=dims) if dims else x


def _cat_of_few(xs: tuple[Node, ...], dim: int) -> Node | None:
    parts = [x for x in xs if x.shape[dim]] or [xs[0]]
    if len(parts) == 1:
        return parts[0]
    return apply(ops.cat, *parts, dim=dim) if len(parts) < len(xs) else None


def _plus_zero(x: Node, dim: int) -> list[Node]:
    """The parts along `dim` of x with 0 added to each element, which turns -0.0 into 0.0."""
    if x.op is ops.cat and x.attrs[0] == dim:
        return [grounded for part in x.args for grounded in _plus_zero(part, dim)]
    return [apply(ops.add, x, 0.0 if x.dtype.is_floating_point else 0)]


def _sum_of_neighbours(x: Node, y: Node, a: Ints, b: Ints, s: Ints, t: Ints, out: Node) -> Node | None:
    """Two tensors that are put side by side into zeros and added up are joined first: the gradient of `split`."""
    if any(k != 1 for k in (*s, *t)):
        return None
    apart = [d for d in range(len(a)) if a[d] != b[d] or x.shape[d] != y.shape[d]]
    if len(apart) != 1:
        return None
    dim = apart[0]
    first, second, start = (x, y, a) if a[dim] < b[dim] else (y, x, b)
    if start[dim] + first.shape[dim] != max(a[dim], b[dim]):
        return None
    joined = apply(ops.cat, *_plus_zero(first, dim), *_plus_zero(second, dim), dim=dim)
    return apply(ops.unslice, joined, shape=out.shape, start=start, step=s)


def part_of_cat(
    xs: tuple[Node, ...], dim: int, start: Ints, shape: Ints, step: Ints
) -> tuple[Node, Ints] | None:
    """The one of joined tensors that a region stays inside of, and the region's start there."""
    if shape[dim] == 0:
        return None
    first, last, at = start[dim], start[dim] + (shape[dim] - 1) * step[dim], 0
    for x in xs:
        if at <= first and last < at + x.shape[dim]:
            return x, (*start[:dim], first - at, *start[dim + 1 :])
        at += x.shape[dim]
    return None


def _slice_of_cat(xs: tuple[Node, ...], dim: int, start: Ints, step: Ints, out: Node) -> Node | None:
    """A slice that stays inside one of the joined tensors."""
    found = part_of_cat(xs, dim, start, out.shape, step)
    return None if found is None else apply(ops.slice, found[0], start=found[1], length=out.shape, step=step)


def _extreme_of_one(x: Node, dim: int, out: Node) -> Node | None:
    return apply(ops.reshape, x, shape=out.shape) if x.shape[dim] == 1 else None


_SLICE: dict[str, Any] = {"x": (7, 5), "a": (1, 0), "s": (2, 1), "_l": (3, 5), "b": (1, 1), "t": (1, 2), "l": (2, 2)}
_ONE: dict[str, Any] = {"v": 2.5, "_n": (1,), "d": dtypes.float32, "shape": (1,), "dims": (0,), "start": (0,)}
_ONE |= {"length": (1,), "step": (1,)}
_SHOWN: dict[str, Any] = {"diagonal": {"_n": (3, 3)}, "windows": {"_n": (4,), "dim": 0, "size": 2, "step": 1}}
_PLACED: dict[str, Any] = {"x": (2, 3), "a": (1, 0), "s": (1, 2), "_m": (4, 5), "n": (9, 5), "b": (1, 0), "t": (2, 1)}
_STEPS: dict[str, Any] = {"s": (1, 1), "t": (1, 1)}

RULES: tuple[Rule, ...] = (
    Rule(
        "reshape of reshape",
        EXACT,
        "reshape(reshape(x, shape=_a), shape=b)",
        "reshape(x, shape=b)",
        examples=({"x": (2, 6), "_a": (3, 4), "b": (12,)}, {"x": (0, 3), "_a": (0,), "b": (5, 0)}),
    ),
    Rule("reshape to the same shape", EXACT, "reshape(x, shape=_a)", _same_shape, examples=({"x": (2,), "_a": (2,)},)),
    Rule(
        "permute of permute",
        EXACT,
        "permute(permute(x, dims=a), dims=b)",
        _compose,
        examples=({"x": (2, 3, 4), "a": (2, 0, 1), "b": (0, 2, 1)},),
    ),
    Rule(
        "permute that keeps the order",
        EXACT,
        "permute(x, dims=dims)",
        _without_ones,
        examples=({"x": (2, 3), "dims": (0, 1)}, {"x": (2, 1, 3), "dims": (0, 2, 1)}, {"x": (), "dims": ()}),
    ),
    Rule(
        "expand of expand",
        EXACT,
        "expand(expand(x, shape=_a), shape=b)",
        "expand(x, shape=b)",
        examples=({"x": (3, 1), "_a": (3, 4), "b": (2, 3, 4)},),
    ),
    Rule("expand to the same shape", EXACT, "expand(x, shape=_a)", _same_shape, examples=({"x": (2,), "_a": (2,)},)),
    Rule(
        "slice of everything",
        EXACT,
        "slice(x, start=_s, length=_l, step=_t)",
        _same_shape,
        examples=({"x": (2, 3), "_s": (0, 0), "_l": (2, 3), "_t": (1, 1)},),
    ),
    Rule(
        "slice of slice",
        EXACT,
        "slice(slice(x, start=a, length=_l, step=s), start=b, length=l, step=t)",
        _slice_of_slice,
        examples=(_SLICE,),
    ),
    Rule("flip of one element", EXACT, "flip(x, dims=dims)", _flip_longer, examples=({"x": (1, 3), "dims": (0,)},)),
    Rule(
        "flip of flip",
        EXACT,
        "flip(flip(x, dims=a), dims=b)",
        _flip_of_flip,
        examples=({"x": (2, 3, 4), "a": (0, 1), "b": (1, 2)}, {"x": (2, 3), "a": (1,), "b": (1,)}),
    ),
    Rule(
        "unslice of everything",
        EXACT,
        "unslice(x, shape=_n, start=_s, step=_t)",
        _same_shape,
        examples=({"x": (2, 3), "_n": (2, 3), "_s": (0, 0), "_t": (1, 1)},),
    ),
    Rule(
        "unslice of unslice",
        EXACT,
        "unslice(unslice(x, shape=_m, start=a, step=s), shape=n, start=b, step=t)",
        _unslice_of_unslice,
        examples=(_PLACED,),
    ),
    Rule(
        "slice of what was put there",
        EXACT,
        "slice(unslice(x, shape=_m, start=a, step=s), start=b, length=_l, step=t)",
        _slice_of_unslice,
        examples=({"x": (2, 3), "_m": (5, 5), "a": (1, 0), "s": (2, 1), "b": (1, 0), "_l": (2, 3), "t": (2, 1)},),
    ),
    Rule(
        "place over everything",
        EXACT,
        "place(x, src, start=_s, step=_t)",
        lambda x, src: src if src.shape == x.shape else None,
        examples=({"x": (2, 3), "src": (2, 3), "_s": (0, 0), "_t": (1, 1)},),
    ),
    Rule(
        "cat of one",
        EXACT,
        "cat(*xs, dim=dim)",
        _cat_of_few,
        examples=({"xs": ((2, 3),), "dim": 1}, {"xs": ((2, 0), (2, 3), (2, 1), (2, 0)), "dim": 1}),
    ),
    Rule(
        "sum of neighbours among zeros",
        EXACT,
        "add(unslice(x, shape=_n, start=a, step=s), unslice(y, shape=_m, start=b, step=t))",
        _sum_of_neighbours,
        kinds="f",
        examples=(
            {"x": (2, 3), "y": (2, 2), "_n": (4, 9), "_m": (4, 9), "a": (1, 4), "b": (1, 2), **_STEPS},
            {"x": (2, 3), "y": (1, 3), "_n": (4, 3), "_m": (4, 3), "a": (0, 0), "b": (2, 0), **_STEPS},
        ),
    ),
    Rule(
        "slice of cat",
        EXACT,
        "slice(cat(*xs, dim=dim), start=start, length=_l, step=step)",
        _slice_of_cat,
        examples=({"xs": ((2, 3), (2, 4)), "dim": 1, "start": (0, 4), "_l": (2, 2), "step": (1, 2)},),
    ),
    *(
        Rule(
            f"{op.name} over one element",
            EXACT,
            f"{op.name}(x, dim=dim)",
            _extreme_of_one,
            examples=({"x": (2, 1, 3), "dim": 1},),
        )
        for op in (ops.amax, ops.amin)
    ),
    *(
        Rule(
            f"{op.name} of full",
            EXACT,
            f"{op.name}(full(v, shape=_n, dtype=d))",
            lambda v, d, out: apply(ops.full, v, shape=out.shape, dtype=d),
            examples=({**_ONE, **_SHOWN.get(op.name, {})},),
        )
        for op in ops.family("view")
        if op.plain is None and len(op.params) == 1
    ),
)
