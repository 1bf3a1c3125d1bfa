"""Rules on tensors with a part put in: who reads the part takes what was put, who reads beside it what was there."""

from __future__ import annotations

from math import prod
from typing import Any

from tracejit.ir.node import Node, apply
from tracejit.ir.pattern import EXACT, Rule
from tracejit.ops.record import ops
from tracejit.passes.views import part_of_cat

DEPTH = 64
"""How many parts, one put over the other, are looked through: a loop's would be looked through again at each step."""

Ints = tuple[int, ...]
Dim = tuple[int, int, int]
"""Start, length and step of a region along one dimension."""


def _dims(start: Ints, shape: Ints, step: Ints) -> list[Dim]:
    return list(zip(start, shape, step, strict=True))


def _last(dim: Dim) -> int:
    start, length, step = dim
    return start + (length - 1) * step


def _steps(one: Dim, other: Dim) -> tuple[int, int]:
    """The steps of two regions; one of a single place has any, so that of the other one."""
    (_, n, t), (_, m, s) = one, other
    return (s if n == 1 else t), (t if m == 1 and n != 1 else s)


def _within(inner: Dim, outer: Dim) -> Dim | None:
    """One region as one of another, None where it is not wholly in it."""
    (b, n, _), (a, _, _) = inner, outer
    t, s = _steps(inner, outer)
    if b < a or _last(inner) > _last(outer) or (b - a) % s or t % s:
        return None
    return (b - a) // s, n, t // s


def _are_apart(one: Dim, other: Dim) -> bool:
    """Whether two regions have no place in common: they lie one behind the other, or between each other's places."""
    a, b = one[0], other[0]
    s, t = _steps(one, other)
    return _last(one) < b or _last(other) < a or (s == t and (a - b) % s != 0)


def _source(x: Node, start: Ints, shape: Ints, step: Ints) -> tuple[Node, Ints, Ints] | None:
    """Which tensor the elements of a region come from, with their start and step there; None if it is not one alone,
    or cannot be found soon.
    """
    if not prod(shape):
        return None
    for _ in range(DEPTH):
        if x.op is ops.place:
            under, part = x.args
            read, put = _dims(start, shape, step), _dims(x.attrs[0], part.shape, x.attrs[1])
            if not part.tensor.numel or any(map(_are_apart, read, put)):
                x = under
                continue
            inside = list(map(_within, read, put))
            if any(dim is None for dim in inside):
                return None
            x, start, step = part, tuple(d[0] for d in inside if d), tuple(d[2] for d in inside if d)
        elif x.op is ops.cat:
            found = part_of_cat(x.args, x.attrs[0], start, shape, step)
            if found is None:
                return None
            x, start = found
        else:
            return x, start, step
    return None


def _slice_of_place(out: Node) -> Node | None:
    """A slice of what was put, or of what lies beside it."""
    found = _source(out.args[0], out.attrs[0], out.shape, out.attrs[2])
    if found is None:
        return None
    x, start, step = found
    return x if x.shape == out.shape else apply(ops.slice, x, start=start, length=out.shape, step=step)


def _place_of_the_same(x: Node, src: Node, start: Ints, step: Ints) -> Node | None:
    """What is there already."""
    if x.op not in (ops.place, ops.cat) and src.op is not ops.slice:
        return None
    found = _source(x, start, src.shape, step)
    if found is None:
        return None
    if src.op is ops.slice and found[0] is src.args[0]:
        same = _dims(found[1], src.shape, found[2]) == _dims(src.attrs[0], src.shape, src.attrs[2])
        return x if same else None
    return x if found[0] is src else None


def _place_over_place(x: Node, v: Node, a: Ints, s: Ints, src: Node, b: Ints, t: Ints) -> Node | None:
    """What was put is put over."""
    if not v.tensor.numel or any(d is None for d in map(_within, _dims(a, v.shape, s), _dims(b, src.shape, t))):
        return None
    return apply(ops.place, x, src, start=b, step=t)


def _place_in_permuted(x: Node, dims: Ints, src: Node, a: Ints, s: Ints, back: Ints) -> Node | None:
    """A part is put in under another order of the dimensions, which then becomes the first again."""
    if any(dims[d] != k for k, d in enumerate(back)):
        return None
    turned = apply(ops.permute, src, dims=back)
    return apply(ops.place, x, turned, start=tuple(a[d] for d in back), step=tuple(s[d] for d in back))


def _place_over_all(out: Node) -> Node | None:
    """Parts that leave nothing of what lies under them, one behind the other along a dimension, are joined."""
    shape, node = out.shape, out
    apart = [d for d, size in enumerate(shape) if out.args[1].shape[d] != size]
    if len(apart) != 1:
        return None
    (dim,) = apart
    beside = (*shape[:dim], *shape[dim + 1 :])
    found: dict[int, Node] = {}
    left = shape[dim]
    for _ in range(DEPTH):
        if node.op is not ops.place:
            return None
        (under, part), (start, step) = node.args, node.attrs
        if (*part.shape[:dim], *part.shape[dim + 1 :]) != beside or any(k != 1 for k in step):
            return None
        found[start[dim]] = part
        left -= part.shape[dim]
        if left <= 0:
            break
        node = under
    if left:
        # Some are put over others, or there are too many of them.
        return None
    end = 0
    for start in sorted(found):
        if start != end:
            return None
        end += found[start].shape[dim]
    return apply(ops.cat, *[found[at] for at in sorted(found)], dim=dim) if end == shape[dim] else None


_INTO: dict[str, Any] = {"_x": (7, 9), "_y": (2, 3), "_a": (1, 0), "_s": (2, 3)}
_READ: tuple[dict[str, Any], ...] = (
    {"_b": (1, 0), "_t": (2, 3), "_l": (2, 3)},
    {"_b": (3, 3), "_t": (1, 3), "_l": (1, 2)},
    {"_b": (2, 0), "_t": (2, 1), "_l": (2, 9)},
    {"_b": (0, 7), "_t": (1, 1), "_l": (7, 2)},
    {"_b": (1, 5), "_t": (1, 1), "_l": (2, 1)},
    {"_b": (0, 0), "_t": (1, 1), "_l": (7, 1)},
)

RULES: tuple[Rule, ...] = (
    Rule(
        "slice of what a part was put into",
        EXACT,
        "slice(place(_x, _y, start=_a, step=_s), start=_b, length=_l, step=_t)",
        _slice_of_place,
        examples=tuple({**_INTO, **read} for read in _READ),
    ),
    Rule(
        "place over what was put",
        EXACT,
        "place(place(x, v, start=a, step=s), src, start=b, step=t)",
        _place_over_place,
        examples=(
            {"x": (7, 9), "v": (2, 3), "a": (1, 0), "s": (2, 3), "src": (2, 3), "b": (1, 0), "t": (2, 3)},
            {"x": (7, 9), "v": (2, 1), "a": (1, 3), "s": (4, 1), "src": (3, 9), "b": (1, 0), "t": (2, 1)},
            {"x": (7, 9), "v": (2, 1), "a": (1, 3), "s": (1, 1), "src": (3, 9), "b": (1, 0), "t": (2, 1)},
        ),
    ),
    Rule(
        "place of what is there",
        EXACT,
        "place(x, slice(x, start=_a, length=_l, step=_s), start=start, step=step) | "
        "place(place(x, src, start=_a, step=_s), src, start=start, step=step) | "
        "place(place(_x, _y, start=_a, step=_s), src, start=start, step=step) | "
        "place(cat(*xs, dim=_d), src, start=start, step=step)",
        lambda out, start, step: _place_of_the_same(out.args[0], out.args[1], start, step),
        examples=(
            {"x": (7, 9), "_a": (1, 0), "_s": (2, 3), "_l": (2, 3), "start": (1, 0), "step": (2, 3)}
            | {"src": (2, 3), "_x": (7, 9), "_y": (2, 3), "xs": ((3, 9), (4, 9)), "_d": 0},
        ),
    ),
    Rule(
        "place in another order",
        EXACT,
        "permute(place(permute(x, dims=dims), src, start=a, step=s), dims=back)",
        _place_in_permuted,
        examples=(
            {"x": (4, 5, 6), "dims": (2, 0, 1), "src": (2, 1, 2), "a": (1, 2, 0), "s": (3, 1, 2), "back": (1, 2, 0)},
        ),
    ),
    Rule(
        "place over all that is left",
        EXACT,
        "place(place(x, v, start=a, step=s), src, start=start, step=step)",
        _place_over_all,
        examples=(
            {"x": (2, 5), "v": (2, 2), "a": (0, 3), "s": (1, 1), "src": (2, 3), "start": (0, 0), "step": (1, 1)},
        ),
    ),
)
