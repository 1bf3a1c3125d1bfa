"""Attention and its gradients on a GPU, without the matrix of weights: a block has rows, and goes over columns.

Forward, a row's maximum grows from tile to tile, and what was summed up before is scaled down to it, so results are
near the CPU's, not equal to it. Backward, the gradients of queries, keys and values are kernels of their own, whose
blocks have rows or columns of scores; nobody adds to what another block adds to, so equal calls give equal bits. One
more before them sums up what each row of weights has in common.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tracejit.kernels.cuda.attention_tiles import (
    ACROSS,
    COLUMNS,
    SCOPES,
    STRIP,
    Source,
    Tiles,
    block_arguments,
    block_lines,
    lanes_of,
    source_arguments,
    source_lines,
)
from tracejit.kernels.cuda.launch import MOST, Arguments, GpuLaunch, indented, with_plain
from tracejit.kernels.cuda.product import FLOATS, TOGETHER, computed, number
from tracejit.kernels.launch import Operand, Ptr, Scratch

_SHORT = {"float16": "f16", "float32": "f32", "float64": "f64"}
_FLAGS, _ADDED = "flags", "added"
_MASK, _STATS, _NOTES = 4, 5, 6
"""Scopes of a mask, of rows' maxima and sums, and of what they have in common."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """An attention; `first` is the number of operand q."""

    q: Operand
    k: Operand
    v: Operand
    mask: Operand | None
    scale: float
    causal: bool
    first: int

    @property
    def short(self) -> str:
        return _SHORT[self.q.dtype]

    @property
    def wide(self) -> str:
        return computed(self.short)

    @property
    def length(self) -> int:
        return int(self.q.shape[2])

    @property
    def source(self) -> int:
        return int(self.k.shape[2])

    @property
    def heads(self) -> tuple[int, int]:
        return int(self.q.shape[0]), int(self.q.shape[1])

    @property
    def behind(self) -> int:
        """The number of the operand behind q, k, v and the mask."""
        return self.first + (3 if self.mask is None else 4)

    @property
    def kind(self) -> str:
        """How the mask acts."""
        return "" if self.mask is None else _FLAGS if self.mask.dtype == "bool" else _ADDED

    def arguments(self, vector: int) -> Arguments:
        """The operands."""
        arguments = Arguments()
        for k, (name, x) in enumerate((("q", self.q), ("k", self.k), ("v", self.v))):
            source_arguments(arguments, name, Ptr(self.first + k), x, vector)
        if self.mask is not None:
            arguments.add("mask", Ptr(self.first + 3))
            for name, step in zip(("batch", "head", "row", "column"), self.mask.strides, strict=True):
                arguments.add(f"mask_{name}", int(step))
        arguments.add_number("scale", self.scale, self.wide)
        arguments.add_all(causal=int(self.causal), width=int(self.q.shape[3]), depth=int(self.v.shape[3]))
        return arguments

    def begin(self, tiles: Tiles, *more: str) -> list[str]:
        """The first lines of a kernel."""
        lines = [*block_lines(tiles.rows), *tiles.begin(), *source_lines("q", "k", "v", *more)]
        if self.mask is not None:
            lines.append("mask_at = batch * mask_batch + inner * mask_head")
        return lines

    def act(self, i: int, j: int, query: str, key: str) -> list[str]:
        """Lines that make a product `s` a score: scaled, masked, lowest where nothing is to be seen."""
        score = f"s{i}_{j}"
        lowest = _lowest(self.wide)
        lines = [f"{score} = {score} * scale"]
        hidden = f"{query} >= q_end or {key} >= k_end or (causal != 0 and {key} > {query})"
        if self.kind:
            at = f"mask, mask_at + ({query}) * mask_row + ({key}) * mask_column, {_MASK}, {SCOPES}"
            seen = (
                [f"    if not load_b1_g({at}):", f"        {score} = {lowest}"]
                if self.kind == _FLAGS
                else [f"    {score} = {score} + load_{self.short}_g({at})"]
            )
            return [*lines, f"if {hidden}:", f"    {score} = {lowest}", "else:", *seen]
        return [*lines, f"if {hidden}:", f"    {score} = {lowest}"]

    def launch(self, what: str, arguments: Arguments, body: list[str], tiles: Tiles, blocks: int) -> GpuLaunch:
        """The launch of a kernel."""
        stem = f"cuda_{'masked_' if self.mask is not None else ''}attention{what}_{self.short}"
        return arguments.launch(stem, body, blocks, tiles.threads)


def _lowest(wide: str) -> str:
    return f"(-{number(wide, '1')} / {number(wide, '0')})"


def _checked(p: _Problem) -> _Problem:
    if p.q.dtype not in _SHORT or not p.q.dtype == p.k.dtype == p.v.dtype:
        raise NotImplementedError(f"attention: there is no GPU kernel for {p.q.dtype}, {p.k.dtype}, {p.v.dtype}")
    for x in (p.q, p.k, p.v):
        _check_rows(x)
    if max(p.length, p.source) * p.heads[0] * p.heads[1] >= MOST:
        raise NotImplementedError("attention: there are too many rows for a GPU kernel")
    return p


def _check_rows(x: Operand) -> None:
    if x.shape[-1] > 1 and x.strides[-1] != 1 and 0 not in x.shape:
        raise ValueError(f"attention: the rows of an operand must be contiguous, its strides are {x.strides}")


_Q, _K, _V, _CT = Source("q", 0, "width"), Source("k", 1, "width"), Source("v", 2, "depth"), Source("ct", 3, "depth")


def _each(line: Callable[[int, int], list[str]]) -> list[str]:
    return [text for i in range(TOGETHER) for j in range(TOGETHER) for text in line(i, j)]


def _row(i: int) -> str:
    return f"first + y * {TOGETHER} + {i}"


def _column(j: int) -> str:
    return f"column + x * {TOGETHER} + {j}"


def _forward(p: _Problem, vector: int) -> GpuLaunch:
    tiles, wide = Tiles(p.short, vector), p.wide
    arguments = p.arguments(vector)
    arguments.add_all(out=Ptr(p.behind), stats=Ptr(p.behind + 1))
    blocks = block_arguments(arguments, tiles.rows, p.length, p.heads, int(p.v.shape[3]))
    lowest, zero, one = _lowest(wide), number(wide, "0"), number(wide, "1")
    body = [*p.begin(tiles), *tiles.zeros("o", STRIP // ACROSS)]
    for i in range(TOGETHER):
        body += [f"top{i} = {lowest}", f"total{i} = {zero}"]
    turn = [
        "rolled()",
        *tiles.scores("s", _Q, _K, "first", "column"),
        *_each(lambda i, j: p.act(i, j, _row(i), _column(j))),
    ]
    for i in range(TOGETHER):
        # A NaN is not the greatest: it makes the sum one.
        turn.append(f"most = top{i}")
        turn += [f"most = s{i}_{j} if s{i}_{j} > most else most" for j in range(TOGETHER)]
        turn += tiles.in_row("most = other if other > most else most", "most")
        turn += [
            f"base = {zero} if most == {lowest} else most",
            f"factor = exp_{wide}(top{i} - base)",
            f"top{i} = most",
            *(f"s{i}_{j} = exp_{wide}(s{i}_{j} - base)" for j in range(TOGETHER)),
            f"total{i} = total{i} * factor + ((s{i}_0 + s{i}_1) + (s{i}_2 + s{i}_3))",
            *(f"o{i}_{j} = o{i}_{j} * factor" for j in range(STRIP // ACROSS)),
        ]
    turn += tiles.add_columns("o", "s", _V, "column")
    body += _all_columns(tiles, turn)
    for i in range(TOGETHER):
        body += [
            *tiles.in_row(f"total{i} = total{i} + other", f"total{i}"),
            f"share{i} = {one} / ({one} if total{i} == {zero} else total{i})",
            f"if strip == 0 and x == 0 and {_row(i)} < q_end:",
            f"    at = (head * q_end + {_row(i)}) * 2",
        ]
        if p.mask is not None:
            body.append(f"    top{i} = {zero} if top{i} == {lowest} else top{i}")
        body += [f"    store_{wide}_g(stats, at + {k}, {name}{i}, {_STATS}, {SCOPES})" for k, name in _NUMBERED]
    body += tiles.store("o", "out", 7, "q_end", "depth", "share")
    return p.launch("", arguments, body, tiles, blocks)


_NUMBERED = ((0, "top"), (1, "total"))


def _all_columns(tiles: Tiles, turn: list[str]) -> list[str]:
    """Lines that go over the keys that a block's rows may see."""
    return [
        "seen = k_end",
        "if causal != 0:",
        f"    seen = min(k_end, first + {tiles.rows})",
        f"for column in range(0, seen, {COLUMNS}):",
        *indented(turn),
    ]


def _stats(p: _Problem, name: str, row: str) -> list[str]:
    """Lines that load a row's maximum and the reciprocal of its sum."""
    zero, one = number(p.wide, "0"), number(p.wide, "1")
    return [
        f"top{name}, share{name} = {zero}, {one}",
        f"if {row} < q_end:",
        f"    at = (head * q_end + {row}) * 2",
        f"    top{name} = load_{p.wide}_g(stats, at, {_STATS}, {SCOPES})",
        f"    total = load_{p.wide}_g(stats, at + 1, {_STATS}, {SCOPES})",
        f"    share{name} = {one} / ({one} if total == {zero} else total)",
    ]


def _note(p: _Problem, name: str, row: str) -> list[str]:
    """Lines that load what a row of weights has in common."""
    return [
        f"note{name} = {number(p.wide, '0')}",
        f"if {row} < q_end:",
        f"    note{name} = load_{p.wide}_g(notes, head * q_end + {row}, {_NOTES}, {SCOPES})",
    ]


@dataclass(frozen=True, slots=True)
class _Back:
    """The gradients of an attention: `ct` is operand 0, results begin at operand `results`."""

    p: _Problem
    ct: Operand
    results: int

    @property
    def scratch(self) -> Scratch:
        """Room for a number of each row."""
        return Scratch(self.p.heads[0] * self.p.heads[1] * self.p.length * FLOATS[self.p.wide])

    def arguments(self, vector: int) -> Arguments:
        arguments = self.p.arguments(vector)
        source_arguments(arguments, "ct", Ptr(0), self.ct, vector, turned=True)
        arguments.add_all(stats=Ptr(self.p.behind), notes=self.scratch)
        return arguments

    def notes(self, vector: int) -> GpuLaunch:
        """The launch that sums up weights times their gradients, a row each."""
        p, tiles = self.p, Tiles(self.p.short, vector)
        arguments = self.arguments(vector)
        blocks = block_arguments(arguments, tiles.rows, p.length, p.heads, 1)
        body = p.begin(tiles, "ct")
        for i in range(TOGETHER):
            body += [*_stats(p, str(i), _row(i)), f"note{i} = {number(p.wide, '0')}"]
        turn = [
            "rolled()",
            *tiles.scores("s", _Q, _K, "first", "column"),
            *tiles.scores("g", _CT, _V, "first", "column"),
        ]
        turn += _each(
            lambda i, j: [
                *p.act(i, j, _row(i), _column(j)),
                f"note{i} = note{i} + exp_{p.wide}(s{i}_{j} - top{i}) * share{i} * g{i}_{j}",
            ]
        )
        body += _all_columns(tiles, turn)
        for i in range(TOGETHER):
            body += [
                *tiles.in_row(f"note{i} = note{i} + other", f"note{i}"),
                f"if x == 0 and {_row(i)} < q_end:",
                f"    store_{p.wide}_g(notes, head * q_end + {_row(i)}, note{i}, {_NOTES}, {SCOPES})",
            ]
        return p.launch("_grad_rows", arguments, body, tiles, blocks)

    def dq(self, vector: int) -> GpuLaunch:
        """The launch of the gradient of the queries: a block has rows of scores."""
        p, tiles = self.p, Tiles(self.p.short, vector)
        arguments = self.arguments(vector)
        arguments.add("dq", Ptr(self.results))
        blocks = block_arguments(arguments, tiles.rows, p.length, p.heads, int(p.q.shape[3]))
        body = [*p.begin(tiles, "ct"), *tiles.zeros("o", STRIP // ACROSS)]
        for i in range(TOGETHER):
            body += [*_stats(p, str(i), _row(i)), *_note(p, str(i), _row(i))]
        turn = [
            "rolled()",
            *tiles.scores("s", _Q, _K, "first", "column"),
            *tiles.scores("g", _CT, _V, "first", "column"),
            *_each(lambda i, j: [*p.act(i, j, _row(i), _column(j)), *_weight(p, i, j, i), *_step(i, j, i)]),
            *tiles.add_columns("o", "g", _K, "column"),
        ]
        body += _all_columns(tiles, turn)
        body += tiles.store("o", "dq", 7, "q_end", "width")
        return p.launch("_grad_q", arguments, body, tiles, blocks)

    def dk(self, vector: int) -> GpuLaunch:
        """The launch of the gradient of the keys: a block has columns of scores, which are its rows."""
        p, tiles = self.p, Tiles(self.p.short, vector)
        turn = [
            *tiles.scores("s", _K, _Q, "first", "column"),
            *tiles.scores("g", _V, _CT, "first", "column"),
        ]
        for j in range(TOGETHER):
            turn += [*_stats(p, str(j), _column(j)), *_note(p, str(j), _column(j))]
        turn += _each(lambda i, j: [*p.act(i, j, _column(j), _row(i)), *_weight(p, i, j, j), *_step(i, j, j)])
        turn += tiles.add_columns("o", "g", _Q, "column")
        return self._of_columns("k", "width", int(p.q.shape[3]), 1, turn, tiles)

    def dv(self, vector: int) -> GpuLaunch:
        """The launch of the gradient of the values, in the same way."""
        p, tiles = self.p, Tiles(self.p.short, vector)
        turn = tiles.scores("s", _K, _Q, "first", "column")
        for j in range(TOGETHER):
            turn += _stats(p, str(j), _column(j))
        turn += _each(lambda i, j: [*p.act(i, j, _column(j), _row(i)), *_weight(p, i, j, j)])
        turn += tiles.add_columns("o", "s", _CT, "column")
        return self._of_columns("v", "depth", int(p.v.shape[3]), 2, turn, tiles)

    def _of_columns(self, what: str, size: str, columns: int, result: int, turn: list[str], tiles: Tiles) -> GpuLaunch:
        p = self.p
        arguments = self.arguments(tiles.vector)
        arguments.add(f"d{what}", Ptr(self.results + result))
        blocks = block_arguments(arguments, tiles.rows, p.source, p.heads, columns)
        body = [
            *p.begin(tiles, "ct"),
            *tiles.zeros("o", STRIP // ACROSS),
            # Rows of scores before the first of the keys see none of them.
            "start = first if causal != 0 else 0",
            f"for column in range(start, q_end, {COLUMNS}):",
            *indented(["rolled()", *turn]),
            *tiles.store("o", f"d{what}", 7, "k_end", size),
        ]
        return p.launch(f"_grad_{what}", arguments, body, tiles, blocks)

    def launches(self) -> tuple[GpuLaunch, ...]:
        """All of them; the rows' numbers come first."""
        p = self.p
        if p.heads[0] * p.heads[1] == 0:
            return ()
        vector = lanes_of(p.q, p.k, p.v, self.ct)
        made = [self.notes, self.dq] if p.length else []
        made += [self.dk, self.dv] if p.source else []
        return tuple(with_plain(make(vector), partial(make, 1)) for make in made)


def _weight(p: _Problem, i: int, j: int, row: int) -> list[str]:
    """Lines that make a score a weight."""
    return [f"s{i}_{j} = exp_{p.wide}(s{i}_{j} - top{row}) * share{row}"]


def _step(i: int, j: int, row: int) -> list[str]:
    """Lines that make a weight's gradient the product's."""
    return [f"g{i}_{j} = s{i}_{j} * (g{i}_{j} - note{row}) * scale"]


def _attend(p: _Problem) -> tuple[GpuLaunch, ...]:
    _checked(p)
    if p.heads[0] * p.heads[1] * p.length == 0:
        return ()
    vector = lanes_of(p.q, p.k, p.v)
    return (with_plain(_forward(p, vector), lambda: _forward(p, 1)),)


def _attend_back(p: _Problem, ct: Operand, results: int) -> tuple[GpuLaunch, ...]:
    _check_rows(ct)
    return _Back(_checked(p), ct, results).launches()


def launch_attention(
    q: Operand, k: Operand, v: Operand, out: Operand, stats: Operand, scale: float, causal: bool
) -> tuple[GpuLaunch, ...]:
    """The launch of attention; shapes as for the CPU's. Operands: q, k, v, out, stats.

    DType: floating point; float16 is computed in float32.
    Raises: ValueError for an operand whose rows are not contiguous.
    """
    return _attend(_Problem(q, k, v, None, scale, causal, 0))


def launch_masked_attention(
    q: Operand, k: Operand, v: Operand, mask: Operand, out: Operand, stats: Operand, scale: float
) -> tuple[GpuLaunch, ...]:
    """The launch of attention with a mask, bool or of the type of q. Operands: q, k, v, mask, out, stats."""
    return _attend(_Problem(q, k, v, mask, scale, False, 0))


def launch_attention_grad(
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
) -> tuple[GpuLaunch, ...]:
    """The launches of the gradients of attention. Operands: ct, q, k, v, stats, dq, dk, dv."""
    return _attend_back(_Problem(q, k, v, None, scale, causal, 1), ct, 5)


def launch_masked_attention_grad(
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
) -> tuple[GpuLaunch, ...]:
    """The launches of the gradients of attention with a mask. Operands: ct, q, k, v, mask, stats, dq, dk, dv."""
    return _attend_back(_Problem(q, k, v, mask, scale, False, 1), ct, 6)
