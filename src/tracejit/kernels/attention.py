"""The plans of attention and of its gradients: how operands are packed, and how many rows of scores are there at once.

Nothing that is chosen here changes a bit, but for one thing: where `causal` leaves out keys of a whole block of rows,
infinite values among them do not reach the result. So a block's height depends on sizes alone, not on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracejit.kernels import attention_kernels as kernels
from tracejit.kernels.attention_rows import ADDED, FLAGS, NO_MASK
from tracejit.kernels.attention_units import BACKWARD, FORWARD, LYING, PACK, PANELS
from tracejit.kernels.fold import LANES
from tracejit.kernels.gemm import panel_columns
from tracejit.kernels.gemm_kernels import BLOCK_BYTES
from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.kernels.vectors import LINE_BYTES, TARGET

_SIZES = {"float32": 4, "float64": 8}
_PACK: dict[str, Callable[..., Any]] = {"float32": kernels.attention_pack_f32, "float64": kernels.attention_pack_f64}
_FORWARD: dict[tuple[str, bool], Callable[..., Any]] = {
    ("float32", False): kernels.attention_f32,
    ("float64", False): kernels.attention_f64,
    ("float32", True): kernels.attention_masked_f32,
    ("float64", True): kernels.attention_masked_f64,
}
_BACKWARD: dict[tuple[str, bool], Callable[..., Any]] = {
    ("float32", False): kernels.attention_grad_f32,
    ("float64", False): kernels.attention_grad_f64,
    ("float32", True): kernels.attention_grad_masked_f32,
    ("float64", True): kernels.attention_grad_masked_f64,
}
_HEIGHTS = (48, 36, 24, 12, 6, 4, 3, 2, 1)
"""Rows of scores that may be there at once: most of them are whole tiles on every CPU."""
_CAUSAL_HEIGHT = 24
"""The most of them if what is hidden from a whole block is left out."""
_PAGE_BYTES = 4096
_IN_PLACE_ROWS = 128
"""The most rows of a head that are read where they lie, unless they are a page apart and compete for places."""
_CHUNK = 256
"""Rows of an operand that one unit packs."""
_RUN_BYTES = 1024
"""Bytes of a row of weights that are gone through at once, so that those of a block stay in the first cache."""
_PASS_BYTES = 16 << 10
"""Bytes of the rows that a pass goes over before the next one does: enough to hide what a row waits for at its end."""
_BYTES_PER_NANOSECOND = 4.0 * TARGET.vector_bytes
"""Bytes of products a core gets through in a nanosecond, roughly."""
_TURNING_COST, _COPYING_COST = 24.0, 6.0
"""How many times as long as its products a byte takes to be packed, turned or as it lies, roughly."""
_WEIGHT_COST = 0.8
"""Nanoseconds that a weight costs beside its products, roughly."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """The sizes of one attention: `width` of queries and keys, `depth` of values."""

    dtype: str
    batch: int
    heads: int
    length: int
    source: int
    width: int
    depth: int
    causal: bool
    scale: float
    masked: bool

    @property
    def size(self) -> int:
        return _SIZES[self.dtype]

    @property
    def pitch(self) -> int:
        """Elements between rows of scores: whole groups of lanes, and a line more, so that rows do not compete."""
        return -(-self.source // LANES) * LANES + LINE_BYTES // self.size

    def height(self, blocks: int) -> int:
        """Rows of scores that are there at once if there are `blocks` blocks of them.

        Raises: NotImplementedError if there are too many keys for one row.
        """
        most = BLOCK_BYTES // (blocks * self.pitch * self.size)
        if self.causal:
            most = min(most, _CAUSAL_HEIGHT)
        for height in _HEIGHTS:
            if height <= most:
                return height
        raise NotImplementedError(f"attention: there is no kernel for {self.source} keys")

    def cost(self, products: int) -> float:
        """Nanoseconds of a row of scores with as many products of about `width` and `depth`."""
        seen = self.source / 2 if self.causal else self.source
        work = products * (self.width + self.depth) * self.size / 2 / _BYTES_PER_NANOSECOND
        return seen * (work + _WEIGHT_COST)


class _Packing:
    """Operands in panels: where each begins, and launches that put those that are packed into scratch memory."""

    def __init__(self, problem: _Problem) -> None:
        self.problem = problem
        self.space = 0
        self._wanted: list[tuple[int, Operand, tuple[int, int, int], int, int]] = []
        self._straight: dict[str, tuple[int, int]] = {}
        self._in_place: dict[str, tuple[Any, ...]] = {}

    def turn(self, index: int, x: Operand, dims: tuple[int, int, int]) -> int:
        """Packs operand `index` turned, whose heads, rows and elements are in `dims` of its last three dimensions."""
        return self._pack(index, x, dims, turned=True)

    def read(self, name: str, index: int, x: Operand, dims: tuple[int, int, int]) -> None:
        """Has an operand read by panels of its columns: in place if heads are short, else packed."""
        row = x.strides[1 + dims[1]]
        if x.shape[1 + dims[1]] <= _IN_PLACE_ROWS and row * self.problem.size % _PAGE_BYTES:
            self._in_place[name] = (Ptr(index), 0, x.strides[0], x.strides[1 + dims[0]], row, 1)
        else:
            self._straight[name] = self._pack(index, x, dims, turned=False), x.shape[1 + dims[1]]

    def _pack(self, index: int, x: Operand, dims: tuple[int, int, int], *, turned: bool) -> int:
        rows, width = x.shape[1 + dims[1]], x.shape[1 + dims[2]]
        several, each = (rows, width) if turned else (width, rows)
        columns, start = panel_columns(self.problem.dtype), self.space
        self.space += -(-several // columns) * columns * each
        self._wanted.append((index, x, dims, start if turned else -1, -1 if turned else start))
        return start

    @property
    def words(self) -> dict[str, Any]:
        """The slots that say where the panels are."""
        p, found = self.problem, {"scratch": self.scratch, "space": self.space}
        packed = {
            name: (self.scratch, start, p.heads * self.space, self.space, panel_columns(p.dtype), rows)
            for name, (start, rows) in self._straight.items()
        }
        for name, words in (self._in_place | packed).items():
            found |= {f"{name}_{word}": value for word, value in zip(PANELS, words, strict=True)}
            found[f"{name}_straight"] = self._straight.get(name, (-1, 0))[0]
        return found

    @property
    def scratch(self) -> Scratch:
        p = self.problem
        return Scratch(p.batch * p.heads * self.space * p.size)

    def launches(self, last: Launch) -> tuple[Launch, ...]:
        """Those that pack, then the `last`, which reads what they packed; each batch is for itself in all of them."""
        p = self.problem
        made = []
        for index, x, dims, turned, straight in self._wanted:
            rows, width = x.shape[1 + dims[1]], x.shape[1 + dims[2]]
            words: dict[str, Any] = {
                "operand": Ptr(index),
                "scratch": self.scratch,
                "heads": p.heads,
                "batch_step": x.strides[0],
                "head_step": x.strides[1 + dims[0]],
                "row_step": x.strides[1 + dims[1]],
                "rows": rows,
                "width": width,
                "chunk": _CHUNK,
                "space": self.space,
                "turned": turned,
                "straight": straight,
            }
            units = p.batch * p.heads * -(-rows // _CHUNK)
            slowness = _TURNING_COST if turned >= 0 else _COPYING_COST
            cost = min(rows, _CHUNK) * width * p.size / _BYTES_PER_NANOSECOND * slowness
            slots = tuple(words[name] for name in PACK)
            made.append(Launch(_PACK[p.dtype], slots, units, cost, parts=last.parts, along=last.along))
        return (*made, last)


_BY_HEAD, _BY_ROW = (0, 1, 2), (1, 0, 2)
"""Where heads, rows and elements of an operand are among its last three dimensions."""


def plan_attention(
    q: Operand, k: Operand, v: Operand, out: Operand, stats: Operand, scale: float, causal: bool
) -> tuple[Launch, ...]:
    """The launches of attention; Ptr 0 to 4 are the operands and results in this order.

    Shape: q (b, h, l, e), k (b, h, s, e), v (b, h, s, d); out (b, l, h, d), stats (b, h, l, 2). The elements of a row
        of q, k and v are contiguous, other strides may be any.
    DType: float32 or float64, the same for all.
    Edge: without keys the result is 0.
    Raises: ValueError for strides or shapes that do not fit, NotImplementedError for other dtypes, or more keys than a
        row of scores has room for (65,520 of float32).
    Cost: at most 256 KiB of workspace; scratch memory like k, and like v if heads are long.

    >>> q = Operand("float32", (1, 1, 8, 4), (32, 32, 4, 1))
    >>> out, stats = Operand("float32", (1, 8, 1, 4), (32, 4, 4, 1)), Operand("float32", (1, 1, 8, 2), (16, 16, 2, 1))
    >>> [launch.function.__name__ for launch in plan_attention(q, q, q, out, stats, 0.5, True)]
    ['attention_pack_f32', 'attention_f32']
    """
    return _plan_forward(_checked(q, k, v, None, scale, causal), q, k, v, None)


def plan_masked_attention(
    q: Operand, k: Operand, v: Operand, mask: Operand, out: Operand, stats: Operand, scale: float
) -> tuple[Launch, ...]:
    """The launches of attention with a mask (b, h, l, s): bool, or of the type of q; see `plan_attention`."""
    return _plan_forward(_checked(q, k, v, mask, scale, False), q, k, v, mask)


def plan_attention_grad(
    ct: Operand,
    q: Operand,
    k: Operand,
    v: Operand,
    stats: Operand,
    dq: Operand,
    dk: Operand,
    dv: Operand,
    scale: float,
    causal: bool,
) -> tuple[Launch, ...]:
    """The launches of the gradients of attention, from the cotangent ct of its result.

    Shape: ct (b, l, h, d), whose rows are contiguous; dq (b, l, h, e), dk (b, s, h, e), dv (b, s, h, d).
    Cost: scratch memory like k and v; like the operands, and k again, if heads are long.
    """
    return _plan_backward(_checked(q, k, v, None, scale, causal), ct, q, k, v, None)


def plan_masked_attention_grad(
    ct: Operand,
    q: Operand,
    k: Operand,
    v: Operand,
    mask: Operand,
    stats: Operand,
    dq: Operand,
    dk: Operand,
    dv: Operand,
    scale: float,
) -> tuple[Launch, ...]:
    """The launches of the gradients of attention with a mask; see `plan_attention_grad`."""
    return _plan_backward(_checked(q, k, v, mask, scale, False), ct, q, k, v, mask)


def _checked(q: Operand, k: Operand, v: Operand, mask: Operand | None, scale: float, causal: bool) -> _Problem:
    if not q.dtype == k.dtype == v.dtype or (mask is not None and mask.dtype not in ("bool", q.dtype)):
        raise ValueError(f"attention: the dtypes differ: {q.dtype}, {k.dtype}, {v.dtype}")
    if q.dtype not in _SIZES:
        raise NotImplementedError(f"attention: there is no kernel for {q.dtype}")
    batch, heads, length, width = q.shape
    source, depth = v.shape[2:]
    if k.shape != (batch, heads, source, width) or v.shape[:2] != (batch, heads):
        raise ValueError(f"attention: the shapes do not fit: {q.shape}, {k.shape}, {v.shape}")
    if mask is not None and mask.shape != (batch, heads, length, source):
        raise ValueError(f"attention: a mask of shape {mask.shape} does not fit {(batch, heads, length, source)}")
    for x in (q, k, v, *(() if mask is None else (mask,))):
        _check_rows(x)
    return _Problem(q.dtype, batch, heads, length, source, width, depth, causal, scale, mask is not None)


def _check_rows(x: Operand) -> None:
    if x.shape[-1] > 1 and x.strides[-1] != 1 and 0 not in x.shape:
        raise ValueError(f"attention: the rows of an operand must be contiguous, its strides are {x.strides}")


def _words(p: _Problem, q: Operand, mask: Operand | None, mask_index: int, blocks: int) -> dict[str, Any]:
    """The slots that forward and backward share, but for addresses."""
    steps = (0, 0, 0, 0) if mask is None else mask.strides
    return {
        "mask": 0 if mask is None else Ptr(mask_index),
        "kind": NO_MASK if mask is None else FLAGS if mask.dtype == "bool" else ADDED,
        "heads": p.heads,
        "length": p.length,
        "source": p.source,
        "width": p.width,
        "depth": p.depth,
        "causal": int(p.causal),
        "scale": float(p.scale),
        **dict(zip(("q_batch", "q_head", "q_row"), q.strides, strict=False)),
        **dict(zip(("mask_batch", "mask_head", "mask_row"), steps, strict=False)),
        "height": p.height(blocks),
        "pitch": p.pitch,
        "run": _RUN_BYTES // p.size,
        "together": max(1, _PASS_BYTES // (blocks * p.pitch * p.size)),
    }


def _plan_forward(p: _Problem, q: Operand, k: Operand, v: Operand, mask: Operand | None) -> tuple[Launch, ...]:
    words = _words(p, q, mask, 3, 1)
    if p.batch * p.heads * p.length == 0:
        return ()
    packing = _Packing(p)
    words["k_turned"] = packing.turn(1, k, _BY_HEAD)
    packing.read("v", 2, v, _BY_HEAD)
    last = 3 if mask is None else 4
    words |= {"q": Ptr(0), "out": Ptr(last), "stats": Ptr(last + 1), **packing.words}
    height = words["height"]
    units = p.batch * p.heads * -(-p.length // height)
    slots = tuple(words[name] for name in FORWARD)
    cost = p.cost(2) * min(height, p.length)
    along = tuple(range(last + 2))
    return packing.launches(Launch(_FORWARD[p.dtype, p.masked], slots, units, cost, parts=p.batch, along=along))


def _plan_backward(
    p: _Problem, ct: Operand, q: Operand, k: Operand, v: Operand, mask: Operand | None
) -> tuple[Launch, ...]:
    if ct.shape != (p.batch, p.length, p.heads, p.depth) or ct.dtype != p.dtype:
        raise ValueError(f"attention: a gradient of shape {ct.shape} does not fit")
    _check_rows(ct)
    words = _words(p, q, mask, 4, 2)
    if p.batch * p.heads == 0:
        return ()
    packing = _Packing(p)
    words["k_turned"] = packing.turn(2, k, _BY_HEAD)
    words["v_turned"] = packing.turn(3, v, _BY_HEAD)
    for name, index, x, dims in (("k", 2, k, _BY_HEAD), ("q", 1, q, _BY_HEAD), ("ct", 0, ct, _BY_ROW)):
        packing.read(name, index, x, dims)
    last = 4 if mask is None else 5
    words |= {name: Ptr(index) for name, index in (("ct", 0), ("q", 1), ("k", 2), ("v", 3), ("stats", last))}
    words |= {name: Ptr(last + 1 + index) for index, name in enumerate(("dq", "dk", "dv"))}
    for name, x, dims in (("ct", ct, _BY_ROW), ("k", k, _BY_HEAD), ("v", v, _BY_HEAD)):
        steps = x.strides[0], x.strides[1 + dims[0]], x.strides[1 + dims[1]]
        words |= {f"{name}_{word}": step for word, step in zip(LYING, steps, strict=True)}
    words |= packing.words
    units = p.batch * p.heads
    slots = tuple(words[name] for name in BACKWARD)
    cost = p.cost(5) * p.length
    along = tuple(range(last + 4))
    return (Launch(_BACKWARD[p.dtype, p.masked], slots, units, cost, parts=p.batch, along=along),)
