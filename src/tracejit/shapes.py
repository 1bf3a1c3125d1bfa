"""Shape arithmetic with PyTorch's rules and error messages."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

Shape = tuple[int, ...]


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape that two shapes broadcast to.

    Raises: RuntimeError naming both sizes and the dimension if they do not fit.

    >>> broadcast((3, 1), (4,))
    (3, 4)
    """
    if a == b:
        return a
    if len(a) < len(b):
        longer, shorter = b, a
    else:
        longer, shorter = a, b
    out = list(longer)
    shift = len(longer) - len(shorter)
    for i, s in enumerate(shorter):
        t = longer[shift + i]
        if s != t:
            if t == 1:
                out[shift + i] = s
            elif s != 1:
                size_a, size_b = (t, s) if longer is a else (s, t)
                raise RuntimeError(
                    f"The size of tensor a ({size_a}) must match the size of tensor b ({size_b}) "
                    f"at non-singleton dimension {shift + i}"
                )
    return tuple(out)


def broadcast_all(shapes: Sequence[Shape]) -> Shape:
    """The shape that all shapes broadcast to."""
    out: Shape = ()
    for s in shapes:
        out = broadcast(out, s)
    return out


def check_expand(shape: Shape, to: Shape) -> Shape:
    """The full target of an expand, with -1 replaced by the size that is there.

    Raises: RuntimeError as PyTorch's `expand` does.
    """
    if len(to) < len(shape):
        raise RuntimeError(
            f"expand(tensor{list(shape)}, size={list(to)}): the number of sizes provided ({len(to)}) must be greater "
            f"or equal to the number of dimensions in the tensor ({len(shape)})"
        )
    lead = len(to) - len(shape)
    out = []
    for i, t in enumerate(to):
        s = shape[i - lead] if i >= lead else None
        if t == -1:
            if s is None:
                raise RuntimeError(
                    f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension {i}"
                )
            t = s
        elif s is not None and s not in (1, t):
            raise RuntimeError(
                f"The expanded size of the tensor ({t}) must match the existing size ({s}) at non-singleton "
                f"dimension {i}.  Target sizes: {list(to)}.  Tensor sizes: {list(shape)}"
            )
        out.append(t)
    return tuple(out)


def normalize_dim(dim: int, ndim: int) -> int:
    """A dimension counted from the front.

    Raises: IndexError if it does not exist.

    >>> normalize_dim(-1, 3)
    2
    """
    n = ndim if ndim > 0 else 1
    if not -n <= dim < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})")
    return dim + n if dim < 0 else dim


def normalize_dims(dims: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Sorted distinct dimensions; None or an empty sequence means all.

    Raises: IndexError for one that does not exist, RuntimeError for one given twice.
    """
    if dims is None:
        return tuple(range(ndim))
    if isinstance(dims, int):
        return (normalize_dim(dims, ndim),) if ndim else _check_scalar_dim(dims)
    if len(dims) == 0:
        return tuple(range(ndim))
    out = [normalize_dim(d, ndim) for d in dims]
    for d in out:
        if out.count(d) > 1:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
    return tuple(sorted(out)) if ndim else ()


def _check_scalar_dim(dim: int) -> tuple[int, ...]:
    normalize_dim(dim, 0)
    return ()


def infer_reshape(shape: Shape, to: Shape) -> Shape:
    """The target of a reshape with a single -1 resolved.

    Raises: RuntimeError if the numbers of elements differ.

    >>> infer_reshape((2, 6), (3, -1))
    (3, 4)
    """
    n = prod(shape)
    if -1 not in to:
        if prod(to) != n or any(t < 0 for t in to):
            raise RuntimeError(f"shape '{list(to)}' is invalid for input of size {n}")
        return tuple(to)
    if to.count(-1) > 1:
        raise RuntimeError("only one dimension can be inferred")
    known = -prod(to)
    if known == 0:
        if n == 0:
            raise RuntimeError(
                f"cannot reshape tensor of 0 elements into shape {list(to)} because the unspecified dimension size -1 "
                "can be any value and is ambiguous"
            )
        raise RuntimeError(f"shape '{list(to)}' is invalid for input of size {n}")
    if n % known or known < 0:
        raise RuntimeError(f"shape '{list(to)}' is invalid for input of size {n}")
    return tuple([n // known if t == -1 else t for t in to])


def contiguous_strides(shape: Shape) -> tuple[int, ...]:
    """Row-major strides in elements.

    >>> contiguous_strides((2, 3, 4))
    (12, 4, 1)
    """
    out = []
    step = 1
    for s in reversed(shape):
        out.append(step)
        step *= 1 if s < 1 else s
    return tuple(reversed(out))


def view_strides(shape: Shape, strides: Sequence[int], to: Shape) -> tuple[int, ...] | None:
    """Strides of the same memory seen with shape `to`, or None if no view of it exists; those of NumPy also where there
    is one element, as Python can ask for them.

    >>> view_strides((2, 3), (3, 1), (6,)), view_strides((4, 4), (1, 4), (4, 1, 4, 1))
    ((1,), (1, 16, 4, 4))
    >>> view_strides((2, 3), (1, 2), (6,)) is None
    True
    """
    if prod(shape) == 0:
        return contiguous_strides(to)
    if len(shape) == len(to) and all(n == m for n, m in zip(shape, to, strict=True)):
        return tuple(strides)
    # Merge the dimensions of `shape` that are adjacent in memory, then cut the merged runs into `to`.
    runs: list[list[int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = [runs[-1][0] * size, stride]
        else:
            runs.append([size, stride])
    out = [0] * len(to)
    i = len(to) - 1
    for size, stride in reversed(runs):
        step = stride
        left = size
        while left > 1:
            while i >= 0 and to[i] == 1:
                i -= 1
            if i < 0 or left % to[i]:
                return None
            out[i] = step
            step *= to[i]
            left //= to[i]
            i -= 1
    if any(n != 1 for n in to[: i + 1]):
        return None
    # Of one element: as if all that is behind was an element of it; where nothing is, the last step that there is.
    behind = next((step for n, step in zip(reversed(to), reversed(out), strict=True) if n != 1), 1)
    for i in reversed(range(len(to))):
        if to[i] == 1:
            out[i] = behind
        else:
            behind = out[i] * to[i]
    return tuple(out)


SHORT_RUN = 32
"""Elements of a row below which folding it leaves lanes empty."""


def reductions(shape: Sequence[int], dims: Sequence[int]) -> list[tuple[tuple[int, ...], int]]:
    """The reductions over one dimension each that go over several, in ascending order: the shape in which runs of
    adjacent ones are one, and the dimension that goes next.

    Innermost first; short rows come last, when fewer of them are left.

    >>> reductions((8, 3, 10, 10), (0, 2, 3))
    [((8, 3, 100), 2), ((8, 3), 0)]
    >>> reductions((8, 3, 2, 2), (0, 2, 3))
    [((8, 3, 2, 2), 0), ((3, 4), 1)]
    """
    runs: list[tuple[int, int]] = []
    for d in dims:
        if runs and runs[-1][1] == d:
            runs[-1] = runs[-1][0], d + 1
        else:
            runs.append((d, d + 1))
    is_short = len(runs) > 1 and runs[-1][1] == len(shape) and prod(shape[slice(*runs[-1])]) < SHORT_RUN
    steps = []
    left, gone = tuple(shape), 0
    for first, end in runs if is_short else reversed(runs):
        begin = first - gone
        left = (*left[:begin], prod(left[begin : end - gone]), *left[end - gone :])
        steps.append((left, begin))
        left = left[:begin] + left[begin + 1 :]
        gone += end - first if is_short else 0
    return steps
